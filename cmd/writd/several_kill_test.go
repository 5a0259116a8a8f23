package main

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/client"
)

// TestVerifiersKilledInTurn kills one verifier and then the other of a domain, again and
// again, while nodes attest at whichever answers. The other one goes on meanwhile: what
// the dead one gave counts there, a request that it may have answered gets the same
// answer, and everything that either acknowledged stands in the one history.
func TestVerifiersKilledInTurn(t *testing.T) {
	t.Parallel()
	a, b, d := pairOn(t, fixedPort(t), fixedPort(t), "token_life = \""+killLife.String()+"\"\n")
	idle := d.machine("a-direct")
	d.learn(idle)
	trust, err := idle.http.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := func(n *node, r *replica) *client.Client {
		t.Helper()
		c, err := client.New(client.Config{URL: r.url, CA: n.http.CA(), Domain: "joined.invalid"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	l := &load{domain: "joined.invalid", trust: trust}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	for i := range 3 {
		n := d.machine("a-direct")
		n.more = []*client.Client{at(n, b)}
		if i%2 == 1 {
			n.turn()
		}
		workers.Go(func() {
			if err := l.work(ctx, n); err != nil {
				t.Error(err)
			}
		})
	}
	answers := func(what string) {
		t.Helper()
		for before, end := l.answered.Load(), time.Now().Add(2*time.Minute); l.answered.Load() < before+6 && !t.Failed(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: nobody gets tokens any more", what)
			}
		}
	}
	operator := filepath.Join(a.data, "operator.pem")
	for round := range kills(t) / 10 {
		dead, alive := a, b
		if round%2 == 1 {
			dead, alive = b, a
		}
		idle.http = at(idle, dead)
		out, err := idle.attest(t.Context())
		if err != nil {
			t.Fatalf("round %d, at verifier %s: %v", round, dead.name, err)
		}
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		dead.end(syscall.SIGKILL)
		if said, err := operatorClient(t, alive.url, operator).Introspect(t.Context(), out.Token); err != nil || !said.Active {
			t.Errorf("round %d: a token that %s gave before it was killed: %+v, %v", round, dead.name, said, err)
		}
		answers("with one verifier dead")
		dead.serve()
		answers("with both")
	}
	cancel()
	workers.Wait()
	idle.http = at(idle, a)
	if _, err := idle.attest(t.Context()); err != nil { // on top of all that b has committed, so a shows it
		t.Fatal(err)
	}
	l.check(t, d)
	t.Logf("%d grants, %d of them after an unknown outcome", len(l.grants), l.lost.Load())
	for _, r := range []*replica{a, b} {
		r.end(syscall.SIGTERM)
		if out := r.run("fsck"); !strings.HasSuffix(out, "clean") {
			t.Errorf("fsck of verifier %s: %s", r.name, out)
		}
	}
}
