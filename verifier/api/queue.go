package api

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// How much is judged at a time, and how long one may wait for it.
const (
	judgedAtOnce   = 64 // most of an appraisal is waiting for the group commit
	doubtedAtOnce  = 2
	waiting        = 1024
	doubtedWaiting = 64
	patience       = 5 * time.Second
)

// A remote may send this much that is not authentic before it is doubted.
const (
	pardon      = 20
	pardonEvery = time.Second
	maxRemotes  = 1 << 14 // remembered
)

// Public reads per remote.
const (
	readsPerSecond = 500
	readsBurst     = 1000
)

// Tries to sign in per remote.
const (
	signInEvery = 3 * time.Second
	signInBurst = 10
)

// peer is the other end of a connection.
type peer struct {
	remote  netip.Prefix
	genuine atomic.Bool // the last evidence it sent was authentic
}

// remoteOf is what limits count by: an IPv4 address, or the 64 bits of an IPv6
// one that a host is given. What a proxy claims (X-Forwarded-For) is not asked.
func remoteOf(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := ap.Addr().Unmap().WithZone(""), 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // the bits fit
	return p
}

func peerOf(ctx context.Context) *peer {
	if p, ok := ctx.Value(peerKey{}).(*peer); ok {
		return p
	}
	return &peer{}
}

// queue decides in what order strangers are served. Nothing here blocks anybody:
// a remote that sent too much that was not authentic shares two places with all
// others like it, and a connection on which authentic evidence came keeps its
// place among the rest, from wherever it comes. So forgeries in a node's name
// hold up nobody but whoever shares their sender's address and has not yet been
// authentic, and those only for as long as a signature check takes. The name of
// the node counts for nothing: anybody can write it.
type queue struct {
	trusted, doubted *lane

	mu      sync.Mutex
	remotes map[netip.Prefix]*remote
}

type remote struct {
	pardons *rate.Limiter
	reads   *rate.Limiter
	signIns *rate.Limiter
}

func newQueue() *queue {
	return &queue{trusted: newLane(judgedAtOnce, waiting), doubted: newLane(doubtedAtOnce, doubtedWaiting), remotes: map[netip.Prefix]*remote{}}
}

// enter waits for a place; leave gives it back.
func (q *queue) enter(ctx context.Context, p *peer) (leave func(), err error) {
	if p.genuine.Load() || q.of(p).pardons.Tokens() >= 1 {
		if leave, ok := q.trusted.enter(ctx); ok {
			return leave, nil
		}
		return nil, &httpError{status: http.StatusServiceUnavailable, code: codeBusy, detail: "too many requests wait already", retry: 2}
	}
	if leave, ok := q.doubted.enter(ctx); ok {
		return leave, nil
	}
	return nil, &httpError{status: http.StatusTooManyRequests, code: codeRateLimited, detail: "too much that was not authentic came from this address", retry: 5}
}

// forged notes that something from the peer was not authentic.
func (q *queue) forged(p *peer) {
	p.genuine.Store(false)
	q.of(p).pardons.Allow()
}

// signIn takes one try to sign in from the peer's allowance.
func (q *queue) signIn(p *peer) error {
	if q.of(p).signIns.Allow() {
		return nil
	}
	return &httpError{status: http.StatusTooManyRequests, code: codeRateLimited, detail: "too many tries to sign in from this address", retry: int(signInEvery.Seconds())}
}

// read takes public reads from the peer's allowance.
func (q *queue) read(p *peer, n int) error {
	if q.of(p).reads.AllowN(time.Now(), max(n, 1)) {
		return nil
	}
	return &httpError{status: http.StatusTooManyRequests, code: codeRateLimited, detail: "too many requests from this address", retry: 1}
}

func (q *queue) of(p *peer) *remote {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.remotes[p.remote]
	if r == nil {
		if len(q.remotes) >= maxRemotes {
			q.forget()
		}
		r = &remote{pardons: rate.NewLimiter(rate.Every(pardonEvery), pardon), reads: rate.NewLimiter(readsPerSecond, readsBurst), signIns: rate.NewLimiter(rate.Every(signInEvery), signInBurst)}
		q.remotes[p.remote] = r
	}
	return r
}

// forget drops the remotes nothing is held against, or everything when all are
// doubted: then addresses tell nothing any more.
func (q *queue) forget() {
	for k, r := range q.remotes {
		if r.pardons.Tokens() >= pardon {
			delete(q.remotes, k)
		}
	}
	if len(q.remotes) >= maxRemotes {
		clear(q.remotes)
	}
}

// lane is a number of places and a bounded number of those who wait for one.
type lane struct {
	places  chan struct{}
	waiting atomic.Int64
	most    int64
}

func newLane(places int, waiting int64) *lane {
	return &lane{places: make(chan struct{}, places), most: waiting}
}

func (l *lane) enter(ctx context.Context) (leave func(), ok bool) {
	leave = func() { <-l.places }
	select {
	case l.places <- struct{}{}:
		return leave, true
	default:
	}
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > l.most {
		return nil, false
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case l.places <- struct{}{}:
		return leave, true
	case <-t.C:
	case <-ctx.Done():
	}
	return nil, false
}

// Memory for bodies that are being read (bytes). Small ones are bounded by the
// number of connections.
const (
	smallBody    = 64 << 10
	bodiesRemote = 64 << 20
	bodiesAll    = 512 << 20
)

// bodies counts the memory that large bodies may take while they arrive.
type bodies struct {
	mu  sync.Mutex
	all int64
	by  map[netip.Prefix]int64
}

// take reserves n bytes for a peer.
func (b *bodies) take(p *peer, n int64) (give func(), err error) {
	if n <= smallBody {
		return func() {}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all+n > bodiesAll || b.by[p.remote]+n > bodiesRemote {
		return nil, &httpError{status: http.StatusServiceUnavailable, code: codeBusy, detail: "too many large requests are arriving", retry: 2}
	}
	if b.by == nil {
		b.by = map[netip.Prefix]int64{}
	}
	b.all += n
	b.by[p.remote] += n
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all -= n
		if b.by[p.remote] -= n; b.by[p.remote] == 0 {
			delete(b.by, p.remote)
		}
	}, nil
}
