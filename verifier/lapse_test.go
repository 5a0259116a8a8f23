package verifier_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/token"
)

// lapses are the entries that say that nodes have lapsed.
func (d *domain) lapses() (out []bundle.Lapse) {
	d.t.Helper()
	found, _, err := d.log.Find(d.t.Context(), 0, bundle.Lapsed)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range found {
		var l bundle.Lapse
		if err := json.Unmarshal(f.Leaf.Data, &l); err != nil {
			d.t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

func (d *domain) look() {
	d.t.Helper()
	if err := d.Lapse(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

// TestLapseIsWrittenOnce: a node that renews has not lapsed; one that does not, has,
// is written as such once, also by a verifier that was started since, and comes back
// with its next good evidence as after any lapse.
func TestLapseIsWrittenOnce(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	first := d.claims(d.mustGrant(n).Token)
	d.look()
	d.pass(40 * time.Second)
	last := d.claims(d.mustGrant(n).Token)
	d.pass(40 * time.Second) // the first deadline has passed
	d.look()
	if got := d.lapses(); len(got) != 0 {
		t.Fatalf("a node that renewed: %+v", got)
	}
	d.pass(19 * time.Second)
	d.look()
	if got := d.lapses(); len(got) != 0 {
		t.Fatalf("a node before its deadline: %+v", got)
	}
	if err := d.restart(); err != nil { // who gave the token is gone
		t.Fatal(err)
	}
	d.pass(5 * time.Second)
	for range 3 {
		d.look()
	}
	got := d.lapses()
	if len(got) != 1 || got[0] != (bundle.Lapse{From: verifier.Synchronized, To: verifier.FailClosed, Deadline: last.Expires, Seq: last.Writ.Seq}) {
		t.Fatalf("%+v, want one of seq %d at %d", got, last.Writ.Seq, last.Expires)
	}
	if first.Listed != last.Listed || d.listed(last) != token.Invalid {
		t.Errorf("the status list says %v of a run that is over", d.listed(last))
	}
	if again := d.claims(d.mustGrant(n).Token); again.Listed == last.Listed {
		t.Error("a run that is over went on")
	}
	d.look()
	if got := d.lapses(); len(got) != 1 {
		t.Errorf("after its return: %+v", got)
	}
}

// TestLapseIsNoAct: of a suspended node, and of a clock that was stepped, no lapse is
// written.
func TestLapseIsNoAct(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	d.look()
	if _, err := d.SetStatus(t.Context(), operator, n.id, verifier.Suspended, "x"); err != nil {
		t.Fatal(err)
	}
	d.pass(2 * time.Minute)
	d.look()
	if got := d.lapses(); len(got) != 0 {
		t.Errorf("a suspended node: %+v", got)
	}
	if _, err := d.SetStatus(t.Context(), operator, n.id, verifier.Active, "x"); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n)
	d.stepClock(time.Hour)
	d.look()
	if got := d.lapses(); len(got) != 0 {
		t.Errorf("a clock that was set forward: %+v", got)
	}
}

// TestOccurrences: what the log says of legitimacy, in order, once each.
func TestOccurrences(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	d.mustGrant(n) // a renewal is none
	if _, err := d.SetStatus(t.Context(), operator, n.id, verifier.Suspended, "why"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Freeze(t.Context(), operator, "ice"); err != nil {
		t.Fatal(err)
	}
	var got []verifier.Occurrence
	for from := uint64(0); from < d.log.Size(); {
		out, next, err := d.Occurrences(t.Context(), from)
		if err != nil || next <= from {
			t.Fatalf("from %d to %d: %v", from, next, err)
		}
		got, from = append(got, out...), next
	}
	want := []verifier.Occurrence{
		{Kind: bundle.Issued, Node: n.id, Subject: d.NodeSubject(n.id), Cause: "granted", Reason: "granted", By: "policy"},
		{Kind: bundle.Revoked, Node: n.id, Subject: d.NodeSubject(n.id), Seq: 2, Cause: "suspended", Reason: "why", By: "admin"},
		{Kind: bundle.Frozen, Subject: "spiffe://test.invalid", Epoch: 1, Cause: "frozen", Reason: "ice", By: "admin"},
	}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, o := range got {
		w := want[i]
		if o.Kind != w.Kind || o.Node != w.Node || o.Subject != w.Subject || o.Seq != w.Seq || o.Epoch != w.Epoch || o.Cause != w.Cause || o.Reason != w.Reason || o.By != w.By || o.At == 0 {
			t.Errorf("%+v, want %+v", o, w)
		}
	}
	if _, _, err := d.log.Find(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if _, next, err := d.log.Find(t.Context(), d.log.Size(), bundle.Issued); err != nil || next != d.log.Size() {
		t.Errorf("behind the end: %d %v", next, err)
	}
}

// TestBundleSequenceGrows: the SPIFFE bundle's sequence is greater whenever its keys
// have changed, and the same otherwise.
func TestBundleSequenceGrows(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	last := uint64(0)
	read := func() uint64 {
		t.Helper()
		var b struct {
			Keys     []struct{ Kid, Use string }
			Sequence uint64 `json:"spiffe_sequence"`
			Hint     int    `json:"spiffe_refresh_hint"`
		}
		if err := json.Unmarshal(d.SPIFFEBundle(60), &b); err != nil || len(b.Keys) == 0 || b.Hint != 60 {
			t.Fatalf("%+v %v", b, err)
		}
		return b.Sequence
	}
	for i, act := range []func() error{
		func() error { return nil },
		func() error { _, err := d.RotateKey(t.Context(), operator); return err },
		func() error { d.pass(verifier.KeyOverlap + time.Second); return d.TendKeys(t.Context()) },
		func() error { d.pass(token.MaxLife + time.Second); return d.TendKeys(t.Context()) },
		func() error { _, err := d.WithdrawKey(t.Context(), operator, d.TokenKeys().IDs()[0], "x"); return err },
	} {
		if err := act(); err != nil {
			t.Fatal(err)
		}
		now := read()
		if again := read(); again != now {
			t.Errorf("read twice: %d and %d", now, again)
		}
		if turned := i == 2; now <= last && !turned { // that another one of them signs changes no key
			t.Errorf("step %d: sequence %d after %d", i, now, last)
		}
		last = now
	}
}
