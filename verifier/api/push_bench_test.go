package api

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// agents is how many follow their events while one is told to stop, or all are.
const agents = 200

// crowd is a rig whose nodes all follow their events, as their agents would.
type crowd struct {
	*rig
	trust *bundle.Trust
	heard chan heard
}

// heard is an event at the node it is for, verified.
type heard struct {
	who *hand
	at  time.Time
	err error
}

func newCrowd(b *testing.B) *crowd {
	b.Helper()
	r := newRig(b)
	r.crew(agents)
	trust, err := r.first.Domain(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	c := &crowd{rig: r, trust: trust, heard: make(chan heard, agents)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	b.Cleanup(func() { cancel(); wg.Wait() })
	for _, h := range r.hands {
		c.follow(ctx, &wg, h)
	}
	c.open(strconv.Itoa(agents))
	return c
}

// follow opens a node's stream and keeps at it: one that ended with its token is
// opened again once the node has another.
func (c *crowd) follow(ctx context.Context, wg *sync.WaitGroup, h *hand) {
	h.fresh = make(chan string, 1)
	h.fresh <- h.tok
	want := token.Expect{Issuer: "https://" + c.name, Domain: c.name, Audience: "spiffe://" + c.name + "/enclave"}
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case tok := <-h.fresh:
				_ = h.c.Events(ctx, tok, h.n.key, h.n.id, func(_, event string) {
					_, err := token.VerifyEvent(event, c.trust.TokenKeys, want, time.Now())
					c.heard <- heard{h, time.Now(), err}
				})
			}
		}
	})
}

// restore lets nodes work again, each with a new token and stream.
func (c *crowd) restore(b *testing.B, hands ...*hand) {
	b.Helper()
	var wg sync.WaitGroup
	failed := make(chan error, len(hands))
	for part := range slices.Chunk(hands, (len(hands)+15)/16) {
		wg.Go(func() {
			for _, h := range part {
				ch, err := h.c.Challenge(context.Background(), protocol.ChallengeRequest{Node: h.n.id})
				if err == nil {
					h.next = ch.Nonce
					err = h.attest(true)
				}
				if err != nil {
					failed <- err
					return
				}
				h.fresh <- h.tok
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		b.Fatal(err)
	}
	c.open(strconv.Itoa(agents))
}

// next is when the node (nil: any) has the event.
func (c *crowd) next(b *testing.B, of *hand) time.Time {
	b.Helper()
	got := wait(b, "an event", c.heard)
	if got.err != nil || of != nil && got.who != of {
		b.Fatalf("node %s has heard something else: %v", got.who.n.id, got.err)
	}
	return got.at
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for name, percent := range map[string]int{"p50-ms": 50, "p99-ms": 99} {
		b.ReportMetric(float64(took[(len(took)*percent-1)/100].Microseconds())/1000, name)
	}
}

// BenchmarkRevoke is the time from an operator's act on one node, asked for over
// HTTPS and recorded, until its agent in another process has the signed event;
// 200 agents are connected.
func BenchmarkRevoke(b *testing.B) {
	c := newCrowd(b)
	var took []time.Duration
	for b.Loop() {
		h := c.hands[len(took)%agents]
		began := time.Now()
		if _, err := c.first.SetStatus(b.Context(), h.n.id, protocol.StatusChange{Status: "suspended", Reason: "benchmark"}); err != nil {
			b.Fatal(err)
		}
		took = append(took, c.next(b, h).Sub(began))
		b.StopTimer()
		if _, err := c.first.SetStatus(b.Context(), h.n.id, protocol.StatusChange{Status: "active", Reason: "benchmark"}); err != nil {
			b.Fatal(err)
		}
		c.restore(b, h)
		b.StartTimer()
	}
	report(b, took)
}

// BenchmarkPush is the time from an act on the whole domain until each of 200
// agents has its own signed event.
func BenchmarkPush(b *testing.B) {
	b.Run(strconv.Itoa(agents), func(b *testing.B) {
		c := newCrowd(b)
		var took []time.Duration
		for b.Loop() {
			began := time.Now()
			done := make(chan error, 1)
			go func() {
				_, err := c.first.Freeze(context.Background(), protocol.GovernanceChange{Frozen: true, Reason: "benchmark"})
				done <- err
			}()
			for range agents {
				took = append(took, c.next(b, nil).Sub(began))
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if _, err := c.first.Freeze(b.Context(), protocol.GovernanceChange{Reason: "benchmark"}); err != nil {
				b.Fatal(err)
			}
			c.restore(b, c.hands...)
			b.StartTimer()
		}
		report(b, took)
	})
}
