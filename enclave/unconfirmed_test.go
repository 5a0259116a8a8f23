package enclave

import (
	"encoding/json"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Somebody's debugger holds a process of the work beyond its death, so that its
// namespace cannot end: the work is stopped in time, and nobody says that nothing is
// left of it. Once the debugger lets go, nothing is.
func TestStopIsNotConfirmed(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 4*time.Second)
	e := a.prepare(t).hydra(nil, 8, "sleep")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	held := 0
	for _, pid := range e.members() {
		if pid != e.initPID() {
			held = pid
		}
	}
	if err := unix.PtraceSeize(held); err != nil {
		t.Fatal(err)
	}
	a.answers(unavailable)
	e.dies(a.until())
	e.exits(ExitStopped, "NOT CONFIRMED")
	b, err := os.ReadFile(e.record)
	if err != nil {
		t.Fatal(err)
	}
	var s Stop
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if s.Confirmed || s.Cause != CauseDeadline {
		t.Errorf("stop record %+v", s)
	}
	a.set(func() {
		if len(a.stops) != 1 || a.stops[0].Confirmed {
			t.Errorf("the agent was told %+v", a.stops)
		}
	})
	var ws unix.WaitStatus
	e.eventually("the debugger has let go", func() bool {
		pid, err := unix.Wait4(held, &ws, unix.WALL|unix.WNOHANG, nil)
		return err != nil || pid == held && (ws.Signaled() || ws.Exited())
	})
}

// members are the processes in the work's cgroup.
func (e *execution) members() (pids []int) {
	e.t.Helper()
	b, err := os.ReadFile(e.groupDirs()[0] + "/cgroup.procs")
	if err != nil {
		e.t.Fatal(err)
	}
	for field := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
