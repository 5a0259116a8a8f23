package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	maxAge    = 10 * time.Second // a status list is fetched anew, also where it says that it keeps for longer
	statusDue = 5 * time.Second  // for one fetch
	retryIn   = time.Second      // after a fetch that failed
	maxLists  = 64               // kept; a domain has one for each million entries of its history
)

// Statuses is what a gate does about the status list that a token names (Token Status
// List). The zero Statuses is refused: that none is looked at has to be said.
type Statuses struct {
	// Fetch gets the signed list at a URI, which begins with the issuer.
	Fetch func(ctx context.Context, uri string) (string, error)
	// Optional lets a token pass of which no list can be had that still counts, and one
	// that names none. Without it the answer is 503, and 401.
	Optional bool
	// Ignored says that no list is looked at, and Fetch is nil: a token counts until it
	// expires or an event ends it.
	Ignored bool
}

// lists are the status lists of the issuer as they were fetched last.
type lists struct {
	mu   sync.Mutex
	byID map[string]*list
}

// list is one of them. fetching is held by whoever looks for a newer one; the rest
// is guarded by it.
type list struct {
	fetching sync.Mutex
	last     *token.StatusList // nil: none yet
	due      enclave.Instant   // when to look for a newer one
	failed   error             // why there is none
}

// of returns the list at a URI, empty if it was never fetched; nil when there is no
// room for another.
func (l *lists) of(uri string) *list {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID = map[string]*list{}
	}
	if l.byID[uri] == nil && len(l.byID) < maxLists {
		l.byID[uri] = new(list)
	}
	return l.byID[uri]
}

// current is the newest list of a URI that is at most as old as it says that it may
// be; where none is to be had, the last one until it expires.
func (g *Gate) current(ctx context.Context, uri string) (*token.StatusList, error) {
	if !strings.HasPrefix(uri, g.cfg.Issuer+"/") {
		return nil, fmt.Errorf("the token's status list is at %.100q, not the issuer's", uri)
	}
	l := g.lists.of(uri)
	if l == nil {
		return nil, errors.New("too many status lists")
	}
	l.fetching.Lock()
	defer l.fetching.Unlock()
	if enclave.Now() >= l.due {
		g.refresh(ctx, uri, l)
	}
	if l.last == nil || g.now().Unix() >= l.last.Expires {
		return nil, fmt.Errorf("fetching the status list: %w", l.failed)
	}
	return l.last, nil
}

func (g *Gate) refresh(ctx context.Context, uri string, l *list) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusDue) // others wait for it too
	defer cancel()
	asked := enclave.Now()
	jwt, err := g.cfg.Statuses.Fetch(ctx, uri)
	var got *token.StatusList
	if err == nil {
		g.mu.Lock()
		keys := g.keys
		g.mu.Unlock()
		got, err = token.ParseStatusList(jwt, keys, uri, g.now())
	}
	if err == nil && l.last != nil && got.IssuedAt < l.last.IssuedAt {
		err = errors.New("it is older than the one before")
	}
	if l.failed = err; err != nil {
		l.due = enclave.Now().Add(retryIn)
		g.cfg.Log.WarnContext(ctx, "fetching a status list", "uri", uri, "error", err)
		return
	}
	keep := maxAge
	if ttl := time.Duration(got.TTL) * time.Second; ttl > 0 {
		keep = min(keep, ttl)
	}
	l.last, l.due = got, asked.Add(keep)
}

// stands looks up the status of a token that is good in all else. It returns the pass
// that goes on.
func (g *Gate) stands(ctx context.Context, p *pass) (*pass, *refusal) {
	if p.peer != nil {
		return g.vouched(ctx, p)
	}
	if no := g.listed(ctx, p); no != nil {
		return nil, no
	}
	return p, nil
}

// listed looks a token of the gate's own domain up in its status list.
func (g *Gate) listed(ctx context.Context, p *pass) *refusal {
	s := g.cfg.Statuses
	if s.Ignored {
		return nil
	}
	place := p.claims.Listed.List
	if place.URI == "" {
		if s.Optional {
			return nil
		}
		return ended("status-unknown", "the token names no status list, and the gate demands one")
	}
	l, err := g.current(ctx, place.URI)
	if err != nil && s.Optional {
		return nil
	}
	if err != nil {
		return &refusal{status: http.StatusServiceUnavailable, title: "unverifiable", detail: err.Error()}
	}
	status := l.Status(place.Index)
	if status == token.Valid {
		return nil
	}
	g.mu.Lock()
	g.drop(p)
	g.mu.Unlock()
	if status == token.Suspended {
		return ended("token-suspended", "the status list says that the token is suspended")
	}
	return ended("token-revoked", "the status list says that the token was ended; attest anew")
}

// KeepStatuses looks for newer status lists until ctx is done, so that what is
// forwarded under a token ends when its list says so and not with the next request.
func (g *Gate) KeepStatuses(ctx context.Context) {
	if g.cfg.Statuses.Ignored {
		return
	}
	tick := time.NewTicker(maxAge)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, p := range g.forwarding() {
			if p.peer != nil {
				continue
			}
			if no := g.listed(ctx, p); no != nil { // unverifiable too: what is required and cannot be had
				g.mu.Lock()
				g.drop(p)
				g.mu.Unlock()
			}
		}
	}
}
