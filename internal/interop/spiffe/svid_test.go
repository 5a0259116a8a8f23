package spiffe

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/writ-attestation/writ/verifier/token"
)

// TestBearerIsJWTSVID: go-spiffe takes a bearer token with our bundle, for its
// audience, from our key and while it lasts alone.
func TestBearerIsJWTSVID(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := token.NewKeys(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	td := spiffeid.RequireTrustDomainFromString("test.invalid")
	bundle, err := spiffebundle.Parse(td, keys.MarshalBundle(7, 60))
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := bundle.SequenceNumber(); !ok || n != 7 {
		t.Errorf("sequence %d", n)
	}
	now := time.Now().Unix()
	b := token.Bearer{Issuer: "https://test.invalid", Subject: "spiffe://test.invalid/node/00", Audience: "jobs", IssuedAt: now, NotBefore: now, Expires: now + 60, ID: "1", Status: "affirming"}
	old := b
	old.IssuedAt, old.NotBefore, old.Expires = now-3600, now-3600, now-3540
	for name, c := range map[string]struct {
		bearer   token.Bearer
		key      *ecdsa.PrivateKey
		audience string
		good     bool
	}{
		"good":             {b, key, "jobs", true},
		"another audience": {b, key, "other", false},
		"another key":      {b, other, "jobs", false},
		"expired":          {old, key, "jobs", false},
	} {
		tok, err := token.IssueBearer(c.bearer, c.key, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		svid, err := jwtsvid.ParseAndValidate(tok, bundle, []string{c.audience})
		if (err == nil) != c.good || err == nil && svid.ID.String() != b.Subject {
			t.Errorf("%s: %+v %v", name, svid, err)
		}
	}
}
