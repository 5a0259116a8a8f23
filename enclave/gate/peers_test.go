package gate

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	peerDomain = "b.example"
	peerNode   = "spiffe://" + peerDomain + "/node/0022"
)

// union is a gate's world with another domain, whose tokens the gate's verifier knows.
type union struct {
	*world
	other       *ecdsa.PrivateKey // signs the other domain's tokens
	away, ended atomic.Bool
	asked       atomic.Int64
}

func newUnion(t testing.TB) *union {
	u := &union{world: newWorld(t), other: newKey(t)}
	keys, err := token.NewKeys(u.other.Public())
	if err != nil {
		t.Fatal(err)
	}
	u.cfg.Peers = Peers{Domains: []string{peerDomain}, Ask: func(_ context.Context, tok string) (bool, error) {
		u.asked.Add(1)
		if u.away.Load() {
			return false, errors.New("no answer")
		}
		_, err := token.Verify(tok, keys, token.Expect{Issuer: "https://" + peerDomain, Domain: peerDomain, Audience: audience}, time.Unix(u.now.Load(), 0))
		return err == nil && !u.ended.Load(), nil
	}}
	return u
}

func (u *union) peerClaims() token.Claims {
	c := u.claims()
	c.Issuer, c.Subject, c.Writ.Log.Origin = "https://"+peerDomain, peerNode, peerDomain+"/log"
	return c
}

// peerToken is a token of the other domain, signed by key.
func (u *union) peerToken(key *ecdsa.PrivateKey, change func(*token.Claims)) string {
	u.Helper()
	c := u.peerClaims()
	if change != nil {
		change(&c)
	}
	tok, err := token.Issue(c, key, rand.Reader)
	if err != nil {
		u.Fatal(err)
	}
	return tok
}

func (u *union) right(tok string) string { return u.proof(u.agent, tok, "GET", origin+"/things") }

// TestPeersTokenAtGate: a token of another domain passes where the gate is told to let
// that one's pass and its verifier says that this one counts. Neither a domain nobody
// named nor a request without a proof makes the gate ask.
func TestPeersTokenAtGate(t *testing.T) {
	t.Parallel()
	u := newUnion(t)
	tok := u.peerToken(u.other, nil)
	peers := u.cfg.Peers
	u.cfg.Peers = Peers{}
	u.expect(u.gate(), tok, u.right(tok), 401, "at a gate that was told of no other domain")
	for _, half := range []Peers{{Ask: peers.Ask}, {Domains: peers.Domains}} {
		u.cfg.Peers = half
		if _, err := New(u.cfg); err == nil {
			t.Errorf("a gate begins with half of what it needs: %v", half.Domains)
		}
	}
	u.cfg.Peers = peers
	g := u.gate()
	for about, c := range map[string]struct {
		key    *ecdsa.PrivateKey
		change func(*token.Claims)
	}{
		"of a domain nobody named": {u.other, func(c *token.Claims) { c.Subject = "spiffe://c.example/node/0022" }},
		"of the gate's own domain": {u.other, func(c *token.Claims) { c.Issuer, c.Subject = issuer, subject }},
		"for another audience":     {u.other, func(c *token.Claims) { c.Audience = "https://other.example" }},
		"that lives longer than any may": {u.other, func(c *token.Claims) {
			c.IssuedAt, c.NotBefore, c.Expires = c.IssuedAt+60, c.NotBefore+60, c.Expires+300
		}},
		"that has expired": {u.other, func(c *token.Claims) {
			c.IssuedAt, c.NotBefore, c.Expires = c.IssuedAt-60, c.NotBefore-60, c.Expires-60
		}},
		"of a domain whose name begins so": {u.other, func(c *token.Claims) { c.Subject = "spiffe://" + peerDomain + ".evil/node/0022" }},
	} {
		bad := u.peerToken(c.key, c.change)
		u.expect(g, bad, u.right(bad), 401, about)
	}
	u.expect(g, tok, u.proof(newKey(t), tok, "GET", origin+"/things"), 401, "by a thief's proof")
	u.expect(g, tok, "", 401, "without a proof")
	if n := u.asked.Load(); n != 0 {
		t.Errorf("strangers made the gate ask %d times", n)
	}
	forged := u.peerToken(newKey(t), nil)
	u.expect(g, forged, u.right(forged), 401, "by a key that is not the domain's")
	u.expect(g, tok, u.right(tok), 204, "the right one")
	once := u.asked.Load()
	for range 5 {
		u.expect(g, tok, u.right(tok), 204, "again")
	}
	if u.asked.Load() > once+1 { // a slow machine may be at it for longer than an answer keeps
		t.Errorf("the gate asked %d times about one token", u.asked.Load()-once)
	}
	newer := u.peerToken(u.other, func(c *token.Claims) { c.Writ.Seq, c.Writ.Epoch = 9, 99 })
	u.expect(g, newer, u.right(newer), 204, "of an epoch of its own")
	own := u.token(nil)
	u.expect(g, own, u.right(own), 204, "one of the gate's own domain, after that")

	u.away.Store(true)
	another := u.peerToken(u.other, func(c *token.Claims) { c.ID = "another" })
	u.expect(g, another, u.right(another), 503, "while the verifier is away")
	u.away.Store(false)
	u.ended.Store(true)
	u.refusedSoon(g, tok)
	u.expect(g, own, u.right(own), 204, "one of the gate's own domain, after the other one was closed")
}

