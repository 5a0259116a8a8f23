package attestor

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

const tpm2Quote = 0x158 // TPM_CC_Quote

// TestOneCommandPerRenewal: in steady state a renewal is one round trip, one
// quote, and no log is sent again.
func TestOneCommandPerRenewal(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	b.mustAttest(a)
	for range 3 {
		b.spent()
		challenges := len(l.asked)
		b.mustAttest(a)
		if got := b.spent(); len(got) != 1 || got[0].Code != tpm2Quote {
			t.Errorf("a renewal took the TPM commands %+v", got)
		}
		if len(l.asked) != challenges {
			t.Error("a renewal asked for a challenge, though the last answer brought one")
		}
		ev := l.sent[len(l.sent)-1]
		if it := ev.Item(evidence.UEFILog); it.Digest == nil {
			t.Errorf("a renewal sent the boot log again, %d bytes", len(it.Content))
		}
		if it := ev.Item(evidence.IMALog); it.Offset == 0 || len(it.Content) > 1024 {
			t.Errorf("a renewal sent the IMA list from %d, %d bytes", it.Offset, len(it.Content))
		}
	}
	if n, err := b.tpm.Leaks(); err != nil || n != 0 {
		t.Errorf("%d handles left in the TPM (%v)", n, err)
	}
}

// TestListGrew: what a machine runs between renewals is proven by one quote too,
// and sent from where the verifier's knowledge ends.
func TestListGrew(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	b.mustAttest(a)
	for range 3 {
		b.grow()
		b.grow()
		b.spent()
		b.mustAttest(a)
		if got := b.spent(); len(got) != 1 {
			t.Errorf("a renewal after the list grew took the TPM commands %+v", got)
		}
		if it := l.sent[len(l.sent)-1].Item(evidence.IMALog); it.Offset == 0 || len(it.Content) > 1024 {
			t.Errorf("sent the IMA list from %d, %d bytes", it.Offset, len(it.Content))
		}
	}
}

// TestListGrewWhileQuoting: entries that came after the quote are not held
// against it.
func TestListGrewWhileQuoting(t *testing.T) {
	t.Parallel()
	b, _, a := ready(t)
	b.mustAttest(a)
	once := sync.Once{}
	b.tpm.Trace = func(c device.Command) {
		if c.Code == tpm2Quote {
			once.Do(b.grow)
		}
	}
	b.mustAttest(a)
	b.mustAttest(a)
}

// TestPCRChanged: the agent finds out which values the quote is about, and the
// verifier what they mean.
func TestPCRChanged(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	good := b.read("eventlog.bin")
	pushes, cancel := a.Watch()
	defer cancel()
	b.measure(4, eventlog.BootServicesApp, "foreign.efi")
	err := a.attest(t.Context(), false)
	r := (*protocol.Refusal)(nil)
	if !errors.As(err, &r) || r.Code != protocol.PolicyDenied {
		t.Fatalf("a foreign boot application: %v", err)
	}
	s := a.Status()
	if s.Legitimate || !strings.Contains(string(s.Verdict), "boot/unknown-event") || !strings.Contains(s.Problem, protocol.PolicyDenied) {
		t.Errorf("status after a denial: %+v", s)
	}
	p := <-pushes
	want := token.Expect{Issuer: b.d.Issuer(), Domain: b.d.Domain(), Audience: b.d.EnclaveAudience()}
	if e, err := token.VerifyEvent(p.Event, b.d.TokenKeys(), want, time.Now()); err != nil || e.Cause != "denied" {
		t.Errorf("watchers were told %+v, %v", e, err)
	}
	if it := l.sent[len(l.sent)-1].Item(evidence.UEFILog); it.Digest != nil {
		t.Error("a changed boot log was sent by digest")
	}
	if _, err := a.Lease(t.Context(), lease(b)); err == nil {
		t.Error("a denied node got a token")
	}

	// A boot as before is as good as before.
	b.write("eventlog.bin", good)
	if err := b.swtpm.PowerCycle(true); err != nil {
		t.Fatal(err)
	}
	b.boot()
	b.mustAttest(a)
}

func lease(b *box) evidence.Request {
	return evidence.Request{Audience: b.d.EnclaveAudience(), Level: "E2", Execution: "e1", R: random(32), ID: random(16)}
}

