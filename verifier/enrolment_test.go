package verifier_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// bundle is that of the node's last decision.
func (d *domain) bundle(n *node) *bundle.Bundle {
	d.t.Helper()
	b, err := d.Bundle(ctx, n.id, -1)
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// onlyEnrolment requires that the enrolment and nothing else does not hold.
func (d *domain) onlyEnrolment(what string, b *bundle.Bundle) {
	d.t.Helper()
	var failing []string
	r := bundle.Verify(b, d.trust())
	for _, c := range r.Checks {
		if c.Result == bundle.Fail {
			failing = append(failing, c.Name)
		}
	}
	if r.Result != bundle.ResultInvalid || !slices.Equal(failing, []string{"enrolment"}) {
		d.t.Errorf("%s: %s, failing %v", what, r.Result, failing)
	}
}

// TestKeySwappedInStore: somebody who can write the database puts another TPM's
// key into a node's row. The verifier then believes that TPM; the log does not,
// and whoever checks a bundle sees it (security rule 5).
func TestKeySwappedInStore(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.meddled = true
	d.mustGrant(n)
	d.verifies(n, bundle.ResultVerified)
	thief := d.machine("c-grub-sb")
	eks, err := thief.dev.EKs()
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*verifier.Node){
		"attestation key": func(*verifier.Node) {},
		"and the EK": func(row *verifier.Node) {
			row.EKs = []protocol.EK{{Public: eks[0].Public.Marshal(), Certificate: eks[0].Certificate, Chain: eks[0].Chain}}
		},
	} {
		row, err := d.Node(ctx, n.id)
		if err != nil {
			t.Fatal(err)
		}
		row.AK, row.Boot, row.IMAChunks = thief.ak.Public(), nil, nil
		change(row)
		raw, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.log.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Puts: []ledger.Put{{Key: ledger.Key{Kind: "node", ID: n.id}, Value: raw}}}, nil
		}}); err != nil {
			t.Fatal(err)
		}
		thief.id = n.id
		d.mustGrant(thief)
		d.onlyEnrolment(what, d.bundle(thief))
	}
}

// TestEnrolmentOfAnotherNode, of another time, and by another log.
func TestEnrolmentOfAnotherNode(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	other := d.machine("c-grub-sb")
	d.enrol(other, "grub")
	d.mustGrant(other)
	d.mustGrant(n)
	good := d.bundle(n)
	with := func(e *bundle.Enrolment) *bundle.Bundle {
		b := *good
		b.Enrolment = e
		return &b
	}
	d.onlyEnrolment("another node's enrolment", with(d.bundle(other).Enrolment))
	d.onlyEnrolment("no proof of it", with(&bundle.Enrolment{Entry: good.Enrolment.Entry}))
	d.onlyEnrolment("another entry's proof", with(&bundle.Enrolment{Entry: good.Enrolment.Entry, Receipt: good.Receipt}))
	d.onlyEnrolment("the decision as enrolment", with(&bundle.Enrolment{Entry: good.Entry, Receipt: good.Receipt}))
	if r := bundle.Verify(with(nil), d.trust()); r.Result != bundle.ResultPartial {
		t.Errorf("without the enrolment: %s", r.Result)
	}

	d.enrol(n, "moved") // the same TPM again, in another class
	moved, err := d.Node(ctx, n.id)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := d.log.Entry(ctx, moved.Entry)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := d.log.Prove(ctx, moved.Entry)
	if err != nil {
		t.Fatal(err)
	}
	d.onlyEnrolment("a later enrolment", with(&bundle.Enrolment{Entry: entry, Receipt: receipt}))
	d.learn("moved", n)
	d.mustGrant(n)
	good, old := d.bundle(n), good
	d.onlyEnrolment("an enrolment in another class", with(old.Enrolment))
	d.verifies(n, bundle.ResultVerified)

	index := int64(d.claims(old.Token).Writ.Log.Index) // what was decided then rests on what was known then
	b, err := d.Bundle(ctx, n.id, index)
	if err != nil {
		t.Fatal(err)
	}
	if r := bundle.Verify(b, d.trust()); r.Result != bundle.ResultVerified || !bytes.Equal(b.Enrolment.Entry, old.Enrolment.Entry) {
		t.Errorf("the earlier decision: %s", r.Result)
	}
}

// TestEnrolmentInAForkedLog: the log's key has signed another history of the same
// length, in which the node has these keys; and an enrolment in a log of another
// key.
func TestEnrolmentInAForkedLog(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	b := d.bundle(n)
	leaf, err := ledger.ParseLeaf(b.Enrolment.Entry)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ledger.ParseProof(b.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := ledger.OpenCheckpoint(p.Note, d.log.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	for key := byte(1); key <= 2; key++ {
		fork, err := ledger.Open(ctx, ledger.Config{Store: storetest.NewMemory(), Origin: d.cfg.Domain + "/log", Key: ed25519.NewKeyFromSeed(bytes32(key)), GuardFile: filepath.Join(t.TempDir(), "guard")})
		if err != nil {
			t.Fatal(err)
		}
		defer fork.Close()
		if _, err := fork.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (c ledger.Change, err error) {
			for range cp.Size {
				c.Entries = append(c.Entries, ledger.Entry{Kind: leaf.Kind, Subject: leaf.Subject, Actor: leaf.Actor, Data: leaf.Data})
			}
			return c, nil
		}}); err != nil {
			t.Fatal(err)
		}
		e := new(bundle.Enrolment)
		if e.Entry, err = fork.Entry(ctx, 0); err != nil {
			t.Fatal(err)
		}
		if e.Receipt, err = fork.Prove(ctx, 0); err != nil {
			t.Fatal(err)
		}
		forged := *b
		forged.Enrolment = e
		d.onlyEnrolment("a fork", &forged)
	}
}
