// Package gate is a Relying Party for services that cannot check legitimacy
// themselves: a proxy asks it about each request, or it is the proxy.
//
// A request passes with a legitimacy token for the gate's audience and a proof of
// possession made for this very request (RFC 9449). Of all that, only the token's
// signature is remembered; the proof, the time, the revocations and the epoch are
// looked at each time. What a gate forwards ends when the token does.
//
// A gate protects what can be reached through it alone. It listens where only the
// proxy can reach it: what the proxy says of a request is believed.
package gate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/internal/replay"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	maxTokens = 1 << 16          // remembered
	silence   = 20 * time.Second // four heartbeats of the feed missed
)

// Config says whom a gate believes and what it guards. There are no defaults.
type Config struct {
	Issuer   string // of the tokens
	Domain   string // trust domain of their subjects
	Audience string // the gate's own
	Keys     token.Keys
	LogKeys  []string // keys of the domain's log, by which others of its token keys are proven
	Root     string   // thumbprint of the key that certifies those; empty: none does

	Origin string // scheme and host that clients use, "https://api.example.org"
	Proxy  Proxy  // which proxy asks; not needed with an upstream alone
	// Certificates says that the proxy tells of each request which client certificate the
	// connection was made with, or that there was none, whatever the client itself says:
	// then tokens bound to certificates pass (RFC 8705). Without it they do not.
	Certificates bool
	// Upstream is where requests that pass are forwarded. Nil: the gate only answers
	// /v1/authz.
	Upstream *url.URL
	// Feed says that revocations arrive by Event, Since and Alive. While they do not,
	// the answer is 503. Without a feed a revoked token passes until it expires.
	Feed bool
	// Statuses says whether a token's status list is looked at.
	Statuses Statuses
	// Peers says of which other domains tokens pass.
	Peers Peers

	Now func() time.Time // wall clock
	Log *slog.Logger
}

// A Gate decides about requests. It is safe for concurrent use.
type Gate struct {
	cfg    Config
	expect token.Expect
	proofs replay.Memory
	lists  lists
	began  time.Time       // by the wall clock, and
	booted enclave.Instant // by the boot clock: see now
	asking chan struct{}   // a place for each question about a peer's token

	mu     sync.Mutex // guards what follows
	keys   token.Keys
	book   *rotation.Book              // Keys of the configuration, and what the log proved since
	passes map[[sha256.Size]byte]*pass // tokens whose signature was checked
	ended  map[string]uint64           // by subject: sequence numbers up to this are revoked
	boots  map[string]boot             // by subject: of the latest token seen
	epoch  uint64                      // the highest that the domain signed
	heard  enclave.Instant             // when the feed last said something
	since  int64                       // Unix second since when the feed left nothing out; 0: none
}

// boot is a node's boot, and the latest token seen of it.
type boot struct {
	count uint32
	seq   uint64
}

// pass is a token that was found good. Its lease ends with it.
type pass struct {
	id       [sha256.Size]byte // of the token
	claims   *token.Claims
	deadline enclave.Instant
	lease    *enclave.Lease // nil until something is forwarded under it
	peer     *vouching      // nil: of the gate's own domain
}

// New returns a gate that lets nothing through that it was not told to expect.
func New(cfg Config) (*Gate, error) {
	if cfg.Issuer == "" || cfg.Domain == "" || cfg.Audience == "" || len(cfg.Keys.IDs()) == 0 {
		return nil, errors.New("a gate needs an issuer, a domain, an audience and token keys")
	}
	if cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("a gate needs a clock and a logger")
	}
	u, err := url.Parse(cfg.Origin)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("reading the gate's origin: expected scheme and host as clients use them, like https://api.example.org, found %q", cfg.Origin)
	}
	if cfg.Proxy == "" && cfg.Upstream == nil {
		return nil, errors.New("a gate needs a proxy that asks it or an upstream to forward to")
	}
	if cfg.Proxy != "" && !cfg.Proxy.known() {
		return nil, fmt.Errorf("unknown proxy %q; known are %s", cfg.Proxy, Proxies())
	}
	if cfg.Certificates && cfg.Proxy == "" {
		return nil, errors.New("client certificates are known to a proxy alone: say which one asks")
	}
	if (cfg.Statuses.Fetch == nil) != cfg.Statuses.Ignored {
		return nil, errors.New("a gate needs a way to fetch status lists, or the word that none is looked at")
	}
	if (cfg.Peers.Ask == nil) != (len(cfg.Peers.Domains) == 0) {
		return nil, errors.New("a gate that lets tokens of other domains pass needs their names and a verifier to ask")
	}
	book, err := rotation.New(cfg.Domain, rotation.Pins{Log: cfg.LogKeys, Root: cfg.Root, Keys: cfg.Keys})
	if err != nil {
		return nil, err
	}
	return &Gate{
		cfg:    cfg,
		expect: token.Expect{Issuer: cfg.Issuer, Domain: cfg.Domain, Audience: cfg.Audience},
		proofs: replay.Memory{PerKey: 1 << 18},
		began:  cfg.Now(),
		booted: enclave.Now(),
		asking: make(chan struct{}, maxAsking),
		keys:   cfg.Keys,
		book:   book,
		passes: map[[sha256.Size]byte]*pass{},
		ended:  map[string]uint64{},
		boots:  map[string]boot{},
	}, nil
}

