package token_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/writ-attestation/writ/verifier/token"
)

func TestJWKS(t *testing.T) {
	a, b := newKey(t), newKey(t)
	keys := keysOf(t, a, b)
	back, err := token.ParseJWKS(keys.MarshalJWKS())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(back.IDs(), keys.IDs()) || string(back.MarshalJWKS()) != string(keys.MarshalJWKS()) {
		t.Errorf("key set changed on the way: %s, expected %s", back.MarshalJWKS(), keys.MarshalJWKS())
	}
	if _, err := token.Verify(issue(t, good(), b), back, want, at); err != nil {
		t.Error(err)
	}
	if _, err := token.NewKeys(a.Public(), a.Public()); err == nil {
		t.Error("a key given twice is accepted")
	}
	if s := string((token.Keys{}).MarshalJWKS()); s != `{"keys":[]}` {
		t.Errorf("the zero set is %s", s)
	}
}

// TestThumbprint: RFC 9449's own key has the thumbprint of its section 6.1.
func TestThumbprint(t *testing.T) {
	const jwk = `{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}`
	if got, err := token.ThumbprintJWK([]byte(jwk)); err != nil || got != "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" {
		t.Errorf("thumbprint %s, %v", got, err)
	}
}

func TestWrongKeys(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, pub := range []any{nil, p384.Public(), ed, &ecdsa.PublicKey{}} {
		if _, err := token.Thumbprint(pub); err == nil {
			t.Errorf("%T has a thumbprint", pub)
		}
		if _, err := token.NewKeys(pub); err == nil {
			t.Errorf("%T is a token key", pub)
		}
	}
	if _, err := token.Issue(good(), edPrivate, rand.Reader); err == nil {
		t.Error("a token is signed by Ed25519")
	}
	private, err := (jose.JSONWebKey{Key: newKey(t)}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.ParseJWK(private); err == nil {
		t.Error("a private key is read as a public one")
	}
}

func TestForgedJWKS(t *testing.T) {
	key := newKey(t)
	set := string(keysOf(t, key).MarshalJWKS())
	for name, x := range map[string]struct{ old, new string }{
		"another kid":    {`"kid":"`, `"kid":"x`},
		"key twice":      {`"keys":[`, `"keys":[` + set[9:len(set)-2] + `,`},
		"name twice":     {`"kty":"EC"`, `"kty":"EC","kty":"EC"`},
		"off the curve":  {`"x":"`, `"x":"AAAA`},
		"private":        {`"crv"`, `"d":"` + text("d") + `","crv"`},
		"no keys":        {`"keys"`, `"Keys"`},
		"truncated":      {`]}`, ``},
		"oversize":       {`{"keys"`, `{"x":"` + strings.Repeat("a", token.MaxSize) + `","keys"`},
		"trailing bytes": {`]}`, `]}]`},
	} {
		if !strings.Contains(set, x.old) {
			t.Fatalf("%s: no %s in %s", name, x.old, set)
		}
		if k, err := token.ParseJWKS([]byte(strings.Replace(set, x.old, x.new, 1))); err == nil {
			t.Errorf("%s: accepted with keys %v", name, k.IDs())
		}
	}
	other := strings.Replace(set, `"keys":[`, `"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","use":"sig","alg":"RS256"},{"kty":"OKP","crv":"Ed25519","x":"AA"},`, 1)
	if k, err := token.ParseJWKS([]byte(other)); err != nil || len(k.IDs()) != 1 {
		t.Errorf("keys for other algorithms: %v, %v, expected them left out", k.IDs(), err)
	}
}

func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[]}`))
	f.Add(keysOf(f, newKey(f), newKey(f)).MarshalJWKS())
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := token.ParseJWKS(b)
		if err != nil {
			return
		}
		again, err := token.ParseJWKS(k.MarshalJWKS())
		if err != nil || string(again.MarshalJWKS()) != string(k.MarshalJWKS()) {
			t.Errorf("%s is read as %s, then %v", b, k.MarshalJWKS(), err)
		}
	})
}

func FuzzParseJWK(f *testing.F) {
	jwk, err := token.MarshalJWK(newKey(f).Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(jwk)
	f.Add([]byte(`{"kty":"oct","k":"AAAA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := token.ParseJWK(b)
		if err != nil {
			return
		}
		out, err := token.MarshalJWK(key)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := token.ParseJWK(out); err != nil || !again.Equal(key) {
			t.Errorf("%s comes back as another key: %v", b, err)
		}
	})
}
