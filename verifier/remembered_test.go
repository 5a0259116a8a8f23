package verifier_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// other is a second verifier on the same database.
func (d *domain) other() *verifier.Service {
	d.t.Helper()
	cfg := d.cfg
	cfg.Name = "2"
	v, err := verifier.New(ctx, cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

// TestAnotherVerifierActed: rows that a verifier remembers count for nothing once
// another one on the same database has changed them (security rules 12, 13).
func TestAnotherVerifierActed(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	other := d.other()
	status := func(to string) {
		t.Helper()
		if _, err := other.SetStatus(ctx, operator, n.id, to, "by the other"); err != nil {
			t.Fatal(err)
		}
	}
	d.mustGrant(n)

	body := d.shot(n).take(n)
	status(verifier.Suspended)
	_, err := d.Attest(ctx, body)
	refused(t, err, protocol.NonceExpired) // the act voids the challenge too
	if row := d.node(n.id); row.Seq != 1 {
		t.Fatalf("%d tokens, the last one while suspended", row.Seq)
	}
	status(verifier.Active)
	d.mustGrant(n) // by what was remembered its challenge was no good

	s := d.shot(n)
	body = s.take(n)
	granted, err := other.Attest(ctx, body)
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.Attest(ctx, body) // answered elsewhere: the same claims
	if err != nil || d.claims(again.Token).ID != d.claims(granted.Token).ID {
		t.Fatalf("answered anew: %v", err)
	}
	d.mustGrant(n)

	body = d.shot(n).take(n)
	if _, err := other.Freeze(ctx, operator, "by the other"); err != nil {
		t.Fatal(err)
	}
	_, err = d.Attest(ctx, body)
	refused(t, err, protocol.DomainFrozen)
	if _, err := other.Unfreeze(ctx, operator, "by the other"); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n)

	set := d.active("grub")
	set.Generation++
	set.IMA.Files = set.IMA.Files[:3]
	if p, err := other.Publish(ctx, operator, d.signed(set)); err != nil || !p.Active {
		t.Fatal(p, err)
	}
	d.denied(n, "ima/unknown-file")
}

// TestRepeatedAfterRevocationElsewhere: a request that this verifier answered is
// not answered again when another one has ended its token.
func TestRepeatedAfterRevocationElsewhere(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	other := d.other()
	body := d.shot(n).take(n)
	if _, err := d.Attest(ctx, body); err != nil {
		t.Fatal(err)
	}
	if _, err := other.SetStatus(ctx, operator, n.id, verifier.Revoked, "stolen"); err != nil {
		t.Fatal(err)
	}
	_, err := d.Attest(ctx, body)
	refused(t, err, protocol.TokenRevoked)
}

// TestStaleRowsAreNoForgery: evidence that only looks wrong beside an old row is
// not counted as forged; what is forged is counted once.
func TestStaleRowsAreNoForgery(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	other := d.other()
	d.mustGrant(n)
	if _, err := other.Attest(ctx, d.shot(n).take(n)); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n)
	forged := func() {
		s := d.shot(n)
		s.nonce[31] ^= 1
		_, err := d.Attest(ctx, s.take(n))
		refused(t, err, protocol.NonceExpired)
	}
	forged()
	from := d.log.Size()
	d.pass(61 * time.Second)
	forged()
	for _, e := range d.entries(from) {
		var r bundle.Rejected
		if err := json.Unmarshal(e.Data, &r); e.Kind == bundle.ForgeriesRejected && (err != nil || r.Count != 2) {
			t.Errorf("%d counted as forged, expected 2 (%v)", r.Count, err)
		} else if e.Kind == bundle.ForgeriesRejected {
			return
		}
	}
	t.Error("nothing was counted")
}
