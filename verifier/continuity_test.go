package verifier_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

// node returns the node's row.
func (d *domain) node(id string) *verifier.Node {
	d.t.Helper()
	n, err := d.Node(ctx, id)
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

// TestForeignBootApplication: extended and logged, it is denied with the PCR and
// the event that say so, and the node's tokens are ended by a signed event.
func TestForeignBootApplication(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	base := d.claims(d.mustGrant(n).Token)
	index := n.logged(n.extend(4, "a foreign boot application"))
	r := d.denied(n, "boot/unknown-event")
	v := verdictOf(t, r.Denied)
	i := slices.IndexFunc(v.Findings, func(f appraisal.Finding) bool { return f.Code == "boot/unknown-event" })
	if f := v.Findings[i]; *f.PCR != 4 || *f.Event != index || f.Next == "" {
		t.Errorf("finding %+v, want PCR 4 event %d", f, index)
	}
	if r.Denied.Token != "" || r.Denied.Receipt == "" || len(r.Denied.Events) != 1 {
		t.Fatalf("denied with %+v", r.Denied)
	}
	want := token.Expect{Issuer: d.Issuer(), Domain: d.cfg.Domain, Audience: d.EnclaveAudience()}
	e, err := token.VerifyEvent(r.Denied.Events[0], d.TokenKeys(), want, d.now())
	if err != nil || !e.Ends(base) {
		t.Errorf("event %+v does not end the token (%v)", e, err)
	}
	_, err = d.Token(ctx, base, request(d, "after"))
	refused(t, err, protocol.TokenRevoked)
	n.log = read(t, boots+"c-grub-sb/eventlog.bin")
	n.reboot()
	d.mustGrant(n)
}

// TestLogSwappedInOneBoot: the boot log of a boot is the one first proven; one
// that differs only in what no digest covers is denied, again and again.
func TestLogSwappedInOneBoot(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	good := n.log
	n.log = read(t, boots+"g-keep-2/eventlog.bin")
	for range 2 {
		d.denied(n, "counters/boot-log-changed")
	}
	n.log = good
	d.mustGrant(n)
}

// file appends an entry to the machine's IMA list, in the TPM too.
func (n *node) file(path string, content byte) {
	n.t.Helper()
	l, err := ima.Parse(n.list)
	if err != nil {
		n.t.Fatal(err)
	}
	e := l.Entries[len(l.Entries)-1]
	size := func(s string) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(len(s)+1)) }
	e.Data = bytes.Replace(e.Data, e.FileDigest, bytes.Repeat([]byte{content}, len(e.FileDigest)), 1)
	e.Data = bytes.Replace(e.Data, slices.Concat(size(e.Path), []byte(e.Path)), slices.Concat(size(path), []byte(path)), 1)
	sum := sha1.Sum(e.Data)
	e.TemplateHash = sum[:]
	entry := (&ima.List{Entries: []ima.Entry{e}}).Marshal()
	n.measure(entry)
	n.list = slices.Concat(n.list, entry)
}

// TestBadIMAEntryIsNotForgotten: a denied entry stays denied until reboot, also
// when the node sends its list from behind it (security rule 2).
func TestBadIMAEntryIsNotForgotten(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	good := n.list
	n.file("/tmp/backdoor", 1)
	d.denied(n, "ima/unknown-file")
	for _, back := range []int{1, 100, len(n.list) / 2} {
		s := d.shot(n)
		s.byDigest, s.offset = true, len(n.list)-back
		_, err := d.Attest(ctx, s.take(n))
		if v := verdictOf(t, refused(t, err, protocol.PolicyDenied).Denied); !slices.Contains(codes(v), "ima/unknown-file") {
			t.Errorf("sent from %d bytes before the end: %v", back, codes(v))
		}
	}
	s := d.shot(n) // or leaves it out
	s.list = good
	_, err := d.Attest(ctx, s.take(n))
	refused(t, err, protocol.PolicyDenied)
	d.denied(n, "ima/unknown-file")
	n.list = good
	n.reboot()
	d.mustGrant(n)
}

