package verifier_test

import (
	"encoding/json"
	"sync"
	"testing"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// between has f run after the next appraisal has read what it rests on, and
// before it commits (security rule 13).
func (d *domain) between(f func()) { d.reads.after.Store("pack", f) }

// TestRevokedBetweenAppraisalAndCommit: the act wins, whatever was read before.
func TestRevokedBetweenAppraisalAndCommit(t *testing.T) {
	t.Parallel()
	for _, status := range []string{verifier.Suspended, verifier.Revoked, verifier.Retired} {
		d, n := ready(t)
		body := d.shot(n).take(n)
		d.between(func() {
			if _, err := d.SetStatus(ctx, operator, n.id, status, "just now"); err != nil {
				t.Error(err)
			}
		})
		_, err := d.Attest(ctx, body)
		if r, ok := err.(*protocol.Refusal); !ok || (r.Code != protocol.NodeNotActive && r.Code != protocol.NonceExpired) {
			t.Errorf("%s in between: %v", status, err)
		}
		if row := d.node(n.id); row.Seq != 0 || row.State != verifier.FailClosed {
			t.Errorf("%s in between: %d tokens, state %s", status, row.Seq, row.State)
		}
	}
}

// TestReferenceActivatedBetween: the verdict is made again by the set in force.
func TestReferenceActivatedBetween(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	set := d.active("grub")
	set.Generation++
	set.IMA.Files = set.IMA.Files[:3]
	d.between(func() { d.publish(set) })
	d.denied(n, "ima/unknown-file")
	set.Generation++
	set.Name = "another-class" // and an act on another class costs one more appraisal
	d.between(func() { d.publish(set) })
	d.denied(n, "ima/unknown-file")
}

// TestFrozenBetween: a freeze wins over a grant in hand, never over a denial.
func TestFrozenBetween(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	base := d.claims(d.mustGrant(n).Token)
	freeze := func() {
		if _, err := d.Freeze(ctx, operator, "just now"); err != nil {
			t.Error(err)
		}
	}
	body := d.shot(n).take(n)
	d.between(freeze)
	_, err := d.Attest(ctx, body)
	refused(t, err, protocol.DomainFrozen)
	_, err = d.Token(ctx, base, request(d, "one"))
	refused(t, err, protocol.DomainFrozen)
	n.extend(4, "a foreign boot application")
	d.denied(n, "boot/replay")
	if _, err := d.Unfreeze(ctx, operator, "again"); err != nil {
		t.Fatal(err)
	}
	n.reboot()
	_, err = d.Token(ctx, base, request(d, "two"))
	refused(t, err, protocol.TokenRevoked)
	d.mustGrant(n)
}

// TestDecidedBetween: of two quotes for one challenge one is used.
func TestDecidedBetween(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	c, err := d.Challenge(ctx, n.id, "")
	if err != nil {
		t.Fatal(err)
	}
	first, second := d.shotWith(n, c).take(n), d.shotWith(n, c).take(n)
	d.between(func() {
		if _, err := d.Attest(ctx, first); err != nil {
			t.Error(err)
		}
	})
	_, err = d.Attest(ctx, second)
	refused(t, err, protocol.NonceExpired)
	if row := d.node(n.id); row.Seq != 1 {
		t.Errorf("%d tokens for one challenge", row.Seq)
	}
}

// TestReprovisionedBetween: a quote of the former key earns nothing.
func TestReprovisionedBetween(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	body := d.shot(n).take(n)
	d.between(func() { d.enrol(n, "grub") })
	_, err := d.Attest(ctx, body)
	refused(t, err, protocol.NonceExpired)
	d.mustGrant(n)
}

// TestActsRaceRenewals lets renewals and operators' acts race, many times, and
// reads the outcome in the log: after an entry that ends a node's tokens there is
// none for it before the next act, and every token names the set in force.
func TestActsRaceRenewals(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	set := d.active("grub")
	act := func(f func() error) {
		if err := f(); err != nil {
			if _, ok := err.(*protocol.Refusal); !ok {
				t.Error(err)
			}
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		body := d.shot(n).take(n)
		wg.Go(func() { act(func() error { _, err := d.Attest(ctx, body); return err }) })
		wg.Go(func() {
			act(func() error { _, err := d.SetStatus(ctx, operator, n.id, verifier.Suspended, "race"); return err })
		})
		set.Generation++
		env := d.signed(set)
		wg.Go(func() { act(func() error { _, err := d.Publish(ctx, operator, env); return err }) })
		wg.Go(func() { act(func() error { _, err := d.Freeze(ctx, operator, "race"); return err }) })
		wg.Wait()
		act(func() error { _, err := d.SetStatus(ctx, operator, n.id, verifier.Active, "race"); return err })
		act(func() error { _, err := d.Unfreeze(ctx, operator, "race"); return err })
		d.mustGrant(n)
	}
	frozen, status, active := false, "", ""
	for _, e := range d.entries(0) {
		var data struct {
			bundle.Decision
			To, Digest string
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case bundle.Frozen, bundle.Unfrozen:
			frozen = e.Kind == bundle.Frozen
		case bundle.Revoked, bundle.NodeStatus:
			status = data.To
		case bundle.ReferenceActive:
			active = data.Digest
		case bundle.Issued, bundle.Renewed:
			if frozen || status == verifier.Suspended || data.References != active {
				t.Errorf("a token while frozen (%v), or %q, or by set %.8s when %.8s was in force", frozen, status, data.References, active)
			}
		}
	}
}
