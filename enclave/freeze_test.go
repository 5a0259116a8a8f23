package enclave

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The work stands still at its deadline and is killed at the stated bound.
func TestFreezeThenKill(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t, "--freeze-for", "700ms").hydra(nil, 20, "sleep")
	a.answers(unavailable)
	e.eventually("it is frozen", func() bool { return strings.Contains(e.said(), "frozen at its deadline") })
	frozen := e.last()
	if e.hasEnded() {
		t.Error("killed at once")
	}
	e.exits(ExitStopped, "lapsed")
	s := e.stop(CauseDeadline)
	e.dies(s.Deadline)
	if e.last() != frozen || s.Frozen != s.Deadline || s.Stopped.Sub(s.Deadline) < 700*time.Millisecond || frozen > s.Deadline {
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
	e := a.prepare(t, "--freeze-for", "30s").hydra(nil, 10, "sleep")
	a.answers(unavailable)
	e.eventually("it is frozen", func() bool { return strings.Contains(e.said(), "frozen at its deadline") })
	e.pushed(a.event(a.lastSeq()))
	e.exits(ExitStopped, "stopped")
}

// Nobody answers: the work stops before its token ends.
func TestStopOnPartition(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.prepare(t, "--stop-on-partition", "1500ms").hydra(nil, 10, "sleep")
	first := Now()
	sleepPast(first.Add(2 * time.Second))
	e.lives("later than the bound, while the verifier answers")
	a.answers(unavailable)
	now := Now()
	e.exits(ExitStopped, "lapsed")
	e.dies(now.Add(1500 * time.Millisecond))
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
