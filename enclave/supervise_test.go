package enclave

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (a *fakeAgent) supervised(t testing.TB, heads int) *execution {
	e := a.prepare(t)
	e.supervised = true
	return e.hydra(nil, heads, "sleep")
}

// The keeper cannot act any more at the deadline, so the kernel kills it; whoever
// waits for `writ run` is told that the lease lapsed, as ever.
func TestSupervisedKeeperStopped(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.supervised(t, 10)
	a.answers(unavailable)
	if err := unix.Kill(e.child(e.cmd.Process.Pid), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	e.dies(a.until())
	e.exits(ExitStopped, "the kernel's timer killed the keeper")
}

func TestSupervisedKeeperKilled(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.supervised(t, 10)
	keeper := e.child(e.cmd.Process.Pid) // looking takes its time
	now := Now()
	if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.dies(now)
	e.exits(ExitRefused, "run/keeper-killed")
}

// Nobody outlives `writ run`.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.supervised(t, 10)
	now := Now()
	if err := e.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	e.dies(now)
}

func TestSupervisorPassesOn(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.prepare(t)
	e.supervised = true
	e.start(nil, "sh", "-c", "trap 'exit 43' TERM; echo ready; while :; do sleep 0.02; done")
	e.eventually("the work is ready", func() bool { return strings.Contains(e.output(), "ready") })
	if err := e.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e.exits(43, "").stop(CauseExited)
}