// TestFailover: the first verifier does not answer, then not any more, then
// again.
func TestFailover(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "test.invalid")
	b := d.box()
	b.learn()
	first, second := &line{d: d, down: true}, &line{d: d}
	a := b.agent(first, second)
	b.mustAttest(a)
	if len(second.sent) != 1 {
		t.Fatal("the second verifier was not asked")
	}
	first.down, second.down = false, true
	b.mustAttest(a)
	if len(first.sent) != 1 {
		t.Fatal("the first verifier was not asked again")
	}
	if _, err := a.Lease(t.Context(), lease(b)); err != nil || first.tokens != 1 {
		t.Errorf("a lease: %v, %d asked of the first verifier", err, first.tokens)
	}
	first.down = true
	if _, err := a.Lease(t.Context(), lease(b)); !errors.Is(err, errDown) {
		t.Errorf("a lease with no verifier: %v", err)
	}
	if err := a.attest(t.Context(), false); !errors.Is(err, errDown) {
		t.Errorf("an attestation with no verifier: %v", err)
	}
	if s := a.Status(); !s.Legitimate || s.Problem == "" || !s.Unheard {
		t.Errorf("a token was lost with its verifier: %+v", s)
	}
	second.down = false
	b.mustAttest(a)
}

// TestGarbageFromVerifier: an answer that is not this domain's word for this
// node, key and request counts as none, and the next verifier is asked.
func TestGarbageFromVerifier(t *testing.T) {
	t.Parallel()
	d, other := newDomain(t, "test.invalid"), newDomain(t, "test.invalid") // one name, other keys
	b, b2 := d.box(), other.box()
	b.learn()
	b2.learn()
	tokenOf := func(b *box) string {
		a := b.agent(&line{d: b.d})
		defer a.Close()
		b.mustAttest(a)
		return a.base
	}
	foreign, earlier := tokenOf(b2), tokenOf(b)
	for name, bend := range map[string]func(*line){
		"a token of another issuer": func(l *line) { l.bend = func(o *protocol.Outcome) { o.Token = foreign } },
		"an earlier token":          func(l *line) { l.bend = func(o *protocol.Outcome) { o.Token = earlier } },
		"a token that is none":      func(l *line) { l.bend = func(o *protocol.Outcome) { o.Token = "garbage" } },
		"no token":                  func(l *line) { l.bend = func(o *protocol.Outcome) { *o = protocol.Outcome{} } },
		"no nonce":                  func(l *line) { l.nonce = func(c *protocol.Challenge) { *c = protocol.Challenge{} } },
		"a short nonce":             func(l *line) { l.nonce = func(c *protocol.Challenge) { c.Nonce = c.Nonce[:31] } },
	} {
		bad, good := &line{d: d}, &line{d: d}
		bend(bad)
		alone := b.agent(bad)
		if err := alone.attest(t.Context(), false); err == nil || alone.Status().Legitimate || alone.current() != "" {
			t.Errorf("%s was taken: %+v", name, alone.Status())
		}
		a := b.agent(bad, good)
		if err := a.attest(t.Context(), false); err != nil {
			t.Errorf("%s: the next verifier was not asked: %v", name, err)
		}
		alone.Close()
		a.Close()
	}
}

