package hostile

import (
	"crypto"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// Call is a request that an entrance over HTTP lets in with a good token and proof.
type Call struct {
	Method, URL string // as proofs name it
	Body        []byte // bound by the proof if there is one
	OAuth       bool   // refusals have an error code of RFC 6749 too

	// Send makes the request with these headers ("": leave it out).
	Send func(authorization, proof string) *http.Response
}

func (c *Call) proof(t testing.TB, w *World, tok string, key crypto.Signer, change func(*token.Call, *time.Time)) string {
	t.Helper()
	call, at := token.Call{Method: c.Method, URL: c.URL, Token: tok, Body: c.Body}, w.At
	if change != nil {
		change(&call, &at)
	}
	p, err := token.NewProof(call, key, at, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Challenged shows an entrance over HTTP every bad token with a good proof, a good
// token with every bad proof, and [Mutations]. Each must be refused as RFC 9449
// section 7.1 and RFC 9457 have it.
func Challenged(t *testing.T, w *World, c Call) {
	t.Helper()
	good := w.Good(t)
	once := c.proof(t, w, good, w.Holder, nil)
	r := c.Send("DPoP "+good, once)
	if r.StatusCode/100 != 2 {
		b, _ := io.ReadAll(r.Body)
		t.Fatalf("the good token: %s %s", r.Status, b)
	}
	r.Body.Close()
	refused := func(t testing.TB, what, code string, r *http.Response) {
		t.Helper()
		challenged(t, what, code, c.OAuth, r)
	}
	refused(t, "replayed proof", "invalid_dpop_proof", c.Send("DPoP "+good, once))
	bad := w.Tokens(t)
	for _, b := range bad {
		refused(t, b.Name, "invalid_token", c.Send("DPoP "+b.Token, c.proof(t, w, b.Token, w.Holder, nil)))
	}
	proofs := c.proofs(t, w, good)
	for name, p := range proofs {
		refused(t, name, "invalid_dpop_proof", c.Send("DPoP "+good, p))
	}
	refused(t, "no proof", "", c.Send("DPoP "+good, ""))
	refused(t, "as a bearer token", "", c.Send("Bearer "+good, c.proof(t, w, good, w.Holder, nil)))
	refused(t, "nothing", "", c.Send("", ""))
	tried := 0
	Mutate(good, func(tok string) {
		tried++
		refused(t, "a mutation", "invalid_token", c.Send("DPoP "+tok, once))
	})
	if !t.Failed() {
		t.Logf("%d bad tokens, %d bad proofs and %d mutations, none let in", len(bad), len(proofs)+4, tried)
	}
}

// proofs are bad ones for a good token.
func (c *Call) proofs(t testing.TB, w *World, good string) map[string]string {
	t.Helper()
	with := func(change func(*token.Call, *time.Time)) string { return c.proof(t, w, good, w.Holder, change) }
	return map[string]string{
		"proof by a thief":            c.proof(t, w, good, newKey(t), nil),
		"proof for another method":    with(func(c *token.Call, _ *time.Time) { c.Method = "PATCH" }),
		"proof for another path":      with(func(c *token.Call, _ *time.Time) { c.URL += "/x" }),
		"proof for another host":      with(func(c *token.Call, _ *time.Time) { c.URL = "https://evil.example/" }),
		"proof for another token":     with(func(c *token.Call, _ *time.Time) { c.Token += "x" }),
		"proof for no token":          with(func(c *token.Call, _ *time.Time) { c.Token = "" }),
		"proof for another body":      with(func(c *token.Call, _ *time.Time) { c.Body = []byte("other") }),
		"proof of long ago":           with(func(_ *token.Call, at *time.Time) { *at = at.Add(-2 * token.ProofWindow) }),
		"proof of the future":         with(func(_ *token.Call, at *time.Time) { *at = at.Add(2 * token.ProofWindow) }),
		"the token as a proof":        good,
		"proof without its signature": strings.TrimRight(with(nil), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
		"no proof at all":             "x",
	}
}

// challenged checks the answer to something bad: 401 with a challenge that names the
// error (RFC 6750 section 3.1 has one for all that is wrong with a token), and problem
// details.
func challenged(t testing.TB, what, code string, oauth bool, r *http.Response) {
	t.Helper()
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	challenge := r.Header.Get("WWW-Authenticate")
	switch {
	case r.StatusCode != http.StatusUnauthorized:
		t.Errorf("%s: %s %s", what, r.Status, b)
	case !strings.HasPrefix(challenge, "DPoP "):
		t.Errorf("%s: 401 with the challenge %q", what, challenge)
	case code != "" && !strings.Contains(challenge, `error="`+code+`"`) && !unparsed(what):
		t.Errorf("%s: 401 with the challenge %q, expected error %q", what, challenge, code)
	}
	var p struct {
		Type, Title, Error string
		Status             int
	}
	if r.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(b, &p) != nil || p.Type == "" || p.Title == "" || p.Status != r.StatusCode {
		t.Errorf("%s: %s %s is no problem details", what, r.Header.Get("Content-Type"), b)
	}
	if oauth && p.Error == "" {
		t.Errorf("%s: %s has no error code of OAuth", what, b)
	}
}

// unparsed are tokens so empty that a server sees no credentials at all, for which
// RFC 6750 section 3.1 wants no error code.
func unparsed(what string) bool { return what == "empty" }
