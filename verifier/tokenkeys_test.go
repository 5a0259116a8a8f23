package verifier_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestRotatedKeySignsOn: after a rotation the bundles of before verify with the trust
// file of now, and tokens of now by the key of before do not.
func TestRotatedKeySignsOn(t *testing.T) {
	t.Parallel()
	d, n := ready(t, func(c *verifier.Config) { c.KeyOverlap = time.Second })
	d.mustGrant(n)
	old, before := tokenKey(d), d.trust()
	b := d.bundle(n)
	if before.Retired != nil {
		t.Errorf("nothing was retired yet: %+v", before.Retired)
	}
	if _, err := d.RotateKey(ctx, operator); err != nil {
		t.Fatal(err)
	}
	d.pass(2 * time.Second)
	if err := d.TendKeys(ctx); err != nil {
		t.Fatal(err)
	}
	claims := d.claims(d.mustGrant(n).Token)
	d.pass(token.MaxLife + 2*time.Second)
	trust, err := bundle.ParseTrust(d.trust().Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if trust.Retired == nil || len(trust.Retired.TokenKeys) != 1 || len(trust.TokenKeys.IDs()) != 1 {
		t.Fatalf("token keys %v, retired %+v", trust.TokenKeys.IDs(), trust.Retired)
	}
	if r := bundle.Verify(b, trust); r.Result != bundle.ResultVerified {
		t.Errorf("the bundle of before: %s, %+v", r.Result, r.Checks)
	}
	forgets := *trust
	forgets.Retired = nil
	if r := bundle.Verify(b, &forgets); r.Result != bundle.ResultInvalid || !failing(r, "token") {
		t.Errorf("the bundle of before, with the key forgotten: %s", r.Result)
	}
	forged := d.bundle(n)
	if r := bundle.Verify(forged, trust); r.Result != bundle.ResultVerified {
		t.Errorf("the bundle of after: %s, %+v", r.Result, r.Checks)
	}
	late := *claims // what the entry records, signed by the key of before, later than it signs
	late.IssuedAt, late.NotBefore, late.Expires = trust.Retired.TokenKeys[0].Until, trust.Retired.TokenKeys[0].Until, trust.Retired.TokenKeys[0].Until+60
	tok, err := token.Issue(late, old, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if r := bundle.InspectToken(tok, trust, time.Unix(late.IssuedAt, 0)); r.Result != bundle.ResultInvalid {
		t.Errorf("a token by the key that retired: %s, %+v", r.Result, r.Checks)
	}
	if r := bundle.InspectToken(b.Token, trust, d.now()); r.Result != bundle.ResultDenied {
		t.Errorf("a token of before: %s, %+v", r.Result, r.Checks)
	}
	if _, err := d.WithdrawKey(ctx, operator, before.TokenKeys.IDs()[0], "leaked after all"); err != nil {
		t.Fatal(err)
	}
	if r := bundle.Verify(b, d.trust()); !failing(r, "token") {
		t.Errorf("the bundle by a key that was withdrawn: %s", r.Result)
	}
}
