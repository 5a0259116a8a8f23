package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// livez depends on nothing: that it answers is the answer.
func (s *Server) livez(q *call) error {
	return q.Blob(http.StatusOK, mediaText, []byte("ok\n"))
}

// readyz lists what issuing a token needs, as Kubernetes writes it.
func (s *Server) readyz(q *call) error {
	checks := s.ready.run(q.Request().Context(), s)
	status, all := http.StatusOK, "ok\n"
	var b strings.Builder
	for _, c := range checks {
		if c.err == nil {
			fmt.Fprintf(&b, "[+]%s ok\n", c.name)
			continue
		}
		status, all = http.StatusServiceUnavailable, "not ready\n"
		fmt.Fprintf(&b, "[-]%s failed: %v\n", c.name, c.err)
	}
	if _, verbose := q.QueryParams()["verbose"]; verbose || status != http.StatusOK {
		all = b.String() + all
	}
	return q.Blob(status, mediaText, []byte(all))
}

// probe remembers the checks for a second, so that asking often costs little.
type probe struct {
	mu   sync.Mutex
	at   time.Time
	last []check
	took time.Duration // of an empty transaction
}

type check struct {
	name string
	err  error
}

const (
	probeEvery = time.Second
	probeTime  = 3 * time.Second
)

func (p *probe) run(ctx context.Context, s *Server) []check {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < probeEvery {
		return p.last
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
	defer cancel()
	var frozen, stopping error
	keys := s.svc.Signs()
	// A draft without a change takes the way of every other: the store's lock,
	// the guard, the clock.
	began := time.Now()
	_, log := s.svc.Log().Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{}, nil }})
	p.took = time.Since(began)
	g, err := s.svc.Governance(ctx)
	switch {
	case err != nil:
		frozen = err
	case g.Frozen:
		frozen = errors.New("the domain is frozen")
	}
	select {
	case <-s.stopping:
		stopping = errors.New("shutting down")
	default:
	}
	p.last, p.at = []check{{"keys", keys}, {"log", log}, {"clock", s.svc.ClockSound()}, {"governance", frozen}, {"witnesses", s.svc.WitnessSound()}, {"serving", stopping}}, time.Now()
	return p.last
}

// commit is how long the last empty transaction took.
func (p *probe) commit() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.took
}

func (s *Server) version(q *call) error {
	return q.answer(map[string]string{"version": s.cfg.Version, "revision": s.cfg.Revision, "go": runtime.Version()})
}

func (s *Server) describe(q *call) error {
	return q.Blob(http.StatusOK, mediaJSON, s.openapi)
}

func (s *Server) scrape(q *call) error {
	s.metrics.handler.ServeHTTP(q.Response(), q.Request())
	return nil
}