// TestWithdrawnReferenceWhileResumed: entries allowed by an older set are judged
// again by the one in force, though the node sends only what is new.
func TestWithdrawnReferenceWhileResumed(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	set := d.active("grub")
	d.mustGrant(n)
	renew := func() (*protocol.Outcome, error) {
		s := d.shot(n)
		s.byDigest, s.offset = true, len(n.list)-10
		return d.Attest(ctx, s.take(n))
	}
	if _, err := renew(); err != nil {
		t.Fatal(err)
	}
	set.Generation++
	withdrawn := set.IMA.Files[7]
	set.IMA.Files = slices.Delete(set.IMA.Files, 7, 8)
	d.publish(set)
	_, err := renew()
	v := verdictOf(t, refused(t, err, protocol.PolicyDenied).Denied)
	if !slices.ContainsFunc(v.Findings, func(f appraisal.Finding) bool { return strings.HasPrefix(f.Found, withdrawn.Path+" ") }) {
		t.Errorf("findings %+v, want %s named", v.Findings, withdrawn.Path)
	}
	set.Generation++
	set.IMA.Files = slices.Insert(set.IMA.Files, 7, withdrawn)
	d.publish(set)
	if _, err := renew(); err != nil {
		t.Error(err)
	}
}

// active is a copy of the set in force.
func (d *domain) active(class string) *reference.Set {
	d.t.Helper()
	in, err := d.ActiveSet(ctx, class)
	if err != nil {
		d.t.Fatal(err)
	}
	set, err := reference.Parse(in.Set.Marshal())
	if err != nil {
		d.t.Fatal(err)
	}
	return set
}

// TestProvenPartResentOtherwise: a node that sends its whole list again, with
// other bytes where it was proven before, gets a decision whose bundle says so.
func TestProvenPartResentOtherwise(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	s := d.shot(n)
	s.list = bytes.Clone(n.list)
	s.list[len(s.list)/2] ^= 1
	d.mustGrantShot(n, s) // what was proven stays proven
	d.verifies(n, bundle.ResultVerified)
	n.file("/etc/passwd", 2)
	d.denied(n, "ima/unknown-file")
	d.verifies(n, bundle.ResultDenied)
	n.list = read(t, boots+"c-grub-sb/ima.bin")
	n.reboot()
	d.mustGrant(n)
	d.verifies(n, bundle.ResultVerified)
}

// verifies checks the bundle of the node's last decision.
func (d *domain) verifies(n *node, want string) *bundle.Bundle {
	d.t.Helper()
	b, err := d.Bundle(ctx, n.id, -1)
	if err != nil {
		d.t.Fatal(err)
	}
	raw, err := b.Marshal()
	if err != nil {
		d.t.Fatal(err)
	}
	if b, err = bundle.Parse(raw); err != nil {
		d.t.Fatal(err)
	}
	if r := bundle.Verify(b, d.trust()); r.Result != want {
		d.t.Errorf("bundle is %s, want %s: %+v", r.Result, want, r.Checks)
	}
	return b
}

// TestListsOfOneLength: lists of two boots with one length are two lists.
func TestListsOfOneLength(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	n.file("/tmp/a", 1)
	first := n.list
	d.denied(n, "ima/unknown-file")
	n.list = read(t, boots+"c-grub-sb/ima.bin")
	n.reboot()
	n.file("/tmp/b", 2)
	if len(n.list) != len(first) {
		t.Fatal("the lists differ in length")
	}
	d.denied(n, "ima/unknown-file")
	s := d.shot(n)
	s.offset = len(n.list) - 10
	_, err := d.Attest(ctx, s.take(n))
	refused(t, err, protocol.PolicyDenied)
	d.verifies(n, bundle.ResultDenied)
}

