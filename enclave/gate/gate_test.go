package gate

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

const (
	issuer   = "https://example.org"
	domain   = "example.org"
	audience = "https://api.example.org"
	origin   = "https://api.example.org"
	subject  = "spiffe://example.org/node/0011"
)

// world is an issuer, a node's agent and a gate.
type world struct {
	testing.TB
	issuer, agent *ecdsa.PrivateKey
	now           atomic.Int64
	cfg           Config
}

func newWorld(t testing.TB) *world {
	w := &world{TB: t, issuer: newKey(t), agent: newKey(t)}
	w.now.Store(time.Now().Unix())
	keys, err := token.NewKeys(w.issuer.Public())
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = Config{
		Issuer: issuer, Domain: domain, Audience: audience, Keys: keys, Origin: origin, Proxy: Nginx,
		Now: func() time.Time { return time.Unix(w.now.Load(), 0) }, Log: slog.New(slog.DiscardHandler),
		Statuses: Statuses{Ignored: true},
	}
	return w
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (w *world) claims() token.Claims {
	jkt, err := token.Thumbprint(w.agent.Public())
	if err != nil {
		w.Fatal(err)
	}
	now := w.now.Load()
	affirming := token.Submod{Status: "affirming", Policies: []string{"sha256:00"}}
	return token.Claims{
		Issuer: issuer, Subject: subject, Audience: audience, ID: "jti-" + rand.Text(), IssuedAt: now, NotBefore: now, Expires: now + 60,
		Nonce: base64.RawURLEncoding.EncodeToString(make([]byte, 32)), Confirm: token.Confirm{JKT: jkt}, Status: "affirming",
		Verifier: token.Verifier{Developer: "test", Build: "test"}, Submods: map[string]token.Submod{"platform": affirming},
		Writ: token.Writ{V: 1, State: "synchronized", Seq: 5, Epoch: 3, Level: "E3", Key: "software", Log: token.Log{Origin: domain + "/log"}},
	}
}

func (w *world) token(edit func(*token.Claims)) string {
	c := w.claims()
	if edit != nil {
		edit(&c)
	}
	tok, err := token.Issue(c, w.issuer, rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	return tok
}

func (w *world) proof(key *ecdsa.PrivateKey, tok, method, url string) string {
	p, err := token.NewProof(token.Call{Method: method, URL: url, Token: tok}, key, time.Unix(w.now.Load(), 0), rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

func (w *world) gate() *Gate {
	g, err := New(w.cfg)
	if err != nil {
		w.Fatal(err)
	}
	return g
}

// ask is what nginx asks about GET /things with this token and proof.
func ask(g *Gate, tok, proof string) *http.Response {
	r := httptest.NewRequest("GET", "http://127.0.0.1/v1/authz", nil)
	r.Header.Set("X-Original-Method", "GET")
	r.Header.Set("X-Original-URI", "/things?q=1")
	r.Header.Set("Authorization", "DPoP "+tok)
	r.Header.Set("DPoP", proof)
	rec := httptest.NewRecorder()
	g.Handler().ServeHTTP(rec, r)
	return rec.Result()
}

func (w *world) expect(g *Gate, tok, proof string, status int, about string) {
	w.Helper()
	res := ask(g, tok, proof)
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != status {
		w.Errorf("%s: %d %s, expected %d", about, res.StatusCode, body, status)
	}
	if status == 401 && !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "DPoP ") {
		w.Errorf("%s: no challenge with the 401", about)
	}
}

func TestGatePasses(t *testing.T) {
	w := newWorld(t)
	g, tok := w.gate(), w.token(nil)
	for range 2 { // checked, then remembered
		res := ask(g, tok, w.proof(w.agent, tok, "GET", origin+"/things"))
		if res.StatusCode != 204 || res.Header.Get("Writ-Subject") != subject {
			t.Fatalf("%d %v", res.StatusCode, res.Header)
		}
		if ms := res.Header.Get("Legitimacy-Expires-In-Ms"); len(ms) != 5 {
			t.Errorf("it has %q ms left, expected about 60000", ms)
		}
	}
	w.now.Add(60)
	w.expect(g, tok, w.proof(w.agent, tok, "GET", origin+"/things"), 401, "expired by the wall clock")
}

// TestGateRefuses: whatever is wrong with token or proof, each time anew.
func TestGateRefuses(t *testing.T) {
	w := newWorld(t)
	g, tok := w.gate(), w.token(nil)
	right := func() string { return w.proof(w.agent, tok, "GET", origin+"/things") }
	w.expect(g, tok, right(), 204, "the right one")
	used := right()
	w.expect(g, tok, used, 204, "once")
	w.expect(g, tok, used, 401, "a replayed proof")
	w.expect(g, tok, w.proof(newKey(t), tok, "GET", origin+"/things"), 401, "a thief's proof")
	w.expect(g, tok, w.proof(w.agent, tok, "POST", origin+"/things"), 401, "a proof for another method")
	w.expect(g, tok, w.proof(w.agent, tok, "GET", origin+"/other"), 401, "a proof for another path")
	w.expect(g, tok, w.proof(w.agent, tok, "GET", "https://evil.example/things"), 401, "a proof for another host")
	w.expect(g, tok, w.proof(w.agent, w.token(nil), "GET", origin+"/things"), 401, "a proof for another token")
	w.expect(g, tok, "", 401, "no proof")
	w.expect(g, tok[:len(tok)-4]+"AAAA", right(), 401, "a forged signature")
	for about, edit := range map[string]func(*token.Claims){
		"another audience": func(c *token.Claims) { c.Audience = "https://other.example" },
		"another issuer":   func(c *token.Claims) { c.Issuer = "https://evil.example" },
		"another domain":   func(c *token.Claims) { c.Subject = "spiffe://evil.example/node/0011" },
		"not yet valid": func(c *token.Claims) {
			c.IssuedAt, c.NotBefore, c.Expires = c.IssuedAt+30, c.NotBefore+30, c.Expires+30
		},
		"expired": func(c *token.Claims) {
			c.IssuedAt, c.NotBefore, c.Expires = c.IssuedAt-60, c.NotBefore-60, c.Expires-60
		},
	} {
		bad := w.token(edit)
		w.expect(g, bad, w.proof(w.agent, bad, "GET", origin+"/things"), 401, about)
	}
	w.issuer = newKey(t)
	foreign := w.token(nil)
	w.expect(g, foreign, w.proof(w.agent, foreign, "GET", origin+"/things"), 401, "another issuer's key")
}

// TestGateBelievesOneProxyOnly: headers that the configured proxy does not set are
// the client's.
func TestGateBelievesOneProxyOnly(t *testing.T) {
	w := newWorld(t)
	for proxy, target := range map[Proxy]string{Nginx: "/v1/authz", Caddy: "/v1/authz", Traefik: "/v1/authz", Envoy: "/v1/authz/things"} {
		w.cfg.Proxy = proxy
		g, tok := w.gate(), w.token(nil)
		for _, asked := range []string{"/things", "/admin"} {
			r := httptest.NewRequest("GET", "http://127.0.0.1"+target, nil)
			other := "/things" // what the client would like the gate to think
			r.Header.Set("X-Original-Method", "GET")
			r.Header.Set("X-Original-URI", other)
			r.Header.Set("X-Forwarded-Method", "GET")
			r.Header.Set("X-Forwarded-Uri", other)
			switch proxy {
			case Nginx:
				r.Header.Set("X-Original-URI", asked)
			case Caddy, Traefik:
				r.Header.Set("X-Forwarded-Uri", asked)
			case Envoy:
				r.URL.Path = "/v1/authz" + asked
			}
			r.Header.Set("Authorization", "DPoP "+tok)
			r.Header.Set("DPoP", w.proof(w.agent, tok, "GET", origin+"/things"))
			rec := httptest.NewRecorder()
			g.Handler().ServeHTTP(rec, r)
			if want := map[string]int{"/things": 204, "/admin": 401}[asked]; rec.Code != want {
				t.Errorf("%s, asked about %s: %d %s, expected %d", proxy, asked, rec.Code, rec.Body, want)
			}
		}
	}
	g := func() *Gate { w.cfg.Proxy = Nginx; return w.gate() }()
	r := httptest.NewRequest("GET", "http://127.0.0.1/v1/authz", nil)
	rec := httptest.NewRecorder()
	if g.Handler().ServeHTTP(rec, r); rec.Code != 403 {
		t.Errorf("a proxy that says nothing: %d", rec.Code)
	}
}

func (w *world) event(seq, epoch uint64) string {
	set, err := token.IssueEvent(token.Event{
		Issuer: issuer, Subject: subject, Audience: "spiffe://" + domain + "/enclave", ID: rand.Text(), IssuedAt: w.now.Load(),
		Seq: seq, Epoch: epoch, Cause: "revoked", Reason: "test",
	}, w.issuer, rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	return set
}

// TestGateHearsRevocations: a revoked token passes nowhere, one of an older epoch
// neither, and silence of the feed lets nothing through.
func TestGateHearsRevocations(t *testing.T) {
	w := newWorld(t)
	w.cfg.Feed = true
	g, tok := w.gate(), w.token(nil)
	proof := func(tok string) string { return w.proof(w.agent, tok, "GET", origin+"/things") }
	w.expect(g, tok, proof(tok), 503, "before the feed was heard")
	g.Alive()
	w.expect(g, tok, proof(tok), 503, "before the feed said since when it is complete")
	g.Since(time.Unix(w.now.Load()+1, 0))
	w.expect(g, tok, proof(tok), 503, "older than the feed")
	g.Since(time.Unix(w.now.Load(), 0))
	w.expect(g, tok, proof(tok), 204, "with a live feed")
	if err := g.Event(w.event(4, 3)); err != nil {
		t.Fatal(err)
	}
	w.expect(g, tok, proof(tok), 204, "an event about an earlier token")
	if err := g.Event(w.event(5, 3)); err != nil {
		t.Fatal(err)
	}
	w.expect(g, tok, proof(tok), 401, "revoked")
	next := w.token(func(c *token.Claims) { c.Writ.Seq = 6 })
	w.expect(g, next, proof(next), 204, "a later token")
	newer := w.token(func(c *token.Claims) { c.Writ.Seq, c.Writ.Epoch = 7, 4 })
	w.expect(g, newer, proof(newer), 204, "a token of a newer epoch")
	w.expect(g, next, proof(next), 401, "a stale epoch")
	old := w.issuer
	w.issuer = newKey(t)
	if err := g.Event(w.event(9, 9)); err == nil {
		t.Error("a forged event was taken")
	}
	w.issuer = old
	w.expect(g, newer, proof(newer), 204, "after a forged event")
	keys, err := token.NewKeys(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	g.SetKeys(keys)
	w.expect(g, newer, proof(newer), 401, "after the key was withdrawn")
}

// TestStreamOutlivesToken: a stream that the gate forwards ends with its token,
// while one through a plain proxy, the naive twin, goes on.
func TestStreamOutlivesToken(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization")+r.Header.Get("DPoP") != "" || r.Header.Get("Writ-Subject") != subject {
			t.Errorf("the upstream sees %v", r.Header)
		}
		for i := 0; r.Context().Err() == nil; i++ {
			if _, err := fmt.Fprintln(w, i); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	}))
	defer upstream.Close()
	w := newWorld(t)
	w.cfg.Proxy = ""
	w.cfg.Upstream, _ = url.Parse(upstream.URL)
	w.cfg.Feed = true
	g := w.gate()
	g.Alive()
	g.Since(time.Unix(w.now.Load(), 0))
	front := httptest.NewServer(g.Handler())
	defer front.Close()
	tok := w.token(nil)
	r, _ := http.NewRequest("GET", front.URL+"/stream", nil)
	r.Header.Set("Authorization", "DPoP "+tok)
	r.Header.Set("DPoP", w.proof(w.agent, tok, "GET", origin+"/stream"))
	r.Header.Set("Writ-Subject", "spiffe://example.org/node/somebody-else")
	res, err := http.DefaultClient.Do(r)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%v %v", res, err)
	}
	defer res.Body.Close()
	stream := bufio.NewReader(res.Body)
	if _, err := stream.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := g.Event(w.event(5, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, stream); err == nil {
		t.Error("the stream ended as if it were whole")
	}
	r, _ = http.NewRequest("GET", front.URL+"/stream", nil)
	res, err = http.DefaultClient.Do(r)
	if err != nil || res.StatusCode != 401 {
		t.Errorf("without a token: %v %v", res, err)
	}
	res.Body.Close()
}

// TestWallClockSetBack: a token that has expired does not come to life again.
func TestWallClockSetBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gate()
	tok := w.token(func(c *token.Claims) { c.Expires = c.IssuedAt + 1 })
	time.Sleep(1100 * time.Millisecond) // the boot clock cannot be set
	w.expect(g, tok, w.proof(w.agent, tok, "GET", origin+"/things"), 401, "by a wall clock that stood still")
	w.now.Add(-30)
	w.expect(g, tok, w.proof(w.agent, tok, "GET", origin+"/things"), 401, "by a wall clock set back")
}

// TestGateIsClosedByDefault: a gate that was not told what to expect is none.
func TestGateIsClosedByDefault(t *testing.T) {
	w := newWorld(t)
	for about, edit := range map[string]func(*Config){
		"all":      func(c *Config) { *c = Config{} },
		"issuer":   func(c *Config) { c.Issuer = "" },
		"domain":   func(c *Config) { c.Domain = "" },
		"audience": func(c *Config) { c.Audience = "" },
		"keys":     func(c *Config) { c.Keys = token.Keys{} },
		"origin":   func(c *Config) { c.Origin = "" },
		"path":     func(c *Config) { c.Origin += "/x" },
		"proxy":    func(c *Config) { c.Proxy = "" },
		"unknown":  func(c *Config) { c.Proxy = "apache" },
		"statuses": func(c *Config) { c.Statuses = Statuses{} },
		"both":     func(c *Config) { c.Statuses.Fetch = func(context.Context, string) (string, error) { return "", nil } },
	} {
		cfg := w.cfg
		edit(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s wrong, and there is a gate", about)
		}
	}
}