// now is the wall clock, which may run ahead but not behind what has passed since the
// gate began: a clock that is set back would bring expired tokens to life.
func (g *Gate) now() time.Time {
	now, least := g.cfg.Now(), g.began.Add(enclave.Now().Sub(g.booted))
	if now.Before(least) {
		return least
	}
	return now
}

// SetKeys replaces the issuer's keys. Tokens of a key that is gone end now.
func (g *Gate) SetKeys(keys token.Keys) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keys = keys
	for _, p := range g.passes {
		g.drop(p)
	}
}

// Learn takes what the domain's log proves of its token keys. Tokens of one that was
// withdrawn end now. An error is of what does not prove itself: it changes nothing.
func (g *Gate) Learn(entries []rotation.Entry) error {
	g.mu.Lock()
	news, err := g.book.Learn(entries)
	keys := g.book.Keys(g.now())
	g.mu.Unlock()
	if news {
		g.SetKeys(keys)
	}
	return err
}

// Alive records that the feed of revocations was heard, with an event or without.
func (g *Gate) Alive() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heard = enclave.Now()
}

// Since records that every event since then was heard. A token older than that may
// have been ended unheard, so it does not pass; the next one does.
func (g *Gate) Since(t time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since = t.Unix()
}

// Event takes a signed event of the feed and ends what it ends. The error is of an
// event that is not the issuer's word: it changes nothing.
func (g *Gate) Event(set string) error {
	g.mu.Lock()
	keys := g.keys
	g.mu.Unlock()
	// An event speaks to the node it is about: its audience is the node's.
	want := g.expect
	want.Audience = "spiffe://" + g.cfg.Domain + "/enclave"
	e, err := token.VerifyEvent(set, keys, want, g.now())
	if err != nil {
		return fmt.Errorf("reading an event of the feed: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended[e.Subject] = max(g.ended[e.Subject], e.Seq)
	g.epoch = max(g.epoch, e.Epoch)
	for _, p := range g.passes {
		if e.Ends(p.claims) || p.claims.Writ.Epoch < g.epoch {
			g.drop(p)
		}
	}
	return nil
}

// drop forgets a token and ends what is forwarded under it.
func (g *Gate) drop(p *pass) {
	delete(g.passes, p.id)
	if p.lease != nil {
		p.lease.Revoke()
	}
}

// decide lets a request pass that asks for method and path (escaped, without
// query), or returns the refusal.
func (g *Gate) decide(ctx context.Context, h http.Header, method, path string) (*pass, *refusal) {
	auth, proof := h.Values("Authorization"), h.Values("DPoP")
	if len(auth) == 1 && len(proof) == 0 && g.cfg.Certificates {
		if scheme, tok, _ := strings.Cut(auth[0], " "); strings.EqualFold(scheme, "Bearer") {
			return g.decideCertified(ctx, h, tok)
		}
	}
	if len(auth) != 1 || len(proof) != 1 {
		return nil, unauthenticated("", "exactly one Authorization: DPoP header and one DPoP header are required")
	}
	scheme, tok, _ := strings.Cut(auth[0], " ")
	if !strings.EqualFold(scheme, "DPoP") {
		return nil, unauthenticated("", "the Authorization scheme must be DPoP")
	}
	now := g.now()
	p, err := g.admit(tok, now)
	if err != nil {
		return nil, err
	}
	holder, bad := token.CheckProof(proof[0], token.Call{Method: method, URL: g.cfg.Origin + path, Token: tok}, now)
	if bad == nil && holder.JKT != p.claims.Confirm.JKT {
		bad = &token.Error{Code: token.WrongKey, Detail: "the proof is by another key than the token is bound to"}
	}
	if bad != nil {
		return nil, unauthenticated("invalid_dpop_proof", bad.Error())
	}
	switch bad := g.proofs.First(holder, now); {
	case errors.Is(bad, replay.ErrFull):
		return nil, &refusal{status: http.StatusTooManyRequests, title: "rate-limited", detail: bad.Error()}
	case bad != nil:
		return nil, unauthenticated("invalid_dpop_proof", bad.Error())
	}
	return g.stands(ctx, p) // last: no stranger makes the gate fetch
}

// admit checks a token, by its signature once, by all else each time.
func (g *Gate) admit(tok string, now time.Time) (*pass, *refusal) {
	id := sha256.Sum256([]byte(tok))
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cfg.Feed && (g.heard == 0 || g.since == 0 || enclave.Now().Sub(g.heard) > silence) {
		return nil, &refusal{status: http.StatusServiceUnavailable, title: "unverifiable", detail: "no word of revocations from the verifier; the gate waits for it"}
	}
	p := g.passes[id]
	if p == nil {
		asked := enclave.Now()
		claims := g.ofPeer(tok)
		p = &pass{id: id}
		if claims != nil {
			p.peer = &vouching{tok: tok}
		} else {
			var err error
			if claims, err = token.Verify(tok, g.keys, g.expect, now); err != nil {
				return nil, unauthenticated("invalid_token", err.Error())
			}
		}
		p.claims, p.deadline = claims, asked.Add(time.Unix(claims.Expires, 0).Sub(now))
	}
	if p.peer != nil {
		return p, g.admitPeer(p, now)
	}
	c := p.claims
	switch {
	// The wall clock may only shorten what the boot clock allows.
	case enclave.Now() >= p.deadline, now.Unix() >= c.Expires:
		g.drop(p)
		return nil, unauthenticated("invalid_token", (&token.Error{Code: token.Expired, Detail: "ask for a new one"}).Error())
	case c.Writ.Seq <= g.ended[c.Subject]:
		return nil, ended("token-revoked", "the token was ended before it expired; attest anew")
	case g.cfg.Feed && c.IssuedAt < g.since:
		return nil, &refusal{status: http.StatusServiceUnavailable, title: "unverifiable", detail: "the token is older than what the verifier remembers of revocations; the next one will do"}
	case c.Writ.Epoch < g.epoch:
		return nil, ended("stale-epoch", fmt.Sprintf("the token is of epoch %d, the domain is at %d; attest anew", c.Writ.Epoch, g.epoch))
	case !g.ofBoot(c):
		return nil, ended("other-boot", "the node has been started since; attest anew")
	}
	g.epoch = max(g.epoch, c.Writ.Epoch)
	g.remember(p)
	return p, nil
}

// ofBoot reports whether a token is of its node's boot as far as the gate has seen
// that: with the first token of another boot those of the one before end.
func (g *Gate) ofBoot(c *token.Claims) bool {
	last, known := g.boots[c.Subject]
	if known && c.Writ.Seq <= last.seq {
		return c.BootCount == last.count
	}
	if known && c.BootCount != last.count {
		for _, p := range g.passes {
			if p.claims.Subject == c.Subject {
				g.drop(p)
			}
		}
	}
	g.boots[c.Subject] = boot{c.BootCount, c.Writ.Seq}
	return true
}

// remember keeps a token while there is room; the others are checked anew each
// time.
func (g *Gate) remember(p *pass) {
	if len(g.passes) >= maxTokens {
		for _, q := range g.passes {
			if enclave.Now() >= q.deadline {
				g.drop(q)
			}
		}
	}
	if len(g.passes) < maxTokens {
		g.passes[p.id] = p
	}
}

// leased returns the lease that what is forwarded under a token runs on. A token
// that was ended since it was admitted has none, nor has one there is no room to
// remember: its end would not be heard.
func (g *Gate) leased(p *pass) (*enclave.Lease, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.passes[p.id] != p {
		return nil, enclave.ErrLapsed
	}
	if p.lease == nil {
		l := new(enclave.Lease)
		if err := l.Renew(p.until()); err != nil {
			return nil, err
		}
		p.lease = l
	}
	return p.lease, nil
}
