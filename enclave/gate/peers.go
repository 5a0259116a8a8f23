package gate

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	peerAgain = 3 * time.Second  // after which the verifier is asked about a peer's token again
	peerDue   = 5 * time.Second  // for one answer
	peerHold  = 10 * time.Second // how long what is forwarded goes on by an answer
	maxAsking = 16               // questions at a time
)

// Peers are other domains whose tokens pass for the gate's audience, as long as the
// gate's own verifier says of each that it counts: operators have recognised the domain
// there, its log has not diverged, it was heard lately, and its status lists say so. The
// zero Peers lets none pass.
type Peers struct {
	Domains []string
	// Ask asks the verifier whether a token counts now (RFC 7662). An error is that it
	// cannot be told.
	Ask func(ctx context.Context, tok string) (counts bool, err error)
}

// vouching is what a pass of another domain rests on. asking is held by whoever asks the
// verifier; the rest is guarded by the gate.
type vouching struct {
	asking sync.Mutex
	tok    string
	at     enclave.Instant // of the question that was last answered with yes; 0: none
}

// ofPeer returns the claims of a token that says it is of one of the other domains, nil
// for any other. Nothing of it is checked: see vouched.
func (g *Gate) ofPeer(tok string) *token.Claims {
	if g.cfg.Peers.Ask == nil {
		return nil
	}
	c, err := token.Peek(tok)
	if err != nil {
		return nil
	}
	rest, ok := strings.CutPrefix(c.Subject, "spiffe://")
	domain, _, node := strings.Cut(rest, "/")
	if !ok || !node || domain == g.cfg.Domain || !slices.Contains(g.cfg.Peers.Domains, domain) {
		return nil
	}
	return c
}

// admitPeer checks what a token of another domain says of itself. It is let through by
// vouched alone. The gate's lock is held.
func (g *Gate) admitPeer(p *pass, now time.Time) *refusal {
	switch c := p.claims; {
	case c.Audience != g.cfg.Audience:
		return unauthenticated("invalid_token", (&token.Error{Code: token.WrongAudience, Detail: "it is for another audience"}).Error())
	case now.Unix() >= c.Expires, enclave.Now() >= p.deadline:
		g.drop(p)
		return unauthenticated("invalid_token", (&token.Error{Code: token.Expired, Detail: "ask for a new one"}).Error())
	case c.Expires-now.Unix() > int64(token.MaxLife/time.Second)+2:
		return unauthenticated("invalid_token", (&token.Error{Code: token.LifeTooLong, Detail: "it lives longer than any token may"}).Error())
	}
	return nil
}

// vouched asks the verifier about a token of another domain, unless it has said yes just
// now. It returns the pass under which the gate remembers that.
func (g *Gate) vouched(ctx context.Context, p *pass) (*pass, *refusal) {
	g.mu.Lock()
	if known := g.passes[p.id]; known != nil {
		p = known
	}
	g.mu.Unlock()
	p.peer.asking.Lock()
	defer p.peer.asking.Unlock()
	g.mu.Lock()
	fresh := p.peer.at != 0 && enclave.Now().Sub(p.peer.at) < peerAgain
	g.mu.Unlock()
	if fresh {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, peerDue)
	defer cancel()
	asked := enclave.Now()
	counts, err := g.ask(ctx, p.peer.tok)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err != nil:
		return nil, &refusal{status: http.StatusServiceUnavailable, title: "unverifiable", detail: fmt.Sprintf("the verifier cannot say whether the token of another domain counts: %v", err)}
	case !counts:
		g.drop(p)
		return nil, ended("not-recognised", "the verifier says that the token does not count: its domain is not recognised, is closed, or has ended it")
	case !g.ofBoot(p.claims):
		g.drop(p)
		return nil, ended("other-boot", "the node has been started since; attest anew")
	}
	p.peer.at = asked
	if known := g.passes[p.id]; known != nil && known != p { // asked about twice at a time
		known.peer.at = max(known.peer.at, asked)
		p = known
	}
	g.remember(p)
	if p.lease != nil {
		_ = p.lease.Renew(p.until()) // one that has ended stays so
	}
	return p, nil
}

// ask asks the verifier, with no more than a few others.
func (g *Gate) ask(ctx context.Context, tok string) (bool, error) {
	select {
	case g.asking <- struct{}{}:
		defer func() { <-g.asking }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	return g.cfg.Peers.Ask(ctx, tok)
}

// until is how long what is forwarded under a pass may go on by what is known.
func (p *pass) until() enclave.Instant {
	if p.peer == nil {
		return p.deadline
	}
	return min(p.deadline, p.peer.at.Add(peerHold))
}

// KeepPeers asks again about tokens of other domains under which something is forwarded,
// until ctx is done: it ends when the verifier says so, or says nothing any more.
func (g *Gate) KeepPeers(ctx context.Context) {
	if g.cfg.Peers.Ask == nil {
		return
	}
	tick := time.NewTicker(peerAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var asked sync.WaitGroup
		for _, p := range g.forwarding() {
			if p.peer != nil {
				asked.Go(func() { _, _ = g.vouched(ctx, p) }) // a lease that is not renewed ends
			}
		}
		asked.Wait()
	}
}

// forwarding are the passes under which something is forwarded.
func (g *Gate) forwarding() (out []*pass) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.passes {
		if p.lease != nil {
			out = append(out, p)
		}
	}
	return out
}
