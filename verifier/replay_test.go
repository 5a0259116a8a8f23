package verifier_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/store/storetest"
	"github.com/writ-attestation/writ/verifier/token"
)

var ctx = context.Background()

// ready is a domain with references learnt from one machine and another machine
// of the same boot enrolled.
func ready(t testing.TB, change ...func(*verifier.Config)) (*domain, *node) {
	t.Helper()
	d := newDomain(t, change...)
	return d, d.member("c-grub-sb")
}

// member is a machine enrolled in a class learnt from it.
func (d *domain) member(boot string) *node {
	d.t.Helper()
	n := d.machine(boot)
	d.learn("grub", n)
	d.enrol(n, "grub")
	return n
}

// row is all the domain knows of a node, as bytes.
func (d *domain) row(id string) string {
	d.t.Helper()
	n, err := d.Node(ctx, id)
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := json.Marshal(n)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// unmoved requires a refusal that leaves node and history as they were.
func (d *domain) unmoved(n *node, body []byte, code string) {
	d.t.Helper()
	row, size := d.row(n.id), d.log.Size()
	_, err := d.Attest(ctx, body)
	r := refused(d.t, err, code)
	if r.Denied != nil {
		d.t.Error("the refusal tells what was expected")
	}
	if d.row(n.id) != row {
		d.t.Errorf("the node's row moved: %s, was %s", d.row(n.id), row)
	}
	if d.log.Size() != size {
		d.t.Errorf("the log grew by %d", d.log.Size()-size)
	}
}

// entries are the log's leaves from an index on.
func (d *domain) entries(from uint64) (out []ledger.Leaf) {
	d.t.Helper()
	for size := d.log.Size(); from < size; {
		leaves, err := d.log.Entries(ctx, from, size)
		if err != nil {
			d.t.Fatal(err)
		}
		for _, b := range leaves {
			l, err := ledger.ParseLeaf(b)
			if err != nil {
				d.t.Fatal(err)
			}
			out = append(out, l)
		}
		from += uint64(len(leaves))
	}
	return out
}

// TestReplayedQuote: a quote answers one challenge, once (security rule 10).
func TestReplayedQuote(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	s := d.shot(n)
	body := s.take(n)
	if _, err := d.Attest(ctx, body); err != nil {
		t.Fatal(err)
	}
	ev, err := evidence.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Challenge(ctx, n.id, "")
	if err != nil {
		t.Fatal(err)
	}
	ev.Quote.Nonce = c.Nonce // the old signature under a new challenge
	renamed := s.req
	renamed.ID = "another"
	ev.Set(evidence.Ask, evidence.Item{Content: renamed.Marshal()})
	again, err := ev.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	d.unmoved(n, again, protocol.EvidenceUnverified)
	ev.Quote.Nonce = s.nonce // and under its own, which is spent
	if again, err = ev.Marshal(); err != nil {
		t.Fatal(err)
	}
	d.unmoved(n, again, protocol.NonceExpired)
	for range 9 { // until the request is no longer remembered
		d.mustGrant(n)
	}
	d.unmoved(n, body, protocol.NonceExpired)
}

// TestQuoteForAnotherNonce, TestQuoteForAnotherDomain and the like: the binding
// covers who asked, who answers and for what (security rule 7).
func TestQuoteForAnother(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	other := d.machine("c-grub-sb")
	d.enrol(other, "grub")
	foreign, err := d.Challenge(ctx, other.id, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bend func(*shot)
		code string
	}{
		"nonce": {func(s *shot) {
			mine := s.nonce
			s.nonce = bytes32(3)
			s.change = func(e *evidence.Evidence) { e.Quote.Nonce = mine }
		}, protocol.EvidenceUnverified},
		"nonce of its own":    {func(s *shot) { s.nonce = bytes32(3) }, protocol.NonceExpired},
		"nonce for another":   {func(s *shot) { s.nonce = foreign.Nonce }, protocol.NonceExpired},
		"nonce issued later":  {func(s *shot) { s.nonce = bytes.Clone(s.nonce); s.nonce[7] ^= 1 }, protocol.NonceExpired},
		"node":                {func(s *shot) { s.node = other.id; s.change = func(e *evidence.Evidence) { e.Quote.Node = n.id } }, protocol.EvidenceUnverified},
		"domain":              {func(s *shot) { s.domain = "other.invalid" }, protocol.EvidenceUnverified},
		"purpose (collected)": {func(s *shot) { s.purpose = evidence.Collection }, protocol.EvidenceUnverified},
		"key to be bound": {func(s *shot) {
			s.change = func(e *evidence.Evidence) { e.Set(evidence.BindKey, evidence.Item{Content: jwk(t, other)}) }
		}, protocol.EvidenceUnverified},
		"request": {func(s *shot) {
			r := s.req
			r.Level = "E4"
			s.change = func(e *evidence.Evidence) { e.Set(evidence.Ask, evidence.Item{Content: r.Marshal()}) }
		}, protocol.EvidenceUnverified},
		"boot log after quote": {func(s *shot) {
			s.change = func(e *evidence.Evidence) { e.Set(evidence.UEFILog, evidence.Item{Content: []byte("x")}) }
		}, protocol.EvidenceUnverified},
		"one more bound item": {func(s *shot) {
			s.change = func(e *evidence.Evidence) { e.Set(evidence.EKCert, evidence.Item{Content: []byte("x")}) }
		}, protocol.EvidenceUnverified},
		"boot log by a digest":  {func(s *shot) { s.log, s.byDigest = []byte("never sent"), true }, protocol.LogNotHeld},
		"list from nowhere":     {func(s *shot) { s.offset = 100 }, protocol.LogNotHeld},
		"request without an id": {func(s *shot) { s.req.ID = "" }, protocol.EvidenceMalformed},
	} {
		s := d.shot(n)
		c.bend(s)
		t.Log(name)
		d.unmoved(n, s.take(n), c.code)
	}
	d.mustGrant(n) // none of it spent a challenge or closed the node
}

func jwk(t testing.TB, n *node) []byte {
	t.Helper()
	b, err := token.MarshalJWK(n.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestChallengeRelayed: a node enrolled in two domains cannot be made to answer
// the challenge of one for the other (security rule 7), and has another key in
// each (rule 16).
func TestChallengeRelayed(t *testing.T) {
	t.Parallel()
	a, n := ready(t)
	b := newDomain(t, func(c *verifier.Config) {
		c.Domain, c.Issuer, c.EKRoots, c.ChallengeKey = "relay.invalid", "https://relay.invalid", a.cfg.EKRoots, a.cfg.ChallengeKey
	})
	inB := *n
	inB.domain = "relay.invalid"
	b.enrol(&inB, "grub")
	var err error
	if inB.ak, err = n.dev.AK(inB.domain, 1); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(inB.ak.Public(), n.ak.Public()) {
		t.Error("one attestation key in two domains")
	}
	if inB.id != n.id {
		t.Fatalf("node %s in one domain, %s in the other", n.id, inB.id)
	}
	c, err := a.Challenge(ctx, n.id, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, signer := range []*node{n, &inB} { // what the relay gets when it asks for domain b
		s := a.shotWith(signer, c)
		s.domain = "relay.invalid"
		a.unmoved(n, s.take(signer), protocol.EvidenceUnverified)
	}
}

// TestUnknownNode: strangers learn that they are strangers, and leave no trace.
func TestUnknownNode(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	size := d.log.Size()
	for _, id := range []string{"", "0", strings.Repeat("0", 32), n.id + "x", strings.ToUpper(n.id)} {
		_, err := d.Challenge(ctx, id, "")
		refused(t, err, protocol.NotEnrolled)
		s := d.shot(n)
		s.node = id
		_, err = d.Attest(ctx, s.take(n))
		refused(t, err, protocol.NotEnrolled)
	}
	if d.log.Size() != size {
		t.Error("the log grew")
	}
}

// TestUnenrolledAK: another TPM's key, and another key of the same TPM.
func TestUnenrolledAK(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	stranger := d.machine("c-grub-sb")
	d.unmoved(n, d.shot(n).take(stranger), protocol.EvidenceUnverified)
	second := *n
	var err error
	if second.ak, err = n.dev.AK(d.cfg.Domain, 2); err != nil {
		t.Fatal(err)
	}
	d.unmoved(n, d.shot(n).take(&second), protocol.EvidenceUnverified)
}

func TestMalformedBodies(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	good := d.shot(n).take(n)
	for _, b := range [][]byte{nil, []byte("{}"), good[:len(good)-1], append(bytes.Clone(good), '\n'), bytes.Replace(good, []byte("quote"), []byte("quota"), 1), make([]byte, evidence.MaxSize+1)} {
		d.unmoved(n, b, protocol.EvidenceMalformed)
	}
	s := d.shot(n)
	s.change = func(e *evidence.Evidence) { e.Set(evidence.Ask, evidence.Item{}) }
	d.unmoved(n, s.take(n), protocol.EvidenceMalformed)
	s = d.shot(n)
	s.key = []byte(`{"kty":"oct"}`) // authentic, and bound to nothing that can sign
	d.unmoved(n, s.take(n), protocol.EvidenceMalformed)
	if _, err := d.Attest(ctx, good); err != nil {
		t.Error(err)
	}
}

// TestExpiredChallenge: a challenge lives as long as a token (security rule 10).
func TestExpiredChallenge(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	s := d.shot(n)
	body := s.take(n)
	d.pass(d.cfg.TokenLife + time.Second)
	d.unmoved(n, body, protocol.NonceExpired)
	s = d.shot(n)
	body = s.take(n)
	d.pass(d.cfg.TokenLife - 2*time.Second)
	out, err := d.Attest(ctx, body)
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ At int64 }
	if err := json.Unmarshal(out.Verdict, &v); err != nil {
		t.Fatal(err)
	}
	if c := d.claims(out.Token); c.Expires > v.At+2*int64(d.cfg.TokenLife/time.Second) {
		t.Errorf("token ends at %d, more than two lives after its challenge of %d", c.Expires, v.At)
	}
}

// TestOldChallengeAfterVerdict: a quote taken while clean is worth nothing after
// the node was denied (security rule 10).
func TestOldChallengeAfterVerdict(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	clean := d.shot(n).take(n)
	held := d.shot(n) // another challenge, not yet quoted
	n.extend(4, "a foreign boot application")
	d.denied(n, "boot/replay")
	d.unmoved(n, clean, protocol.NonceExpired)
	d.unmoved(n, held.take(n), protocol.NonceExpired)
}

// extend measures something into a PCR and returns the event a log would have.
func (n *node) extend(pcr uint32, data string) eventlog.Event {
	n.t.Helper()
	e := eventlog.Event{PCR: pcr, Type: eventlog.BootServicesApp, Data: []byte(data)}
	for _, a := range []tpm.Alg{tpm.AlgSHA1, tpm.AlgSHA256, tpm.AlgSHA384, tpm.AlgSHA512} {
		hash, _ := a.Hash()
		h := hash.New()
		h.Write(e.Data)
		e.Digests = append(e.Digests, eventlog.Digest{Alg: a, Sum: h.Sum(nil)})
	}
	if err := n.tpm.Extend(int(pcr), e.Digests...); err != nil {
		n.t.Fatal(err)
	}
	return e
}

// logged appends an event to the machine's boot log and returns its index.
func (n *node) logged(e eventlog.Event) int {
	n.t.Helper()
	l, err := eventlog.Parse(n.log)
	if err != nil {
		n.t.Fatal(err)
	}
	e.Digests = slices.DeleteFunc(e.Digests, func(d eventlog.Digest) bool { return !slices.Contains(l.Algs, d.Alg) })
	l.Events = append(l.Events, e)
	n.log = l.Marshal()
	return len(l.Events) - 1
}

// TestForgedPostsMoveNothing: 10,000 posts in a working node's name, with live
// challenges, change nothing of it and are one entry a minute (security rule 1).
func TestForgedPostsMoveNothing(t *testing.T) {
	t.Parallel()
	d := openDomain(t, storetest.NewMemory())
	n := d.member("c-grub-sb")
	base := d.claims(d.mustGrant(n).Token)
	var forgeries [][]byte
	forge := func() {
		forgeries = nil
		for _, change := range []func(*evidence.Evidence){
			func(e *evidence.Evidence) { e.Quote.Signature[20] ^= 1 },
			func(e *evidence.Evidence) { e.Quote.Attest[40] ^= 1 },
			func(e *evidence.Evidence) { e.Quote.Signature = nil },
			func(e *evidence.Evidence) {
				e.Set(evidence.UEFILog, evidence.Item{Content: []byte("a log")})
			},
			func(e *evidence.Evidence) { e.Quote.Nonce = bytes32(1) }, // no live challenge: not looked at, but counted
		} {
			s := d.shot(n)
			s.log, s.list = nil, nil
			s.change = func(e *evidence.Evidence) {
				e.Quote.Values = nil
				e.Set(evidence.BindKey, evidence.Item{})
				change(e)
			}
			forgeries = append(forgeries, s.take(n))
		}
	}
	forge()
	row, size := d.row(n.id), d.log.Size()
	flood := func(posts int) {
		var wg sync.WaitGroup
		for w := range 2 {
			wg.Go(func() {
				for i := w; i < posts; i += 2 {
					_, err := d.Attest(ctx, forgeries[i%len(forgeries)])
					if r, ok := err.(*protocol.Refusal); !ok || r.Denied != nil || (r.Code != protocol.EvidenceUnverified && r.Code != protocol.NonceExpired) {
						t.Errorf("post %d: %v", i, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	flood(5000)
	if d.row(n.id) != row || d.log.Size() != size {
		t.Errorf("after 5,000 posts the log has grown by %d, the node is %s", d.log.Size()-size, d.row(n.id))
	}
	if _, err := d.Token(ctx, base, request(d, "work goes on")); err != nil {
		t.Error(err)
	}
	d.pass(40 * time.Second)
	d.mustGrant(n)
	d.pass(21 * time.Second)
	forge()
	row, size = d.row(n.id), d.log.Size()
	flood(5000)
	if d.row(n.id) != row {
		t.Errorf("the node moved: %s", d.row(n.id))
	}
	grown := d.entries(size)
	if len(grown) != 1 || grown[0].Kind != bundle.ForgeriesRejected {
		t.Fatalf("the log has grown by %d entries, want one that counts", len(grown))
	}
	var r bundle.Rejected
	if err := json.Unmarshal(grown[0].Data, &r); err != nil || r.Count < 5001 || r.Count > 5002 {
		t.Errorf("counted %+v, %v", r, err)
	}
	d.mustGrant(n)
}

// request asks for a token for one execution.
func request(d *domain, id string) evidence.Request {
	return evidence.Request{Audience: d.EnclaveAudience(), Execution: "job", Level: "E3", R: random(32), ID: strings.ReplaceAll(id, " ", "-")}
}
