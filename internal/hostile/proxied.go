package hostile

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// Front is a proxy before a service, which asks a gate about each request.
type Front struct {
	Socket string // where the proxy listens
	Origin string // as proofs name it

	Reached func() int             // how many requests got to the service
	Event   func(set string) error // what the feed would tell the gate
	Down    func()                 // ends the gate
}

// lies are what a client that may have one path says of a request for another.
var lies = map[string]string{
	"X-Original-Uri": "/things", "X-Original-Method": "GET", "X_Original_URI": "/things",
	"X-Forwarded-Uri": "/things", "X-Forwarded-Method": "GET", "X-Rewrite-Url": "/things",
}

// Proxied sends a proxy what it must let through and what it must not. In the end
// the gate is down.
func Proxied(t *testing.T, w *World, f Front) {
	t.Helper()
	tok := w.Good(t)
	proof := func(tok, method, path string) string {
		c := Call{Method: method, URL: f.Origin + path}
		return c.proof(t, w, tok, w.Holder, func(_ *token.Call, at *time.Time) { *at = time.Now() })
	}
	once := proof(tok, "GET", "/things")
	expired := w.issue(t, w.Issuer, func(c *token.Claims) {
		c.IssuedAt, c.NotBefore, c.Expires = c.IssuedAt-60, c.NotBefore-60, c.Expires-60
	})
	f.expect(t, "a good token and proof", http.StatusOK, "GET", "/things?q=1", tok, once, nil)
	f.expect(t, "the same for POST", http.StatusOK, "POST", "/things", tok, proof(tok, "POST", "/things"), nil)
	f.expect(t, "an escaped path", http.StatusOK, "GET", "/a%2Fb", tok, proof(tok, "GET", "/a%2Fb"), nil)
	f.expect(t, "lies about what is right", http.StatusOK, "GET", "/admin", tok, proof(tok, "GET", "/admin"), lies)
	f.expect(t, "no token", http.StatusUnauthorized, "GET", "/things", "", "", nil)
	f.expect(t, "no proof", http.StatusUnauthorized, "GET", "/things", tok, "", nil)
	f.expect(t, "a replayed proof", http.StatusUnauthorized, "GET", "/things", tok, once, nil)
	f.expect(t, "a proof for another path", http.StatusUnauthorized, "GET", "/admin", tok, proof(tok, "GET", "/things"), nil)
	f.expect(t, "a proof for another method", http.StatusUnauthorized, "DELETE", "/things", tok, proof(tok, "GET", "/things"), nil)
	f.expect(t, "an expired token", http.StatusUnauthorized, "GET", "/things", expired, proof(expired, "GET", "/things"), nil)
	f.expect(t, "lies about path and method", http.StatusUnauthorized, "DELETE", "/admin", tok, proof(tok, "GET", "/things"), lies)
	for name, value := range lies {
		f.expect(t, "a lie in "+name, http.StatusUnauthorized, "GET", "/admin", tok, proof(tok, "GET", "/things"), map[string]string{name: value})
	}
	for name := range lies { // which the proxy might take off after it has set its own
		f.expect(t, "the hop-by-hop header "+name, http.StatusUnauthorized, "GET", "/admin", tok, proof(tok, "GET", "/things"),
			map[string]string{name: lies[name], "Connection": "close, " + name})
	}
	f.expect(t, "the gate's own address", 0, "GET", "/authz", tok, proof(tok, "GET", "/things"), lies)

	f.revoke(t, w)
	f.expect(t, "a revoked token", http.StatusUnauthorized, "GET", "/things", tok, proof(tok, "GET", "/things"), nil)
	later := w.issue(t, w.Issuer, func(c *token.Claims) { c.Writ.Seq++ })
	f.expect(t, "the next token", http.StatusOK, "GET", "/things", later, proof(later, "GET", "/things"), nil)
	f.Down()
	f.expect(t, "the gate is down", 0, "GET", "/things", later, proof(later, "GET", "/things"), nil)
}

// Fooled shows that the lies of Proxied work where nothing stands against them: a
// proxy that does not set the headers that its gate believes.
func Fooled(t *testing.T, w *World, f Front) {
	t.Helper()
	tok := w.Good(t)
	c := Call{Method: "GET", URL: f.Origin + "/things"}
	f.expect(t, "lies to a credulous gate", http.StatusOK, "DELETE", "/admin", tok, c.proof(t, w, tok, w.Holder, func(_ *token.Call, at *time.Time) { *at = time.Now() }), lies)
}

// revoke ends the token of w, but not a later one.
func (f *Front) revoke(t *testing.T, w *World) {
	t.Helper()
	node := strings.SplitAfter(strings.TrimPrefix(w.Claims.Subject, "spiffe://"), "/")[0]
	set, err := token.IssueEvent(token.Event{
		Issuer: w.Claims.Issuer, Subject: w.Claims.Subject, Audience: "spiffe://" + node + "enclave", ID: rand.Text(), IssuedAt: time.Now().Unix(),
		Seq: w.Claims.Writ.Seq, Epoch: w.Claims.Writ.Epoch, Cause: "revoked", Reason: "test",
	}, w.Issuer, rand.Reader)
	if err == nil {
		err = f.Event(set)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// expect sends one request. Status 0 is any but a success. What is refused must not
// have reached the service, and what is not must have.
func (f *Front) expect(t *testing.T, about string, status int, method, path, tok, proof string, headers map[string]string) {
	t.Helper()
	before := f.Reached()
	r, err := http.NewRequest(method, "http://front"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		r.Header[name] = []string{value}
	}
	if tok != "" {
		r.Header.Set("Authorization", "DPoP "+tok)
	}
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", f.Socket)
		},
	}}
	res, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s: %v", about, err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	passed := f.Reached() - before
	said := fmt.Sprintf("%s: %s, reached the service %d times: %.200s", about, res.Status, passed, body)
	switch {
	case status == http.StatusOK && (res.StatusCode != http.StatusOK || passed != 1):
		t.Errorf("%s; expected it to pass", said)
	case status != http.StatusOK && (res.StatusCode < 400 || passed != 0):
		t.Errorf("%s; expected a refusal", said)
	case status != 0 && res.StatusCode != status:
		t.Errorf("%s; expected %d", said, status)
	case status == http.StatusUnauthorized && !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "DPoP "):
		t.Errorf("%s; no challenge with the 401", said)
	}
}
