package enclave

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// A naive keeper renews as people write it. It kills with the best of kills, asks the
// same agent and checks every signature; but it takes whatever its issuer has signed,
// counts from when that is in hand, asks and waits in one loop, and takes silence for a
// passing fault. It is the twin of every test of a renewal that goes wrong: where it
// ended the work in time, that test would show nothing.
type naive struct {
	agent *fakeAgent
	group *group
	trust *trust
	ends  atomic.Int64 // Instant
}

// naively starts a tree under a naive keeper.
func naively(t *testing.T, a *fakeAgent) (*naive, *execution) {
	t.Helper()
	pinned, err := loadTrust(a.trust)
	if err != nil {
		t.Fatal(err)
	}
	n := &naive{agent: a, group: grouped(t), trust: pinned}
	e := tree(t, n.group, 6, "sleep")
	n.ends.Store(int64(Now().Add(a.life)))
	n.start(t)
	return n, e
}

// start holds the work until the test is over, or what it returns is called.
func (n *naive) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.hold(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() { cancel(); <-done }
}

func (n *naive) hold(ctx context.Context) {
	for Now() < Instant(n.ends.Load()) {
		req := request{Audience: audience, Execution: "naive", Level: "E3", R: newGrant(Place{}).R, ID: newID()}
		a, err := agent{n.agent.socket}.lease(ctx, req, "")
		switch {
		case ctx.Err() != nil:
			return
		case err != nil || a.status >= 500:
			n.ends.Store(int64(Now().Add(n.agent.life))) // it is only away, and was content a moment ago
		case a.status == 200 && n.signed(a.Token):
			n.ends.Store(int64(Now().Add(n.agent.life)))
		}
		if !sleep(ctx, n.agent.life/6, nil) {
			return
		}
	}
	n.group.killAll()
}

// signed checks a token for all but what binds it to one request.
func (n *naive) signed(tok string) bool {
	var claims struct {
		Nonce string `json:"eat_nonce"`
	}
	if parts := strings.Split(tok, "."); len(parts) == 3 {
		b, _ := base64.RawURLEncoding.DecodeString(parts[1])
		_ = json.Unmarshal(b, &claims)
	}
	_, err := token.Verify(tok, n.trust.book.Keys(time.Now()), token.Expect{Issuer: testIssuer, Domain: testDomain, Audience: audience, Nonce: claims.Nonce}, time.Now())
	return err == nil
}

// runsOn asserts that the work outlives a moment at which a keeper's is dead.
func (e *execution) runsOn(after Instant) {
	e.t.Helper()
	sleepPast(after.Add(late))
	e.lives("after it had to be dead, under a naive keeper")
}

// Its work ends where nothing goes wrong but that the verifier says no, so that what
// the twins show is their attack.
func TestNaiveKeeperStopsWhenDenied(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	_, e := naively(t, a)
	a.answers(func(request) (int, any) { return 403, map[string]string{"title": "denied"} })
	e.dies(Now().Add(2 * a.life))
}

// Twin of TestVerifierUnreachableForGood and TestRenewalLost: silence is no yes.
func TestNaiveRenewalLost(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	_, e := naively(t, a)
	a.answers(unavailable)
	e.runsOn(Now().Add(2 * a.life))
}

// Twin of TestRenewalLate: who waits for an answer does not look at the clock.
func TestNaiveRenewalLate(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	n, e := naively(t, a)
	asked := make(chan Instant, 64)
	a.answers(func(req request) (int, any) {
		ends := Instant(n.ends.Load())
		asked <- ends
		sleepPast(ends.Add(time.Second))
		return 200, map[string]string{"token": a.issue(req)}
	})
	e.runsOn((<-asked).Add(500 * time.Millisecond))
	e.runsOn((<-asked).Add(500 * time.Millisecond)) // and the late answer has revived it
}

// Twin of TestRenewalOlderThanTheLease: a token says how long it lives and not from when.
func TestNaiveRenewalOlderThanTheLease(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 4*time.Second)
	old := make(chan Instant, 1)
	var kept string
	a.answers(func(req request) (int, any) {
		if kept == "" {
			kept = a.issue(req)
			old <- Now().Add(a.life) // no token given is valid for longer than this
		}
		return 200, map[string]string{"token": kept}
	})
	_, e := naively(t, a)
	e.runsOn(<-old)
}

// Twin of TestRevocationDuringRenewal: the later word counts, and that is the renewal.
func TestNaiveRevocationDuringRenewal(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	n, e := naively(t, a)
	asked, answer := make(chan struct{}), make(chan struct{})
	a.answers(func(req request) (int, any) {
		select {
		case asked <- struct{}{}:
			<-answer
		default: // only the first is raced
		}
		return 200, map[string]string{"token": a.issue(req)}
	})
	<-asked
	n.ends.Store(1)
	close(answer)
	e.runsOn(Now().Add(500 * time.Millisecond))
}

// Twin of TestTokenFromBeforeAReset: a signature does not tell one boot from another.
func TestNaiveTokenFromBeforeAReset(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	_, e := naively(t, a)
	a.set(func() { a.boot-- })
	e.runsOn(Now().Add(2 * a.life))
}

// Twin of TestSameLeaseOnTwoMachines: whoever has the token runs.
func TestNaiveSameLeaseOnTwoMachines(t *testing.T) {
	t.Parallel()
	first, second := newAgent(t, 2*time.Second), newAgent(t, 2*time.Second)
	second.trust = first.trust
	second.answers(func(req request) (int, any) {
		req.Execution, req.R = "on the first machine", strings.Repeat("A", 43)
		var tok string
		first.set(func() { tok = first.issue(req) })
		return 200, map[string]string{"token": tok}
	})
	_, e := naively(t, second)
	e.runsOn(Now().Add(2 * second.life))
}

// Twin of TestAgentUpgradedMidLease: an agent that holds the kill switch takes it along,
// and the next one knows of no deadline but the one it makes up.
func TestNaiveAgentUpgradedMidLease(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	n, e := naively(t, a)
	a.answers(unavailable)
	n.ends.Store(int64(Now().Add(a.life)))
	deadline := Instant(n.ends.Load())
	next := &naive{agent: a, group: n.group, trust: n.trust}
	next.ends.Store(int64(Now().Add(a.life)))
	next.start(t)
	e.runsOn(deadline.Add(a.life))
}
