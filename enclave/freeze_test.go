package enclave

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// standsStill runs work until it stands still at its deadline. On a machine too busy for
// all of it to stop in time it is killed there, as it says, and tried again.
func (a *fakeAgent) standsStill(t *testing.T, heads int, bound string) *execution {
	t.Helper()
	for end := Now().Add(2 * patient); Now() < end; {
		a.answers(nil)
		e := a.prepare(t, "--freeze-for", bound).hydra(nil, heads, "sleep")
		a.answers(unavailable)
		still := func() bool { return strings.Contains(e.said(), "frozen at its deadline") }
		e.eventually("it is frozen", func() bool { return still() || e.hasEnded() })
		if still() {
			return e
		}
		e.exits(ExitStopped, "lapsed")
		e.dies(e.stop(CauseDeadline).Deadline)
	}
	t.Fatal("no keeper could freeze its work in time")
	return nil
}

// The work stands still at its deadline and is killed at the stated bound.
func TestFreezeThenKill(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.standsStill(t, 12, "3s")
	frozen := e.last()
	if e.hasEnded() {
		t.Error("killed at once")
	}
	e.exits(ExitStopped, "lapsed")
	s := e.stop(CauseDeadline)
	e.dies(s.Deadline)
	if e.last() != frozen || s.Frozen != s.Deadline || s.Stopped.Sub(s.Deadline) < 3*time.Second || frozen > s.Deadline {
		t.Errorf("last instruction %v after the deadline, record %+v", e.last().Sub(s.Deadline), s)
	}
}

// A keeper that cannot freeze, because it is stopped, is killed at the deadline
// and not at the bound.
func TestFreezeWithoutKeeper(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t, "--freeze-for", "30s").hydra(nil, 20, "sleep")
	a.answers(unavailable)
	if err := e.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	e.dies(a.until())
	e.exits(128+int(unix.SIGKILL), "")
}

// A revocation does not wait for whoever wants to look.
func TestRevokedWhileFrozen(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.standsStill(t, 8, "5m")
	e.pushed(a.event(a.lastSeq()))
	e.exits(ExitStopped, "stopped")
}

// Nobody answers: the work stops before its token ends.
func TestStopOnPartition(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.prepare(t, "--stop-on-partition", "6s").hydra(nil, 10, "sleep")
	first := Now()
	sleepPast(first.Add(7 * time.Second))
	e.lives("later than the bound, while the verifier answers")
	a.answers(unavailable)
	now := Now()
	e.exits(ExitStopped, "lapsed")
	e.dies(now.Add(6 * time.Second))
}

// A wall clock that is set is a reason to renew at once, and none to stop.
func TestWallClockSet(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.prepare(t).hydra(nil, 4, "sleep")
	asked := len(a.requests())
	e.eventually("it renews", func() bool {
		var now unix.Timespec // to what it is: this is everybody's clock
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
		return len(a.requests()) > asked
	})
	e.lives("after the clock was set")
}
