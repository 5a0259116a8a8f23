package token_test

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

func TestProof(t *testing.T) {
	key := newKey(t)
	jkt, err := token.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []token.Call{
		{Method: "GET", URL: "https://verifier.example.org"},
		{Method: "POST", URL: "https://verifier.example.org:8443/v1/tokens?x=1#f", Token: "token", Nonce: "n", Body: []byte("{}")},
	} {
		a, err := token.NewProof(call, key, at, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b, err := token.NewProof(call, key, at, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		h, err := token.CheckProof(a, call, at.Add(token.ProofWindow))
		if err != nil || h.JKT != jkt {
			t.Errorf("proof by %s: %+v, %v", jkt, h, err)
		}
		if h2, err := token.CheckProof(b, call, at); err != nil || h2.ID == h.ID {
			t.Errorf("two proofs have the ids %s and %s (%v)", h.ID, h2.ID, err)
		}
	}
	same := token.Call{Method: "GET", URL: "HTTPS://Verifier.example.org:443/?q"}
	p, err := token.NewProof(token.Call{Method: "GET", URL: "https://verifier.example.org/"}, key, at, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.CheckProof(p, same, at); err != nil {
		t.Errorf("the same target written differently: %v", err)
	}
}

func TestStolenProof(t *testing.T) {
	key := newKey(t)
	call := token.Call{Method: "POST", URL: "https://verifier.example.org/v1/tokens", Token: "token", Nonce: "n", Body: []byte("{}")}
	proof, err := token.NewProof(call, key, at, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*token.Call){
		"another method": func(c *token.Call) { c.Method = "PUT" },
		"another path":   func(c *token.Call) { c.URL += "/x" },
		"another host":   func(c *token.Call) { c.URL = "https://other.example.org/v1/tokens" },
		"another scheme": func(c *token.Call) { c.URL = "http://verifier.example.org/v1/tokens" },
		"another token":  func(c *token.Call) { c.Token = "other" },
		"no token":       func(c *token.Call) { c.Token = "" },
		"another nonce":  func(c *token.Call) { c.Nonce = "m" },
		"another body":   func(c *token.Call) { c.Body = []byte("[]") },
		"no body":        func(c *token.Call) { c.Body = nil },
		"no call":        func(c *token.Call) { *c = token.Call{} },
	} {
		c := call
		change(&c)
		if _, err := token.CheckProof(proof, c, at); token.Code(err) != token.BadProof {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, d := range []time.Duration{token.ProofWindow + time.Second, -token.ProofWindow - time.Second} {
		if _, err := token.CheckProof(proof, call, at.Add(d)); token.Code(err) != token.BadProof {
			t.Errorf("%s later: %v", d, err)
		}
	}
}

func TestForgedProof(t *testing.T) {
	key, other := newKey(t), newKey(t)
	call := token.Call{Method: "GET", URL: "https://verifier.example.org/"}
	jwk, err := token.MarshalJWK(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	head := `{"typ":"dpop+jwt","alg":"ES256","jwk":` + string(jwk) + `}`
	body := `{"jti":"0123456789abcdef","htm":"GET","htu":"https://verifier.example.org/","iat":1795437600}`
	if _, err := token.CheckProof(forge(t, key, head, body), call, at); err != nil {
		t.Fatal(err)
	}
	proof := forge(t, key, head, body)
	for name, p := range map[string]string{
		"empty":          "",
		"another key":    forge(t, other, head, body),
		"another typ":    forge(t, key, strings.Replace(head, "dpop+jwt", "eat+jwt", 1), body),
		"alg none":       forge(t, key, strings.Replace(head, "ES256", "none", 1), body),
		"alg HS256":      forge(t, key, strings.Replace(head, "ES256", "HS256", 1), body),
		"no jwk":         forge(t, key, `{"typ":"dpop+jwt","alg":"ES256"}`, body),
		"kid and jwk":    forge(t, key, strings.Replace(head, `"jwk"`, `"kid":"x","jwk"`, 1), body),
		"symmetric jwk":  forge(t, key, `{"typ":"dpop+jwt","alg":"ES256","jwk":{"kty":"oct","k":"AAAA"}}`, body),
		"crit":           forge(t, key, strings.Replace(head, `"jwk"`, `"crit":["x"],"x":1,"jwk"`, 1), body),
		"jti short":      forge(t, key, head, strings.Replace(body, "0123456789abcdef", "1", 1)),
		"jti long":       forge(t, key, head, strings.Replace(body, "0123456789abcdef", strings.Repeat("a", 129), 1)),
		"no iat":         forge(t, key, head, strings.Replace(body, "iat", "iot", 1)),
		"htm twice":      forge(t, key, head, strings.Replace(body, `"htm"`, `"htm":"PUT","htm"`, 1)),
		"unasked ath":    forge(t, key, head, strings.Replace(body, `"htm"`, `"ath":"x","htm"`, 1)),
		"truncated":      proof[:len(proof)-4],
		"with a comma":   proof + "," + proof,
		"a token":        issue(t, good(), key),
		"oversize":       proof + strings.Repeat("A", token.MaxSize),
		"payload no map": forge(t, key, head, `[]`),
	} {
		if _, err := token.CheckProof(p, call, at); token.Code(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCheckProof(f *testing.F) {
	key := newKey(f)
	call := token.Call{Method: "GET", URL: "https://verifier.example.org/"}
	proof, err := token.NewProof(call, key, at, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(proof)
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := token.CheckProof(s, call, at); err == nil && (len(h.JKT) != 43 || h.ID == "") {
			t.Errorf("accepted %s for nobody: %+v", s, h)
		}
	})
}