// TestEventIgnored: what no verifier of this domain signed, or signed about
// another node, ends nothing.
func TestEventIgnored(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	other := newDomain(t, "test.invalid")
	pushes, cancel := a.Watch()
	defer cancel()
	event := func(key *domain, subject string) string {
		e, err := token.IssueEvent(token.Event{Issuer: b.d.Issuer(), Subject: subject, ID: random(16), IssuedAt: time.Now().Unix(), Audience: b.d.EnclaveAudience(), Seq: 1 << 40, Cause: "revoked", Reason: "test"}, newKey(t), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for _, e := range []string{"", "garbage", a.base, event(other, a.subject())} {
		a.heard("revocation", e)
	}
	if s := a.Status(); !s.Legitimate || len(pushes) != 0 || a.current() == "" {
		t.Errorf("an event that does not verify ended the token: %+v, %d pushes", s, len(pushes))
	}
	second := b.d.box()
	b.mustAttest(second.agent(l))
	events, stop := b.d.Events(second.enrol.Node)
	defer stop()
	if _, err := b.d.SetStatus(t.Context(), "operator/test", second.enrol.Node, "revoked", "test"); err != nil {
		t.Fatal(err)
	}
	a.heard("revocation", (<-events).Data)
	if s := a.Status(); !s.Legitimate || len(pushes) != 0 {
		t.Errorf("another node's event ended the token: %+v", s)
	}

	// Its own counts, and is passed on.
	own, stop := b.d.Events(b.enrol.Node)
	defer stop()
	if _, err := b.d.SetStatus(t.Context(), "operator/test", b.enrol.Node, "suspended", "a reason"); err != nil {
		t.Fatal(err)
	}
	e := <-own
	a.heard("revocation", e.Data)
	if s := a.Status(); s.Legitimate || s.Unheard || s.Problem != "suspended: a reason" || (<-pushes).Event != e.Data {
		t.Errorf("status after a suspension: %+v", s)
	}
}

// TestCheckpointKept: the node confronts its verifier with what it was given
// before, after a restart too.
func TestCheckpointKept(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	if l.asked[0].Checkpoint != "" {
		t.Errorf("a new node has the checkpoint %q", l.asked[0].Checkpoint)
	}
	note := string(b.read(checkpointFile))
	c, err := ledger.OpenCheckpoint([]byte(note), b.d.trust.Log...)
	if err != nil || c != a.seen {
		t.Fatalf("kept %+v, %v", c, err)
	}
	restarted := b.agent(l)
	b.mustAttest(restarted)
	if got := l.asked[len(l.asked)-1].Checkpoint; got != note {
		t.Errorf("sent the checkpoint %q, kept was %q", got, note)
	}
	if restarted.seen.Size <= c.Size {
		t.Errorf("the checkpoint stays at size %d", restarted.seen.Size)
	}
}

// TestSmallerCheckpoint: a verifier that was restored to an earlier state shows a
// smaller log. The larger checkpoint is the only witness of what was lost: it is
// kept, and shown at once.
func TestSmallerCheckpoint(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	old := string(b.read(checkpointFile))
	for range 3 {
		b.mustAttest(a)
	}
	kept := string(b.read(checkpointFile))
	asked := len(l.asked)
	l.bend = func(o *protocol.Outcome) {
		head, _, _ := strings.Cut(o.Receipt, "\n\n")
		o.Receipt = head + "\n\n" + old
	}
	b.mustAttest(a)
	if got := string(b.read(checkpointFile)); got != kept {
		t.Errorf("the checkpoint\n%swas replaced by\n%s", kept, got)
	}
	l.bend = nil
	b.mustAttest(a)
	if len(l.asked) != asked+1 || l.asked[asked].Checkpoint != kept {
		t.Errorf("the verifier was not confronted with the larger checkpoint")
	}
	if err := durable.WriteFile(filepath.Join(b.dir, checkpointFile), []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.mustAttest(b.agent(l)) // counts for nothing, and stops nothing
}

// TestAgentRestart: another start of the agent has another key, and the node
// stays what it was.
func TestAgentRestart(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	before, err := b.d.claims(a.base)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	again := b.agent(l)
	b.mustAttest(again)
	after, err := b.d.claims(again.base)
	if err != nil {
		t.Fatal(err)
	}
	if after.Writ.Seq != before.Writ.Seq+1 || after.BootCount != before.BootCount || after.Confirm.JKT == before.Confirm.JKT {
		t.Errorf("claims before %+v and after %+v", before, after)
	}
	if n, err := b.tpm.Leaks(); err != nil || n != 0 {
		t.Errorf("%d handles left in the TPM (%v)", n, err)
	}
}

// TestRebootWithinLease: a crash and a reboot inside a lease are no clone, with
// the agent's memory of the boot before or without.
func TestRebootWithinLease(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	count := func(a *Agent) uint32 {
		c, err := b.d.claims(a.base)
		if err != nil {
			t.Fatal(err)
		}
		return c.BootCount
	}
	before := count(a)
	for _, orderly := range []bool{true, false} {
		if err := b.swtpm.PowerCycle(orderly); err != nil {
			t.Fatal(err)
		}
		b.boot()
		b.mustAttest(a)
		again := b.agent(l)
		b.mustAttest(again)
		if now := count(again); now <= before || now != count(a) {
			t.Errorf("boot count %d after %d", now, before)
		}
		before = count(a)
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSleep: a machine that slept has lost the keys loaded in its TPM.
func TestSleep(t *testing.T) {
	t.Parallel()
	b, _, a := ready(t)
	for range 2 {
		if err := b.swtpm.Suspend(); err != nil {
			t.Fatal(err)
		}
		b.mustAttest(a)
		b.spent()
		b.mustAttest(a)
		if got := b.spent(); len(got) != 1 {
			t.Errorf("a renewal after sleep took the TPM commands %+v", got)
		}
	}
}

// TestTPMLost: an agent whose TPM is gone ends, to be started anew.
func TestTPMLost(t *testing.T) {
	t.Parallel()
	b, l, _ := ready(t)
	a := b.agent(l)
	if err := b.swtpm.Close(); err != nil {
		t.Fatal(err)
	}
	err := a.Run(t.Context())
	if no := (*device.NoTPMError)(nil); !errors.As(err, &no) {
		t.Errorf("an agent without a TPM ended with %v", err)
	}
}

// TestLeasesTogether: many executions that start at once, when the base token is
// old, rest on one attestation.
func TestLeasesTogether(t *testing.T) {
	t.Parallel()
	b, l, _ := ready(t)
	a := b.agent(l)
	sent := len(l.sent)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			g, err := a.Lease(t.Context(), lease(b))
			if err != nil {
				t.Error(err)
				return
			}
			if c, err := b.d.claims(g.Token); err != nil || c.Writ.Execution != "e1" {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
	all.Wait()
	if n := len(l.sent) - sent; n != 1 {
		t.Errorf("16 leases took %d attestations", n)
	}
}

// TestRenewalOvertakesLease: a renewal that ends, at the verifier, while a lease is
// asked for takes the base token away on which that rests. It is asked for once more on
// the new one, and no work is refused for it; and no more than once, if it is refused.
func TestRenewalOvertakesLease(t *testing.T) {
	t.Parallel()
	b, l, _ := ready(t)
	a := b.agent(l)
	b.mustAttest(a)
	l.before = func() { b.mustAttest(a) }
	asked := l.tokens
	if _, err := a.Lease(t.Context(), lease(b)); err != nil || l.tokens != asked+2 {
		t.Errorf("asked %d times: %v", l.tokens-asked, err)
	}
	old := a.current()
	b.mustAttest(b.agent(l)) // by another agent of the node: nothing will come in its place here
	asked = l.tokens
	_, err := a.Lease(t.Context(), lease(b))
	if r := (*protocol.Refusal)(nil); !errors.As(err, &r) || r.Code != protocol.TokenRevoked || l.tokens != asked+1 || a.current() != old {
		t.Errorf("asked %d times: %v", l.tokens-asked, err)
	}
}

// TestNotActive: the agent of a node that is not active keeps asking, and says
// what is needed.
func TestNotActive(t *testing.T) {
	t.Parallel()
	b, l, _ := ready(t)
	if _, err := b.d.SetStatus(t.Context(), "operator/test", b.enrol.Node, "suspended", "test"); err != nil {
		t.Fatal(err)
	}
	a := b.agent(l)
	if err := a.attest(t.Context(), false); err == nil || !strings.Contains(a.Status().Problem, "an operator must make it active") {
		t.Errorf("a suspended node: %v, %+v", err, a.Status())
	}
	if _, err := b.d.SetStatus(t.Context(), "operator/test", b.enrol.Node, "active", "test"); err != nil {
		t.Fatal(err)
	}
	b.mustAttest(a)
}

// TestForgottenLog: a verifier that does not hold the boot log, whatever the
// agent thinks, gets it whole, within the same attestation.
func TestForgottenLog(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "test.invalid")
	b, l := d.box(), &line{d: d}
	b.learn()
	a := b.agent(l)
	sum := sha256.Sum256(b.read("eventlog.bin"))
	a.heldLog = sum[:]
	b.mustAttest(a)
	if len(l.sent) != 2 || l.sent[0].Item(evidence.UEFILog).Digest == nil || l.sent[1].Item(evidence.UEFILog).Digest != nil {
		t.Errorf("sent %d times", len(l.sent))
	}
}

// TestProvisionTwoDomains: one TPM has an attestation key for each domain, and
// nothing of it links them.
func TestProvisionTwoDomains(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "test.invalid")
	b := d.box()
	one, err := b.tpm.AK("test.invalid", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := b.tpm.AK("other.invalid", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if string(one.Name()) == string(two.Name()) {
		t.Error("two domains see one attestation key")
	}
}

// TestRenewIn: renewals come at a third of what is left, spread by a tenth.
func TestRenewIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{state: Status{Expires: time.Now().Add(time.Minute).Unix()}}
		seen := map[time.Duration]bool{}
		for range 100 {
			w := a.renewIn()
			if w < 18*time.Second || w > 22*time.Second {
				t.Fatalf("renews a token of a minute after %s", w)
			}
			seen[w] = true
		}
		if len(seen) < 50 {
			t.Error("renewals are not spread")
		}
		a.state.Expires = time.Now().Add(-time.Hour).Unix()
		if w := a.renewIn(); w != 100*time.Millisecond {
			t.Errorf("an expired token is renewed after %s", w)
		}
	})
}

// TestState: what provisioning saves is what the agent loads.
func TestState(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "test.invalid")
	dir := filepath.Join(t.TempDir(), "state")
	if _, err := LoadEnrolment(dir); !errors.Is(err, ErrNotEnrolled) || !strings.Contains(err.Error(), "run writ provision first") {
		t.Errorf("no state: %v", err)
	}
	e := Enrolment{Domain: "test.invalid", Node: hex.EncodeToString(make([]byte, 16)), Generation: 1, Verifiers: []string{"https://a.invalid"}, CA: "pem"}
	if err := e.Save(dir, d.trust); err != nil {
		t.Fatal(err)
	}
	got, err := LoadEnrolment(dir)
	if err != nil || fmt.Sprint(*got) != fmt.Sprint(e) {
		t.Errorf("%+v, %v", got, err)
	}
	if tr, err := LoadTrust(dir); err != nil || string(tr.Marshal()) != string(d.trust.Marshal()) {
		t.Errorf("trust file: %v", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, enrolmentFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadEnrolment(dir); err == nil || errors.Is(err, ErrNotEnrolled) {
		t.Errorf("damaged state: %v", err)
	}
}