// refusedSoon waits until the gate asks again, and refuses.
func (u *union) refusedSoon(g *Gate, tok string) {
	u.Helper()
	for end := time.Now().Add(30 * time.Second); ask(g, tok, u.right(tok)).StatusCode != 401; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			u.Fatal("a token that was ended passes")
		}
	}
}

// TestHostileTokensOfAPeer: no bad token of another domain passes, though the gate has
// not its keys.
func TestHostileTokensOfAPeer(t *testing.T) {
	t.Parallel()
	u := newUnion(t)
	g := u.gate()
	hostile.Refused(t, &hostile.World{Issuer: u.other, Holder: u.agent, Claims: u.peerClaims(), At: time.Unix(u.now.Load(), 0), Timeless: true}, func(tok string) error {
		if code := ask(g, tok, u.right(tok)).StatusCode; code != 204 {
			return fmt.Errorf("%d", code)
		}
		return nil
	})
}

// TestStreamOutlivesPeer: what is forwarded under a token of another domain ends when the
// verifier says that the token does not count any more, and when it says nothing.
func TestStreamOutlivesPeer(t *testing.T) {
	t.Parallel()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := fmt.Fprintln(w, "."); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}))
	t.Cleanup(upstream.Close)
	for name, end := range map[string]func(*union){
		"ended": func(u *union) { u.ended.Store(true) },
		"away":  func(u *union) { u.away.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUnion(t)
			u.cfg.Proxy = ""
			u.cfg.Upstream, _ = url.Parse(upstream.URL)
			g := u.gate()
			front := httptest.NewServer(g.Handler())
			defer front.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go g.KeepPeers(ctx)
			tok := u.peerToken(u.other, nil)
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, front.URL+"/stream", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "DPoP "+tok)
			r.Header.Set("DPoP", u.proof(u.agent, tok, "GET", origin+"/stream"))
			res, err := http.DefaultClient.Do(r)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("%v %v", res, err)
			}
			defer res.Body.Close()
			b := make([]byte, 1)
			for before := u.asked.Load(); u.asked.Load() == before; { // it is asked again, and goes on
				if _, err := res.Body.Read(b); err != nil {
					t.Fatalf("while it counts: %v", err)
				}
			}
			end(u)
			over := time.AfterFunc(30*time.Second, cancel)
			for {
				if _, err := res.Body.Read(b); err != nil {
					break
				}
			}
			if !over.Stop() {
				t.Error("it goes on after 30 s")
			}
		})
	}
}
