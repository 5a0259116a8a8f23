package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

func subjectOf(domain, name string) string { return bundle.Subject(domain, name) }

func stopOf(exec string) bundle.Stop {
	return bundle.Stop{Exec: exec, Cause: "keeper-killed", Level: "E3"}
}

// listener follows a node's events in the background.
type listener struct {
	heard chan string
	ended chan error
}

func (d *domain) listener(c *client.Client, n *node, base string) *listener {
	d.t.Helper()
	l := &listener{make(chan string, 8), make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.ended <- c.Events(ctx, base, n.key, n.id, func(_, e string) { l.heard <- e }) })
	d.t.Cleanup(func() { cancel(); wg.Wait() })
	return l
}

// open waits until n streams are open.
func (d *domain) open(n string) {
	d.t.Helper()
	for range 200 {
		if m := d.ask(http.DefaultClient, http.MethodGet, d.admin+"/metrics", "", nil); strings.Contains(string(m.body), "\nwrit_event_streams "+n+"\n") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	d.t.Fatalf("there never were %s streams", n)
}

func wait[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited for %s for 20 s", what)
		panic("unreachable")
	}
}

// verified checks an event and that it ends a token.
func (d *domain) verified(event, base string) *token.Event {
	d.t.Helper()
	e, err := token.VerifyEvent(event, d.svc.TokenKeys(), token.Expect{Issuer: d.svc.Issuer(), Domain: d.name, Audience: d.svc.EnclaveAudience()}, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	if !e.Ends(d.claims(base)) {
		d.t.Fatalf("the event %+v does not end the token", e)
	}
	return e
}

// TestFeed: a relying party hears what ends anybody's tokens, also what was said
// before it came, and since when that is everything.
func TestFeed(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	began := time.Now()
	n, _, base := d.working()
	party := d.as(keys.Operator{Name: "gate", Roles: []keys.Role{keys.RelyingParty}})
	follow := func() <-chan [2]string {
		heard := make(chan [2]string, 16)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = party.Feed(ctx, func() {}, func(kind, data string) { heard <- [2]string{kind, data} }) })
		t.Cleanup(func() { cancel(); wg.Wait() })
		return heard
	}
	early := follow()
	want := token.Expect{Issuer: d.svc.Issuer(), Domain: d.name, Audience: d.svc.EnclaveAudience()}
	epoch, err := token.VerifyEvent(wait(t, "the epoch", early)[1], d.svc.TokenKeys(), want, time.Now())
	if err != nil || epoch.Ends(d.claims(base)) {
		t.Fatalf("the epoch at the start: %+v, %v", epoch, err)
	}
	if e := wait(t, "since", early); e[0] != "since" || e[1] > strconv.FormatInt(began.Unix()+1, 10) {
		t.Fatalf("after the past came %v", e)
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	d.verified(wait(t, "the suspension", early)[1], base)
	if _, err := d.first.Freeze(t.Context(), protocol.GovernanceChange{Frozen: true, Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	if e := d.verified(wait(t, "the freeze", early)[1], base); e.Subject != "spiffe://"+d.name || e.Cause != "frozen" {
		t.Errorf("the freeze is told as %+v", e)
	}
	late := follow()
	for _, what := range []string{"epoch", "suspended", "frozen"} {
		if e := d.verified(wait(t, what, late)[1], base); e.Cause != what {
			t.Errorf("who comes late hears %q, expected %q", e.Cause, what)
		}
	}
}

func TestRevocationReachesNodeStream(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	l := d.listener(c, n, base)
	d.open("1")
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "revoked", Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	if e := d.verified(wait(t, "the event", l.heard), base); e.Cause != "revoked" {
		t.Errorf("cause %q", e.Cause)
	}
	if err := wait(t, "the end of the stream", l.ended); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	d.open("0")
}

// TestFreezeReachesNodeStream: a domain-wide act is heard by every node.
func TestFreezeReachesNodeStream(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	l := d.listener(c, n, base)
	d.open("1")
	if _, err := d.first.Freeze(t.Context(), protocol.GovernanceChange{Frozen: true, Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	d.verified(wait(t, "the event", l.heard), base)
	if err := wait(t, "the end of the stream", l.ended); err != nil {
		t.Error(err)
	}
	_, err := n.attest(c)
	refused(t, err, protocol.DomainFrozen)
}

// TestReconnectHearsWhatItMissed: an act in the gap between two streams is not
// lost until the deadline.
func TestReconnectHearsWhatItMissed(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	l := d.listener(c, n, base)
	d.verified(wait(t, "the event", l.heard), base)
	if err := wait(t, "the end of the stream", l.ended); err != nil {
		t.Error(err)
	}
}

// TestDenialReachesNodeStream: so does the denial of the node's own evidence.
func TestDenialReachesNodeStream(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	l := d.listener(c, n, base)
	d.open("1")
	n.log = read(t, "d-uki-sb/eventlog.bin") // reboots into something else
	n.list = read(t, "d-uki-sb/ima.bin")
	n.resets++
	n.boot()
	_, err := n.attest(c)
	r := refused(t, err, protocol.PolicyDenied)
	if r.Denied == nil || r.Denied.Receipt == "" || len(r.Denied.Verdict) == 0 || len(r.Denied.Challenge.Nonce) != 32 || len(r.Denied.Events) != 1 || r.Denied.Token != "" {
		t.Fatalf("denied with %+v", r.Denied)
	}
	d.verified(r.Denied.Events[0], base)
	d.verified(wait(t, "the event", l.heard), base)
}

func TestStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t, option{service: func(c *verifier.Config) { c.TokenLife = 2 * time.Second }})
	n, c, base := d.working()
	l := d.listener(c, n, base)
	if err := wait(t, "the end of the stream", l.ended); err != nil {
		t.Error(err)
	}
	if at := time.Now().Unix(); at < d.claims2(base) {
		t.Error("it ended before the token")
	}
	err := c.Events(t.Context(), base, n.key, n.id, func(_, _ string) {})
	refused(t, err, codeUnauthenticated)
}

// claims2 is the exp of a token that may have expired.
func (d *domain) claims2(tok string) int64 {
	d.t.Helper()
	c, err := token.Verify(tok, d.svc.TokenKeys(), token.Expect{Issuer: d.svc.Issuer(), Domain: d.name, Audience: d.svc.EnclaveAudience()}, time.Now().Add(-10*time.Second))
	if err != nil && token.Code(err) != token.NotYetValid {
		d.t.Fatal(err)
	}
	if err != nil {
		return 0
	}
	return c.Expires
}

// TestNodeHearsOnlyItself: a node's token opens no other node's stream.
func TestNodeHearsOnlyItself(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	err := c.Events(t.Context(), base, n.key, strings.Repeat("0", 32), func(_, _ string) {})
	refused(t, err, codeRole)
}

// TestShutdownEndsStreams: a verifier that stops does not hang on its listeners.
func TestShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	l := d.listener(c, n, base)
	d.open("1")
	d.shutdown()
	if err := wait(t, "the end of the stream", l.ended); err != nil {
		t.Error(err)
	}
	_, err := c.Challenge(t.Context(), protocol.ChallengeRequest{Node: n.id})
	if !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("after the end: %v", err)
	}
}
