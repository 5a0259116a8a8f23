package ear

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/veraison/ear"

	"github.com/writ-attestation/writ/internal/interop/domain"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestVeraisonReadsTokens: Veraison's client verifies a token of a real domain with the
// key from its key set and finds in it who judged, what and how. One with a changed
// byte, or by a key of another domain, it refuses. Writ reads the same token.
func TestVeraisonReadsTokens(t *testing.T) {
	d := domain.Start(t, `ear_profile = "veraison-2023"`)
	tok := d.Token(t)
	set := keys(t, d)
	key, ok := set.LookupKeyID(token.KeyID(tok))
	if !ok {
		t.Fatalf("the key %s is not in the key set", token.KeyID(tok))
	}
	var r ear.AttestationResult
	if err := r.Verify([]byte(tok), jwa.ES256, key); err != nil {
		t.Fatal(err)
	}
	if *r.Profile != ear.EatProfile || *r.VerifierID.Developer == "" || !strings.HasPrefix(*r.VerifierID.Build, "writ ") || time.Since(time.Unix(*r.IssuedAt, 0)).Abs() > time.Minute {
		t.Errorf("profile %s, verifier %+v, issued at %d", *r.Profile, r.VerifierID, *r.IssuedAt)
	}
	p := r.Submods["platform"]
	if p == nil || *p.Status != ear.TrustTierAffirming || p.TrustVector.Hardware != 2 || p.TrustVector.InstanceIdentity != 2 || !strings.HasPrefix(*p.AppraisalPolicyID, "urn:sha256:") {
		t.Errorf("submod platform: %+v", p)
	}
	i := strings.LastIndexByte(tok, '.') + 10
	forged := tok[:i] + strings.Replace("AB", tok[i:i+1], "", 1)[:1] + tok[i+1:]
	if err := new(ear.AttestationResult).Verify([]byte(forged), jwa.ES256, key); err == nil {
		t.Error("a token with a changed signature is accepted")
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := token.ParseJWKS(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := token.Verify(tok, ours, token.Expect{Issuer: d.Issuer, Domain: "dev.invalid", Audience: d.Audience}, time.Now())
	if err != nil || c.Profile != token.Profile2023 || c.Status != "affirming" {
		t.Errorf("our own reading: %+v, %v", c, err)
	}
}

// TestNamesOf2026AreNoneOf2023: without the switch Veraison's client finds no result.
func TestNamesOf2026AreNoneOf2023(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	c := token.Claims{Issuer: "https://test.invalid", Subject: "spiffe://test.invalid/node/00", Audience: "a", ID: "1", IssuedAt: now, NotBefore: now, Expires: now + 60,
		Nonce: strings.Repeat("A", 43), Confirm: token.Confirm{JKT: strings.Repeat("A", 43)}, Status: "affirming", Verifier: token.Verifier{Developer: "d", Build: "b"},
		Submods: map[string]token.Submod{"platform": {Status: "affirming", Policies: []string{"urn:x"}}},
		Writ:    token.Writ{V: 1, State: "synchronized", Seq: 1, Level: "E0", Key: "lease", Log: token.Log{Origin: "test.invalid/log"}}}
	for profile, read := range map[string]bool{token.Profile2023: true, token.Profile2026: false} {
		c.Profile = profile
		tok, err := token.Issue(c, key, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := new(ear.AttestationResult).Verify([]byte(tok), jwa.ES256, key.Public()); (err == nil) != read {
			t.Errorf("%s: %v", profile, err)
		}
	}
}

// keys is what the issuer publishes, as jwx reads it.
func keys(t *testing.T, d *domain.Domain) jwk.Set {
	t.Helper()
	res, err := d.Client().Get(d.Issuer + "/.well-known/jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	set, err := jwk.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
