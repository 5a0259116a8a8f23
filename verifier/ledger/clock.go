package ledger

import (
	"fmt"
	"sync"
	"time"
)

// ClockGuard notices that the wall clock was stepped: it compares wall time
// with the time since boot, which nobody can set (CLOCK_BOOTTIME; both are
// slewed alike). A step of more than 2 s, in one go or in small ones, could
// bring back what has lapsed, or end what has not, so nothing is issued until a
// person or a trusted source has confirmed the time. The zero ClockGuard is
// ready: its first reading is the one that later ones are compared with.
//
// It may be used by many goroutines.
type ClockGuard struct {
	mu      sync.Mutex
	started bool
	booted  time.Time // wall time at boot, as first read or last confirmed
	stepped error
}

// Check takes a reading of both clocks, made together. It returns ErrClock from
// the first step on, whatever the readings after it.
func (g *ClockGuard) Check(wall time.Time, sinceBoot time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	booted := wall.Round(0).Add(-sinceBoot)
	if !g.started {
		g.started, g.booted = true, booted
	}
	if step := booted.Sub(g.booted); g.stepped == nil && step.Abs() > maxBehind {
		g.stepped = fmt.Errorf("%w: it was stepped by %s; confirm that it is right", ErrClock, step.Round(time.Millisecond))
	}
	return g.stepped
}

// Step returns by how much the wall clock has been stepped since the time was first
// read or last confirmed.
func (g *ClockGuard) Step(wall time.Time, sinceBoot time.Duration) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.started {
		return 0
	}
	return wall.Round(0).Add(-sinceBoot).Sub(g.booted)
}

// Confirm accepts the time as it is now.
func (g *ClockGuard) Confirm(wall time.Time, sinceBoot time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.started, g.booted, g.stepped = true, wall.Round(0).Add(-sinceBoot), nil
}