// TestRetryGetsTheSameToken: an answer that was lost is made again, with the same
// claims, and nothing is decided twice (security rule 9).
func TestRetryGetsTheSameToken(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	body := d.shot(n).take(n)
	first, err := d.Attest(ctx, body)
	if err != nil {
		t.Fatal(err)
	}
	size := d.log.Size()
	again, err := d.Attest(ctx, body)
	if err != nil {
		t.Fatal(err)
	}
	if input(first.Token) != input(again.Token) || string(again.Verdict) != string(first.Verdict) || d.log.Size() != size {
		t.Errorf("the retry got %+v, and the log grew by %d", again, d.log.Size()-size)
	}
	req := request(d, "lease")
	base := d.claims(first.Token)
	g1, err := d.Token(ctx, base, req)
	if err != nil {
		t.Fatal(err)
	}
	g2, err := d.Token(ctx, base, req)
	if err != nil || input(g1.Token) != input(g2.Token) || d.log.Size() != size+1 {
		t.Errorf("the retried lease: %v, %v", g2, err)
	}
	for _, c := range []string{"freeze", "expire"} {
		if c == "freeze" {
			if _, err := d.Freeze(ctx, operator, "test"); err != nil {
				t.Fatal(err)
			}
		} else {
			if _, err := d.Unfreeze(ctx, operator, "test"); err != nil {
				t.Fatal(err)
			}
		}
		_, err = d.Attest(ctx, body)
		refused(t, err, protocol.TokenRevoked)
		_, err = d.Token(ctx, base, req)
		refused(t, err, protocol.TokenRevoked)
	}
	d.pass(d.cfg.TokenLife)
	_, err = d.Attest(ctx, body)
	refused(t, err, protocol.NonceExpired)
}

// input is the JWS signing input of a token: its identity, as signatures differ.
func input(tok string) string { return tok[:strings.LastIndexByte(tok, '.')] }

// TestRequestIDReused: an id answers one body (security rule 9); ids are scoped
// per node.
func TestRequestIDReused(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	s := d.shot(n)
	s.req.ID = "same"
	out := d.mustGrantShot(n, s)
	s = d.shot(n)
	s.req.ID = "same"
	d.unmoved(n, s.take(n), protocol.RequestReused)
	base := d.claims(out.Token)
	_, err := d.Token(ctx, base, request(d, "same"))
	refused(t, err, protocol.RequestReused)
	if _, err := d.Token(ctx, base, request(d, "lease")); err != nil {
		t.Fatal(err)
	}
	_, err = d.Token(ctx, base, request(d, "lease")) // another r
	refused(t, err, protocol.RequestReused)
	s = d.shot(n)
	s.req.ID = "lease"
	d.unmoved(n, s.take(n), protocol.RequestReused)
	other := d.machine("c-grub-sb")
	d.enrol(other, "grub")
	s = d.shot(other)
	s.req.ID = "same"
	d.mustGrantShot(other, s)
}

// TestTokenChain: all tokens of a node, whoever asks for them at once, are one
// chain by seq and the digest of the one before: there is no fork.
func TestTokenChain(t *testing.T) {
	t.Parallel()
	d, n := ready(t, func(c *verifier.Config) { c.Audiences = []string{"https://db.invalid"} })
	var mu sync.Mutex
	var tokens []string
	add := func(tok string) {
		mu.Lock()
		defer mu.Unlock()
		tokens = append(tokens, tok)
	}
	for range 3 {
		out := d.mustGrant(n)
		add(out.Token)
		base := d.claims(out.Token)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				req := request(d, random(8))
				if i%2 == 0 {
					req.Audience = "https://db.invalid"
				}
				g, err := d.Token(ctx, base, req)
				if err != nil {
					t.Error(err)
					return
				}
				add(g.Token)
			})
		}
		wg.Wait()
	}
	chain := map[uint64]*token.Claims{}
	digests := map[uint64]string{}
	for _, tok := range tokens {
		var c token.Claims
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(tok, ".")[1])
		if err == nil {
			err = json.Unmarshal(payload, &c)
		}
		if err != nil {
			t.Fatal(err)
		}
		if chain[c.Writ.Seq] != nil {
			t.Fatalf("two tokens with seq %d", c.Writ.Seq)
		}
		sum := token.Digest(input(tok))
		chain[c.Writ.Seq], digests[c.Writ.Seq] = &c, base64url(sum[:])
	}
	for seq := uint64(1); seq <= uint64(len(tokens)); seq++ {
		if c := chain[seq]; c == nil || c.Writ.Prev != digests[seq-1] {
			t.Fatalf("token %d is missing or does not follow the one before", seq)
		}
	}
}

