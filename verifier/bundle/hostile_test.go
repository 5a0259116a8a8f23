package bundle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/token"
)

// forger is a recorded decision, a trust file whose token key the test has, and the
// world of the decision's token.
func forger(t *testing.T) (*Bundle, *Trust, *hostile.World) {
	t.Helper()
	const vectors = "../../testdata/vectors/bundles/"
	raw, err := os.ReadFile(vectors + "first.writ.json")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = os.ReadFile(vectors + "trust.json"); err != nil {
		t.Fatal(err)
	}
	tr, err := ParseTrust(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := token.Verify(b.Token, tr.TokenKeys, token.Expect{Issuer: tr.IssuerURL(), Domain: tr.Domain, Audience: "spiffe://" + tr.Domain + "/enclave"}, time.Unix(b.Input.At, 0))
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
	return b, tr, &hostile.World{Issuer: key, Holder: key, Claims: *c, At: time.Unix(c.IssuedAt, 0)}
}

// TestHostileTokens: no other token passes for the one a decision led to, also not
// one that the domain's key signed. The evidence, which is the same each time, is
// judged once; the bad tokens of the table are tried with all of it too.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	b, tr, w := forger(t)
	whole := func(tok string) error {
		with := *b
		with.Token = tok
		if r := Verify(&with, tr); r.Result != ResultVerified {
			return errors.New(r.Result)
		}
		return nil
	}
	if err := whole(w.Good(t)); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	for _, bad := range w.Tokens(t) {
		if bad.Token != "" && whole(bad.Token) == nil { // a bundle without a token is another thing
			t.Errorf("%s: let in", bad.Name)
		}
	}
	v := appraisal.Appraise(b.Input)
	entry := new(Report).history(b, tr)
	hostile.Refused(t, w, func(tok string) error {
		r, with := new(Report), *b
		with.Token = tok
		r.token(&with, tr, &v, entry)
		if r.failed() {
			return errors.New(r.Checks[0].Detail)
		}
		return nil
	})
}

// TestHostileTokensAtProof: what /proof is shown of a bad token is never that it
// holds. By itself it cannot know the state of the domain, and says so of a good one.
func TestHostileTokensAtProof(t *testing.T) {
	t.Parallel()
	_, tr, w := forger(t)
	w.Timeless, w.Anyone = true, true
	hostile.Refused(t, w, func(tok string) error {
		if r := InspectToken(tok, tr, w.At); r.Result != ResultPartial {
			return errors.New(r.Result)
		}
		return nil
	})
}
