package verifier_test

import (
	"crypto/sha256"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

const day = 24 * time.Hour

// prune gives up the evidence of before so many days, and as many entries.
func (d *domain) prune(keep time.Duration, entries bool) verifier.Pruned {
	d.t.Helper()
	cut := verifier.Cut{Evidence: d.now().Add(-keep).Unix()}
	if entries {
		cut.Entries = cut.Evidence
	}
	size := d.log.Size()
	plan, err := verifier.PlanPrune(ctx, d.reads.Store, cut)
	if err != nil {
		d.t.Fatal(err)
	}
	if d.log.Size() != size {
		d.t.Error("planning to prune wrote to the log")
	}
	p, err := d.Prune(ctx, cut)
	if err != nil {
		d.t.Fatal(err)
	}
	if plan != p {
		d.t.Errorf("planned to give up %+v, gave up %+v", plan, p)
	}
	return p
}

// fsck is what a check of store and log finds.
func (d *domain) fsck() []ledger.Problem {
	d.t.Helper()
	r, err := ledger.Fsck(ctx, d.reads.Store, filepath.Join(d.dir, "guard"), d.log.VerifierKey())
	if err != nil {
		d.t.Fatal(err)
	}
	return r.Problems
}

// index is that of the entry a node's last decision is.
func (d *domain) index(n *node) uint64 {
	d.t.Helper()
	row, err := d.Node(ctx, n.id)
	if err != nil {
		d.t.Fatal(err)
	}
	return row.Last.Index
}

// fill makes the log n entries longer.
func (d *domain) fill(n int) {
	d.t.Helper()
	var all []ledger.Entry
	for i := range n {
		all = append(all, ledger.Entry{Kind: "test.filled", Data: map[string]int{"n": i}})
	}
	if _, err := d.log.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{Entries: all}, nil }}); err != nil {
		d.t.Fatal(err)
	}
}

// TestPruneKeepsProofs: what is old loses its evidence and then its bytes, never
// its place in the tree. A receipt that was given out still proves, and so does
// everything that is younger, bundles included.
func TestPruneKeepsProofs(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	out := d.mustGrant(n)
	old, size := d.index(n), d.log.Size()
	entry, err := d.log.Entry(ctx, old)
	if err != nil {
		t.Fatal(err)
	}
	before := d.log.Checkpoint()
	d.fill(300)
	d.pass(100 * day)
	d.mustGrant(n)

	p := d.prune(90*day, false)
	if p.Decisions != 1 || p.Blobs != 1 || p.Leaves != 0 || p.Evidence != d.index(n) {
		t.Errorf("pruning gave up %+v", p)
	}
	_, err = d.Bundle(ctx, n.id, int64(old))
	if r := refused(t, err, protocol.Pruned); !strings.Contains(r.Detail, "retention") {
		t.Errorf("the refusal says %q", r.Detail)
	}
	d.verifies(n, bundle.ResultVerified)
	last, err := d.log.Entry(ctx, d.log.Size()-1)
	if err != nil || !strings.Contains(string(last), `"retention.pruned"`) {
		t.Errorf("the log's last entry is %s, %v", last, err)
	}

	d.fill(300)
	if p := d.prune(90*day, true); p.Entries != 256 || p.Leaves != 256 {
		t.Errorf("pruning entries gave up %+v", p)
	}
	if _, err := d.log.Entry(ctx, old); !errors.Is(err, ledger.ErrPruned) {
		t.Errorf("an entry that was given up = %v, want ErrPruned", err)
	}
	if _, err := d.log.EntryBundle(ctx, 0, 256); !errors.Is(err, ledger.ErrPruned) {
		t.Errorf("a bundle of entries that were given up = %v, want ErrPruned", err)
	}
	_, err = d.Bundle(ctx, n.id, int64(old))
	refused(t, err, protocol.Pruned)
	_, err = d.Bundle(ctx, n.id, 0)
	refused(t, err, protocol.Pruned)
	for _, receipt := range []string{out.Receipt, d.proof(old)} {
		if _, _, err := ledger.CheckProof(receipt, entry, d.log.VerifierKey()); err != nil {
			t.Errorf("a receipt of a pruned entry: %v", err)
		}
	}
	d.verifies(n, bundle.ResultVerified) // its enrolment is older and stays
	if err := d.restart(); err != nil {
		t.Fatal(err)
	}
	if err := d.log.Confront(ctx, before); err != nil {
		t.Errorf("the log does not extend its checkpoint of size %d: %v", size, err)
	}
	if found := d.fsck(); len(found) > 0 {
		t.Errorf("Fsck finds %v", found)
	}
	if p := d.prune(90*day, true); p.Decisions+p.Blobs+p.Leaves != 0 {
		t.Errorf("pruning again gave up %+v", p)
	}
}

