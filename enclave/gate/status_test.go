package gate

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	listURI = issuer + "/v1/status-lists/0"
	place   = 12345
)

// publisher serves the issuer's status list.
type publisher struct {
	*world
	mu      sync.Mutex
	status  token.Status
	down    bool
	change  func(*token.StatusList)
	fetched int
}

func (w *world) publish() *publisher {
	p := &publisher{world: w}
	w.cfg.Statuses = Statuses{Fetch: p.fetch}
	return p
}

func (p *publisher) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *publisher) fetch(_ context.Context, uri string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fetched++; p.down {
		return "", errors.New("no answer")
	}
	l := token.NewStatusList(1 << 20)
	l.URI, l.IssuedAt, l.Expires, l.TTL = uri, p.now.Load(), p.now.Load()+60, 10
	l.Set(place, p.status)
	if p.change != nil {
		p.change(l)
	}
	return token.IssueStatusList(l, p.issuer, rand.Reader)
}

func (w *world) listed() string {
	return w.token(func(c *token.Claims) { c.Listed.List = token.Place{Index: place, URI: listURI} })
}

// forget makes a gate look for a newer list with the next request, as time does.
func (g *Gate) forget() {
	l := g.lists.of(listURI)
	l.fetching.Lock()
	defer l.fetching.Unlock()
	l.due = 0
}

// asks asks with a new proof.
func (w *world) asks(g *Gate, tok string, status int, about string) {
	w.Helper()
	w.expect(g, tok, w.proof(w.agent, tok, "GET", origin+"/things"), status, about)
}

// TestStatusListEndsTokens: a gate without a feed refuses what the list says is
// revoked or suspended, once it is due to look again, and asks no more often.
func TestStatusListEndsTokens(t *testing.T) {
	w := newWorld(t)
	p := w.publish()
	g, tok := w.gate(), w.listed()
	for range 5 {
		w.asks(g, tok, 204, "a valid token")
	}
	if p.fetched != 1 {
		t.Errorf("%d fetches for five requests", p.fetched)
	}
	for _, status := range []token.Status{token.Invalid, token.Suspended, 3} {
		p.set(func() { p.status = status })
		g.forget()
		w.asks(g, tok, 401, "an ended token")
	}
	p.set(func() { p.status = token.Valid })
	g.forget()
	w.asks(g, tok, 204, "a token that is valid again")
	if l := g.lists.of(listURI); l.due.Sub(enclave.Now()) > 10*time.Second {
		t.Errorf("the next list is fetched in %v", l.due.Sub(enclave.Now()))
	}
}

// TestStatusListWithheld: while no list can be had the last one counts until it
// expires, and then nothing passes, unless the gate was told that it may.
func TestStatusListWithheld(t *testing.T) {
	for _, optional := range []bool{false, true} {
		w := newWorld(t)
		p := w.publish()
		w.cfg.Statuses.Optional = optional
		none := 503
		if optional {
			none = 204
		}
		p.down = true
		g := w.gate()
		w.asks(g, w.listed(), none, "no list at all")
		p.set(func() { p.down = false })
		g.forget()
		w.asks(g, w.listed(), 204, "a list")
		p.set(func() { p.down, p.status = true, token.Invalid })
		g.forget()
		w.asks(g, w.listed(), 204, "the last list")
		w.now.Add(61)
		g.forget()
		w.asks(g, w.listed(), none, "the last list has expired")
		p.set(func() { p.down = false })
		g.forget()
		w.asks(g, w.listed(), 401, "the list is back")
		without := 401
		if optional {
			without = 204
		}
		w.asks(g, w.token(nil), without, "a token that names no list")
	}
}

// TestStatusListForged: a list of another issuer, for another place, expired, or
// older than the one before is none.
func TestStatusListForged(t *testing.T) {
	for name, forge := range map[string]func(p *publisher){
		"another key":   func(p *publisher) { w := newWorld(t); p.issuer = w.issuer },
		"another place": func(p *publisher) { p.change = func(l *token.StatusList) { l.URI += "1" } },
		"expired":       func(p *publisher) { p.change = func(l *token.StatusList) { l.IssuedAt -= 60; l.Expires -= 60 } },
		"rolled back":   func(p *publisher) { p.change = func(l *token.StatusList) { l.IssuedAt--; l.Expires-- } },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p, g := w.publish(), w.gate()
			tok := w.listed()
			w.asks(g, tok, 204, "the issuer's list")
			p.set(func() { p.status = token.Invalid })
			g.forget()
			w.asks(g, tok, 401, "the issuer's list")
			p.set(func() { p.status = token.Valid })
			forge(p)
			g.forget()
			w.asks(g, tok, 401, "the forged list that says it is valid")
		})
	}
	w := newWorld(t)
	p, g := w.publish(), w.gate()
	elsewhere := w.token(func(c *token.Claims) {
		c.Listed.List = token.Place{Index: place, URI: "https://example.org.evil.example/v1/status-lists/0"}
	})
	w.asks(g, elsewhere, 503, "a list that is not the issuer's")
	if p.fetched != 0 {
		t.Error("it was fetched from elsewhere")
	}
}

// TestStatusListCutsForwarding: what is forwarded under a token ends with the status
// that says so, though nobody asks.
func TestStatusListCutsForwarding(t *testing.T) {
	w := newWorld(t)
	p := w.publish()
	g := w.gate()
	tok := w.listed()
	pass, no := g.admit(tok, g.now())
	if no != nil {
		t.Fatal(no)
	}
	lease, err := g.leased(pass)
	if err != nil {
		t.Fatal(err)
	}
	if _, no := g.stands(t.Context(), pass); no != nil || !lease.Valid() {
		t.Fatalf("%+v", no)
	}
	p.set(func() { p.status = token.Invalid })
	g.forget()
	if _, no := g.stands(t.Context(), pass); no == nil || lease.Valid() {
		t.Error("it goes on")
	}
}

// TestHostileTokensByStatus: looking at lists lets nothing in that was refused.
func TestHostileTokensByStatus(t *testing.T) {
	w := newWorld(t)
	w.publish()
	h, world := w.gate().Handler(), w.hostile()
	world.Claims.Listed.List = token.Place{Index: place, URI: listURI}
	hostile.Challenged(t, world, hostile.Call{Method: "GET", URL: origin + "/things", Send: func(authorization, proof string) *http.Response {
		return send(h, authz, authorization, proof)
	}})
}
