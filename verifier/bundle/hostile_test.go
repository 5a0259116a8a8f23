package bundle_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestHostileTokens: no other token passes for the one a decision led to, also not
// one that the domain's key signed.
func TestHostileTokens(t *testing.T) {
	b, tr := load(t, "first"), trust(t)
	issued := b.Input.At
	c, err := token.Verify(b.Token, tr.TokenKeys, token.Expect{Issuer: tr.IssuerURL(), Domain: tr.Domain, Audience: "spiffe://" + tr.Domain + "/enclave"}, time.Unix(issued, 0))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if tr.TokenKeys, err = token.NewKeys(key.Public()); err != nil {
		t.Fatal(err)
	}
	w := &hostile.World{Issuer: key, Holder: key, Claims: *c, At: time.Unix(c.IssuedAt, 0), Epoch: c.Writ.Epoch > 0, Boot: true}
	hostile.Refused(t, w, 50, func(tok string) error { // each judges the evidence anew
		with := *b
		with.Token = tok
		if r := bundle.Verify(&with, tr); r.Result != bundle.ResultVerified {
			return errors.New(r.Result)
		}
		return nil
	})
}
