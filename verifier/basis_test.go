package verifier_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestAssertedIsNotMeasured: a workload counts as measured only when an entry
// under the quoted PCR 10 names its digest, whatever the node says; and a bundle
// whose entry says otherwise does not hold.
func TestAssertedIsNotMeasured(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	l, err := ima.Parse(n.list)
	if err != nil {
		t.Fatal(err)
	}
	var known string
	for _, e := range l.Entries[1:] {
		if e.FileAlg == tpm.AlgSHA256 && !e.Violation {
			known = "sha256:" + hex.EncodeToString(e.FileDigest)
		}
	}
	invented := "sha256:" + strings.Repeat("ab", 32)
	recorded := func(index int64) bundle.Token {
		t.Helper()
		raw, err := d.log.Entry(ctx, uint64(index))
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := ledger.ParseLeaf(raw)
		if err != nil {
			t.Fatal(err)
		}
		var out bundle.Token
		if leaf.Kind != bundle.Admitted {
			var dec bundle.Decision
			err = json.Unmarshal(leaf.Data, &dec)
			out = *dec.Token
		} else {
			err = json.Unmarshal(leaf.Data, &out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	s := d.shot(n)
	s.req.Workload, s.req.Keeper = known, invented
	base := d.claims(d.mustGrantShot(n, s).Token)
	if r := recorded(base.Writ.Log.Index); r.WorkloadBasis != appraisal.BasisMeasured || r.KeeperBasis != appraisal.BasisAsserted {
		t.Errorf("decision: %+v", r)
	}
	b, err := d.Bundle(ctx, n.id, -1)
	if err != nil {
		t.Fatal(err)
	}
	if r := bundle.Verify(b, d.trust()); r.Result != bundle.ResultVerified {
		t.Errorf("bundle: %s: %+v", r.Result, r.Checks)
	}
	for id, c := range map[string]struct{ wl, basis string }{"one": {known, appraisal.BasisMeasured}, "two": {invented, appraisal.BasisAsserted}, "three": {"", ""}} {
		req := request(d, id)
		req.Workload = c.wl
		g, err := d.Token(ctx, base, req)
		if err != nil {
			t.Fatal(err)
		}
		if r := recorded(d.claims(g.Token).Writ.Log.Index); r.WorkloadBasis != c.basis {
			t.Errorf("workload %q: %q, want %q", c.wl, r.WorkloadBasis, c.basis)
		}
	}
	// What follows the quoted prefix is the node's word.
	list := n.list
	n.list = append(list[:len(list):len(list)], entryOf(t, list, invented)...)
	s = d.shot(n)
	s.req.Workload = invented
	base = d.claims(d.mustGrantShot(n, s).Token)
	if r := recorded(base.Writ.Log.Index); r.WorkloadBasis != appraisal.BasisAsserted {
		t.Errorf("an entry behind the proven prefix: %+v", r)
	}
}

// TestInventedMeasurement: a verifier that records, and signs, "measured" about a
// digest which no proven entry of the IMA list names is caught by whoever checks
// the bundle.
func TestInventedMeasurement(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.meddled = true // entries that no decision made
	invented := "sha256:" + strings.Repeat("ab", 32)
	list := n.list
	n.list = append(list[:len(list):len(list)], entryOf(t, list, invented)...) // behind what PCR 10 proves
	s := d.shot(n)
	s.req.Workload, s.req.Keeper = invented, invented
	d.mustGrantShot(n, s)
	good := d.verifies(n, bundle.ResultVerified)
	for what, c := range map[string]struct {
		lie  func(*bundle.Token)
		want string
	}{
		"nothing":        {func(*bundle.Token) {}, bundle.ResultVerified},
		"the workload":   {func(rec *bundle.Token) { rec.WorkloadBasis = appraisal.BasisMeasured }, bundle.ResultInvalid},
		"the keeper":     {func(rec *bundle.Token) { rec.KeeperBasis = appraisal.BasisMeasured }, bundle.ResultInvalid},
		"another keeper": {func(rec *bundle.Token) { rec.Keeper = "sha256:" + strings.Repeat("cd", 32) }, bundle.ResultInvalid},
	} {
		if r := bundle.Verify(d.recordedAgain(good, c.lie), d.trust()); r.Result != c.want {
			t.Errorf("%s invented: %s, want %s: %+v", what, r.Result, c.want, r.Checks)
		}
	}
}

// recordedAgain is a decision with an entry and a token of its own, which differ
// from the real ones in what change does to the record: what a lying verifier
// signs.
func (d *domain) recordedAgain(b *bundle.Bundle, change func(*bundle.Token)) *bundle.Bundle {
	d.t.Helper()
	leaf, err := ledger.ParseLeaf(b.Entry)
	if err != nil {
		d.t.Fatal(err)
	}
	var rec bundle.Decision
	if err := json.Unmarshal(leaf.Data, &rec); err != nil {
		d.t.Fatal(err)
	}
	change(rec.Token)
	index := d.log.Size()
	receipts, err := d.log.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Entries: []ledger.Entry{{Kind: leaf.Kind, Subject: leaf.Subject, Actor: leaf.Actor, Data: rec}}}, nil
	}})
	if err != nil {
		d.t.Fatal(err)
	}
	out := *b
	out.Receipt = receipts[0].Proof
	if out.Entry, err = d.log.Entry(ctx, index); err != nil {
		d.t.Fatal(err)
	}
	claims := *d.claims(b.Token)
	claims.Writ.Log.Index = int64(index)
	if out.Token, err = token.Issue(claims, tokenKey(d), rand.Reader); err != nil {
		d.t.Fatal(err)
	}
	return &out
}

// entryOf is the last record of a list, naming another digest.
func entryOf(t *testing.T, list []byte, digest string) []byte {
	t.Helper()
	l, err := ima.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	e := l.Entries[len(l.Entries)-1]
	sum, err := hex.DecodeString(strings.TrimPrefix(digest, "sha256:"))
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Replace(e.Data, e.FileDigest, sum, 1)
	template := sha1.Sum(data)
	record := bytes.Replace(list[e.Offset:e.End], e.Data, data, 1)
	return bytes.Replace(record, e.TemplateHash, template[:], 1)
}
