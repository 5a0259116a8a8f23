//go:build vmtest

package enclave

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests change a machine's clock and put it to sleep: `make vmtest` runs them in
// one of their own.

// late is more than elsewhere: every instruction of this machine is emulated.
const late = 500 * time.Millisecond

// suspended puts the machine to sleep (S3) and has its clock wake it some seconds
// later. It returns the moment this process runs again.
func suspended(t *testing.T, seconds int) Instant {
	t.Helper()
	const alarm = "/sys/class/rtc/rtc0/wakealarm"
	_ = os.WriteFile(alarm, []byte("0"), 0)
	if err := os.WriteFile(alarm, fmt.Appendf(nil, "+%d", seconds), 0); err != nil {
		t.Fatal(err)
	}
	before, awake := Now(), monotonic()
	if err := os.WriteFile("/sys/power/state", []byte("mem"), 0); err != nil {
		t.Fatal(err)
	}
	now := Now()
	asleep := now.Sub(before) - monotonic().Sub(awake)
	if asleep < time.Duration(seconds-2)*time.Second {
		t.Fatalf("the machine slept for %v only", asleep)
	}
	t.Logf("the machine slept for %v", asleep)
	return now
}

func monotonic() Instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return Instant(ts.Nano())
}

// The machine sleeps over the deadline: the work is dead when it wakes, whichever key
// is left.
func TestVMSuspendAcrossTheDeadline(t *testing.T) {
	for name, stop := range map[string]struct{ keeper, init bool }{
		"all keys":           {},
		"the kernel's timer": {keeper: true, init: true},
		"the init":           {keeper: true},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 5*time.Second)
			e := a.supervised(t, 20)
			a.answers(unavailable)
			keeper := e.child(e.cmd.Process.Pid)
			init := e.child(keeper)
			for pid, stopped := range map[int]bool{keeper: stop.keeper, init: stop.init} {
				if stopped {
					if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
						t.Fatal(err)
					}
				}
			}
			e.lives("before the machine sleeps")
			woke := suspended(t, 8)
			if woke <= a.until() {
				t.Fatalf("the machine woke %v before the deadline", a.until().Sub(woke))
			}
			e.dies(woke)
			e.exits(ExitStopped, "lapsed")
		})
	}
}

// The naive twin: any timer or context of Go counts no time that the machine slept.
func TestVMGoTimerSleepsWithTheMachine(t *testing.T) {
	g := grouped(t)
	e := tree(t, g, 10, "sleep")
	deadline := Now().Add(5 * time.Second)
	timer := time.AfterFunc(5*time.Second, g.killAll)
	defer timer.Stop()
	if woke := suspended(t, 8); woke <= deadline {
		t.Fatalf("the machine woke before the deadline")
	}
	time.Sleep(500 * time.Millisecond)
	e.lives("after the deadline, by a timer of Go")
}

// step sets the wall clock, and back by what has passed when the test is over.
func step(t *testing.T, by time.Duration) {
	t.Helper()
	set := func(by time.Duration) {
		ts := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			t.Fatal(err)
		}
	}
	set(by)
	t.Cleanup(func() { set(-by) })
}

// Whoever sets the wall clock moves no deadline.
func TestVMWallClockStepped(t *testing.T) {
	for _, by := range []time.Duration{-time.Hour, time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			a := newAgent(t, 4*time.Second)
			e := a.supervised(t, 20)
			a.answers(unavailable)
			step(t, by)
			sleepPast(a.until().Add(-500 * time.Millisecond))
			e.lives("before the deadline")
			e.dies(a.until())
			e.exits(ExitStopped, "lapsed")
		})
	}
}

// The naive twin: a supervisor that waits for the end of the token, as the token says it.
func TestVMWallClockDecides(t *testing.T) {
	g := grouped(t)
	e := tree(t, g, 10, "sleep")
	expires := time.Now().Unix() + 3
	deadline := Now().Add(3 * time.Second)
	over := make(chan struct{})
	defer close(over)
	go func() {
		for time.Now().Unix() < expires {
			select {
			case <-over:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
		g.killAll()
	}()
	step(t, -time.Hour)
	sleepPast(deadline.Add(late))
	e.lives("after the deadline, by the wall clock")
}

// All of E4, on a kernel that nobody shares.
func TestVMWorkAtE4(t *testing.T) {
	a := newAgent(t, 4*time.Second)
	e := a.prepare(t, "--level", "E4")
	e.supervised = true
	e.hydra(nil, 20, "sleep")
	first := a.until()
	sleepPast(first.Add(300 * time.Millisecond))
	e.lives("after the first deadline, renewed")
	a.answers(unavailable)
	e.dies(a.until())
	e.exits(ExitStopped, "lapsed")
	if level := a.requests()[0].Level; level != "E4" {
		t.Errorf("level %s", level)
	}
}