// TestDerivedFromAnOldBase: a further token rests on the node's latest decision
// and on the key that its quote bound.
func TestDerivedFromAnOldBase(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	old := d.claims(d.mustGrant(n).Token)
	base := d.claims(d.mustGrant(n).Token)
	further, err := d.Token(ctx, base, request(d, "one"))
	if err != nil {
		t.Fatal(err)
	}
	for name, bend := range map[string]func(*token.Claims) *token.Claims{
		"an older one":    func(*token.Claims) *token.Claims { return old },
		"a derived one":   func(*token.Claims) *token.Claims { return d.claims(further.Token) },
		"another key":     func(c *token.Claims) *token.Claims { c.Confirm.JKT = strings.Repeat("A", 43); return c },
		"another epoch":   func(c *token.Claims) *token.Claims { c.Writ.Epoch++; return c },
		"another entry":   func(c *token.Claims) *token.Claims { c.Writ.Log.Index--; return c },
		"another node":    func(c *token.Claims) *token.Claims { c.Subject += "0"; return c },
		"another domain":  func(c *token.Claims) *token.Claims { c.Subject = "spiffe://b.invalid/node/" + n.id; return c },
		"one that lapsed": func(c *token.Claims) *token.Claims { c.Expires = c.IssuedAt - 1; return c },
	} {
		c := *base
		if g, err := d.Token(ctx, bend(&c), request(d, random(8))); err == nil {
			t.Errorf("derived from %s: %v", name, g)
		}
	}
	g, err := d.Token(ctx, base, request(d, "two"))
	if err != nil {
		t.Fatal(err)
	}
	if c := d.claims(g.Token); c.Expires != base.Expires || c.Confirm != base.Confirm || c.Writ.Verdict != base.Writ.Verdict {
		t.Errorf("derived %+v from %+v", c, base)
	}
}

// TestAudienceNotAllowed and TestLevelTooLow: what a node may ask for is policy,
// default deny (security rule 8); asking for more is no verdict on the node.
func TestAudienceNotAllowed(t *testing.T) {
	t.Parallel()
	d, n := ready(t, func(c *verifier.Config) { c.Audiences, c.MinLevel = []string{"https://db.invalid"}, "E2" })
	base := d.claims(d.mustGrant(n).Token)
	for _, c := range []struct {
		audience, level string
		ok              bool
	}{
		{"https://db.invalid", "E2", true},
		{d.EnclaveAudience(), "E4", true},
		{"https://db.invalid/", "E3", false},
		{"https://other.invalid", "E3", false},
		{"spiffe://other.invalid/enclave", "E3", false},
		{d.EnclaveAudience(), "E1", false},
		{d.EnclaveAudience(), "E0", false},
	} {
		req := request(d, random(8))
		req.Audience, req.Level = c.audience, c.level
		if c.ok {
			if _, err := d.Token(ctx, base, req); err != nil {
				t.Error(err)
			}
			continue
		}
		_, err := d.Token(ctx, base, req)
		refused(t, err, protocol.RequestRefused)
		s := d.shot(n)
		s.req = req
		s.req.Execution = ""
		d.unmoved(n, s.take(n), protocol.RequestRefused)
	}
	if _, err := verifier.New(ctx, func() verifier.Config { c := d.cfg; c.MinLevel = ""; return c }()); err == nil {
		t.Error("a verifier without a lowest level starts")
	}
}

// TestLapsedStateNeverSaysLegitimate: the stored word outlives the token, and no
// reader believes it (security rule 12).
func TestLapsedStateNeverSaysLegitimate(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	base := d.claims(d.mustGrant(n).Token)
	if s := d.State(d.node(n.id)); s != verifier.Synchronized {
		t.Fatalf("state %s", s)
	}
	d.pass(time.Until(time.Unix(base.Expires, 0)) + time.Second)
	row := d.node(n.id)
	if row.State != verifier.Synchronized {
		t.Fatalf("stored %s: nothing has happened since", row.State)
	}
	if s := d.State(row); s != verifier.FailClosed || row.Legitimate(d.now()) {
		t.Errorf("lapsed, and %s", s)
	}
	_, err := d.Token(ctx, base, request(d, "late"))
	refused(t, err, protocol.TokenRevoked)
	size := d.log.Size()
	d.mustGrant(n)
	e := d.entries(size)[0]
	var data bundle.Decision
	if err := json.Unmarshal(e.Data, &data); err != nil || e.Kind != bundle.Issued || data.From != verifier.FailClosed {
		t.Errorf("after the lapse: %s from %s (%v)", e.Kind, data.From, err)
	}
}