func (d *domain) proof(index uint64) string {
	d.t.Helper()
	p, err := d.log.Prove(ctx, index)
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

// TestPruneSparesLiveNodes: a node that has run on one boot for longer than
// evidence is kept renews from the digest of its boot log and the offset of its
// IMA list, as do a suspended one and one that shares a boot log with a younger;
// and whoever boots anew is spared what the boot before rested on no longer.
func TestPruneSparesLiveNodes(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	quiet := d.machine("c-grub-sb")
	d.enrol(quiet, "grub")
	d.mustGrant(quiet)
	for range 3 { // longer than retention, a renewal in between
		d.pass(40 * day)
		s := d.shot(n)
		s.byDigest, s.offset = true, len(n.list)-200
		d.mustGrantShot(n, s)
	}
	d.pass(2 * day)
	if p := d.prune(90*day, true); p.Decisions != 2 || p.Blobs != 2 {
		t.Errorf("pruning gave up %+v, expected the first decisions' own alone", p)
	}
	for range 2 {
		for _, m := range []*node{n, quiet} {
			s := d.shot(m)
			s.byDigest, s.offset = true, len(m.list)-200
			d.mustGrantShot(m, s)
			d.verifies(m, bundle.ResultVerified)
		}
		if err := d.restart(); err != nil { // what is in memory does not count
			t.Fatal(err)
		}
	}

	// Both boot something else. What they rested on goes, when it is old enough.
	was := sha256.Sum256(n.log)
	for _, m := range []*node{n, quiet} {
		m.log, m.list = read(t, boots+"a-direct/eventlog.bin"), read(t, boots+"a-direct/ima.bin")
		m.reboot()
		_, _ = d.attest(m) // whatever the verdict
	}
	if p := d.prune(day, true); p.Decisions != 3 || p.Blobs != 3 {
		t.Errorf("pruning gave up %+v", p)
	}
	for _, want := range []error{nil, ledger.ErrNotFound} {
		if _, err := d.log.Blob(ctx, was); !errors.Is(err, want) {
			t.Errorf("the boot log of the boot before = %v, want %v", err, want)
		}
		d.pass(92 * day)
		d.prune(90*day, true)
	}
	if _, err := d.log.Blob(ctx, sha256.Sum256(n.log)); err != nil {
		t.Errorf("the boot log that the nodes' state names: %v", err)
	}
}

// TestPruneSparesReferences: a reference set and its lists stay, however old.
func TestPruneSparesReferences(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	d.pass(400 * day)
	d.prune(day, true)
	if err := d.restart(); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n)
	d.verifies(n, bundle.ResultVerified)
}

// TestPrunedIsNotLost: bytes that are missing without an entry that gives them
// up are named, and so is such an entry about the future.
func TestPrunedIsNotLost(t *testing.T) {
	t.Parallel()
	d, _ := ready(t)
	d.fill(600)
	d.pass(100 * day)
	d.fill(1)
	if p := d.prune(90*day, true); p.Entries != 512 {
		t.Fatalf("pruning gave up %+v", p)
	}
	if found := d.fsck(); len(found) > 0 {
		t.Fatalf("Fsck of a pruned log finds %v", found)
	}
	sweep := func(from, to uint64) {
		_, err := d.log.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Sweep: &ledger.Sweep{From: from, To: to}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	sweep(511, 514)
	found := d.fsck()
	if len(found) != 2 || found[0].Where != "entry 512" || found[1].Where != "entry 513" {
		t.Errorf("Fsck finds %v, want entries 512 and 513", found)
	}
}

// TestPruneIsDue: verifiers of a domain prune once a day between them.
func TestPruneIsDue(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	d.pass(100 * day)
	d.mustGrant(n)
	_, err := d.Prune(ctx, verifier.Cut{Evidence: d.now().Add(time.Hour).Unix()})
	refused(t, err, protocol.IllegalAct)
	d.stepClock(time.Hour)
	if _, err := d.Prune(ctx, verifier.Cut{Evidence: d.now().Unix()}); err == nil {
		t.Error("pruned by a clock that was set")
	}
}