// TestRebootWithinLease: greater counters are a reboot: log and list start anew,
// work goes on with the next token (security rule 15).
func TestRebootWithinLease(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	before := d.claims(d.mustGrant(n).Token)
	for _, orderly := range []bool{true, false} {
		if err := n.tpm.PowerCycle(orderly); err != nil {
			t.Fatal(err)
		}
		n.boot()
		c := d.claims(d.mustGrant(n).Token)
		if c.BootCount <= before.BootCount || c.Writ.Seq != before.Writ.Seq+1 {
			t.Errorf("boot %d seq %d, before %d %d", c.BootCount, c.Writ.Seq, before.BootCount, before.Writ.Seq)
		}
		before = c
	}
	n.log = read(t, boots+"g-keep-2/eventlog.bin") // another boot may have another log
	n.reboot()
	d.mustGrant(n)
	if err := n.tpm.Suspend(); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.ak, err = n.dev.AK(n.domain, 1); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n) // waking up keeps the PCRs
}

// TestClearedTPM: counters that go back close the node until an operator decides,
// however good the next quote is (security rule 15).
func TestClearedTPM(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	n.reboot()
	d.mustGrant(n)
	prior := d.node(n.id).Boot
	if err := n.tpm.Clear(); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.ak, err = n.dev.AK(n.domain, 1); err != nil {
		t.Fatal(err)
	}
	d.denied(n, "counters/clone")
	if b := d.node(n.id).Boot; b.ResetCount != prior.ResetCount || b.Clock != prior.Clock {
		t.Errorf("the doubtful counters became the known ones: %+v", b)
	}
	for range prior.ResetCount + 2 { // counts up to where it was
		n.reboot()
	}
	d.unmoved(n, d.shot(n).take(n), protocol.NodeNotActive)
	for _, status := range []string{verifier.Suspended, verifier.Active} {
		if _, err := d.SetStatus(ctx, operator, n.id, status, "its TPM was cleared"); err != nil {
			t.Fatal(err)
		}
	}
	d.mustGrant(n)
}

// TestClonedTPM: two machines with one TPM's state cannot both go on. Once their
// counters contradict each other neither does.
func TestClonedTPM(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	if err := n.tpm.Close(); err != nil {
		t.Fatal(err)
	}
	clone := *n
	clone.dir = n.dir + "-clone"
	if err := swtpm.CopyState(clone.dir, n.dir); err != nil {
		t.Fatal(err)
	}
	n.start()
	clone.start()
	d.mustGrant(n)
	clone.reboot() // ahead of the original: looks like its next boot
	d.mustGrant(&clone)
	d.denied(n, "counters/clone")
	d.unmoved(n, d.shot(n).take(n), protocol.NodeNotActive)
	d.unmoved(n, d.shot(n).take(&clone), protocol.NodeNotActive)
	join := d.mint("grub", n.ek) // an operator decides for the machine in hand
	if _, err := d.provision(n, join); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n)
}

// TestCollectedEvidenceEarnsNothing is in TestQuoteForAnother ("purpose"); this is
// the same at the door that judges without a verifier: nothing it says is a token.
func TestCollectedEvidenceEarnsNothing(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	s := d.shot(n)
	s.purpose = evidence.Collection
	d.unmoved(n, s.take(n), protocol.EvidenceUnverified)
}

// TestRelabelledEvent: whatever a log calls an event, its digest is judged.
func TestRelabelledEvent(t *testing.T) {
	t.Parallel()
	for _, typ := range []eventlog.Type{eventlog.NoAction, eventlog.Separator} {
		d, n := ready(t)
		e := n.extend(4, "a foreign boot application")
		e.Type = typ
		index := n.logged(e)
		want := map[bool]string{true: "boot/replay", false: "boot/unknown-event"}[typ == eventlog.NoAction]
		v := verdictOf(t, d.denied(n, want).Denied)
		if !slices.ContainsFunc(v.Findings, func(f appraisal.Finding) bool {
			return f.Code == want && *f.PCR == 4 && (f.Event == nil || *f.Event == index)
		}) {
			t.Errorf("as %s: %s", typ, fmt.Sprint(codes(v)))
		}
	}
}
