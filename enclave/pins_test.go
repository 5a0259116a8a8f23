package enclave

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// pinsOf lists what is pinned for a cgroup.
func pinsOf(t *testing.T, group string) (dirs []string) {
	t.Helper()
	st, err := os.Stat(group)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range bpffs() {
		found, _ := filepath.Glob(filepath.Join(at, fmt.Sprintf("%s%d-*", pinPrefix, st.Sys().(*syscall.Stat_t).Ino)))
		dirs = append(dirs, found...)
	}
	return dirs
}

// Keeper and guard are stopped and then killed, so that neither sees the other go: what
// is pinned kills the container at its deadline, and nobody sweeps it before. Without
// pins, the naive twin, it runs on.
func TestPinsOutliveAllHolders(t *testing.T) {
	t.Parallel()
	for name, pinned := range map[string]bool{"pinned": true, "naive": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAgent(t, 4*time.Second)
			e, w := a.held(t, 8)
			a.answers(unavailable)
			guard := e.child(e.cmd.Process.Pid)
			for _, s := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
				for _, pid := range []int{guard, e.cmd.Process.Pid} {
					if err := unix.Kill(pid, s); err != nil {
						t.Fatal(err)
					}
				}
			}
			<-e.ended
			e.eventually("the guard has gone", func() bool { return unix.Kill(guard, 0) == unix.ESRCH })
			sweepAll()
			dirs := pinsOf(t, w.group.dir)
			if len(dirs) != 1 {
				t.Fatalf("pinned: %v", dirs)
			}
			if !pinned {
				_ = os.RemoveAll(dirs[0])
				e.runsOn(a.until())
				return
			}
			e.lives("held by nobody")
			e.dies(a.until().Add(scheduled))
			e.eventually("what was pinned is swept", func() bool {
				sweepAll()
				return len(pinsOf(t, w.group.dir)) == 0
			})
		})
	}
}

// What is pinned is gone when the stop is confirmed; what a killed keeper has left, the
// next one at E4 sweeps.
func TestPinsAreRemoved(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	ino := func(e *execution) string {
		var pins []string
		e.eventually("it is pinned", func() bool {
			for _, g := range e.groupDirs() {
				pins = append(pins, pinsOf(t, g)...)
			}
			return len(pins) > 0 || e.hasEnded()
		})
		if len(pins) != 1 {
			t.Fatalf("pinned: %v\n%s", pins, e.said())
		}
		for _, name := range []string{"deadline", "egress", "leaving", "ticking", "sched_switch", "cpu-0"} {
			if _, err := os.Stat(filepath.Join(pins[0], name)); err != nil {
				t.Error(err)
			}
		}
		return pins[0]
	}
	e := a.prepare(t, "--level", "E4").hydra(nil, 4, "sleep")
	dir := ino(e)
	e.pushed(a.event(a.lastSeq()))
	e.exits(ExitStopped, "revoked")
	if _, err := os.Stat(dir); err == nil {
		t.Error("pins are left after a confirmed stop")
	}
	e = a.prepare(t, "--level", "E4").hydra(nil, 4, "sleep")
	dir = ino(e)
	if err := e.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-e.ended
	e.eventually("the next keeper has swept", func() bool {
		a.prepare(t, "--level", "E4").start(nil, "true").exits(0, "")
		_, err := os.Stat(dir)
		return err != nil
	})
}

// The kernel's deadline moves forward with each renewal, and not back when the verifier
// grants less than before.
func TestKernelDeadlineMovesForward(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 4*time.Second)
	e := a.prepare(t, "--level", "E4").hydra(nil, 4, "sleep")
	pins := pinsOf(t, e.groupDirs()[0])
	if len(pins) != 1 {
		t.Fatalf("pinned: %v", pins)
	}
	shared, err := ebpf.LoadPinnedMap(filepath.Join(pins[0], "deadline"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	at := func() (at Instant) {
		if err := shared.Lookup(uint32(0), &at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	first := at()
	if first > a.until() || first < a.until().Add(-a.life) {
		t.Errorf("the kernel's deadline is %v from the token's", first.Sub(a.until()))
	}
	e.eventually("it moves forward", func() bool { return at() > first })
	a.set(func() { a.life = time.Second })
	e.eventually("the keeper is told less", func() bool { return strings.Contains(e.said(), "not later") })
	second := at()
	if second < first {
		t.Errorf("the deadline moved back by %v", first.Sub(second))
	}
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	s := e.stop(CauseDeadline)
	e.dies(s.Deadline)
	if s.Deadline < second {
		t.Errorf("the work was stopped %v before the kernel's deadline", second.Sub(s.Deadline))
	}
}

// Root's work reaches no pin: with one removed, nothing but its holders would be left.
func TestWorkCannotUnpin(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	at := bpffs()[0]
	mine := filepath.Join(at, "writ-mine-"+newID())
	e := a.prepare(t, "--level", "E4").start(nil, "sh", "-c", "mkdir "+mine+"; ls -d "+at+"/"+pinPrefix+"*; exec rm -r "+at+"/"+pinPrefix+"*")
	e.exits(1, "Read-only file system")
	if !strings.Contains(e.output(), at+"/"+pinPrefix) {
		t.Errorf("it saw no pin:\n%s", e.output())
	}
	if err := os.Mkdir(mine, 0o700); err != nil { // the naive twin
		t.Error(err)
	}
	if err := os.Remove(mine); err != nil {
		t.Error(err)
	}
}

// noBPFVar makes the machine one whose kernel has no bpf(2).
const noBPFVar = "WRIT_TEST_NO_BPF"

func withoutBPF() {
	err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls:      []seccomp.SyscallGroup{{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"bpf"}}},
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(ExitRefused)
	}
}

// What E4 lacks is said with its cure, and nothing starts.
func TestE4Refused(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	ran := filepath.Join(a.dir, "ran")
	e := a.prepare(t, "--level", "E4")
	e.supervised, e.env = true, []string{noBPFVar + "=1"}
	e.start(nil, "touch", ran).exits(ExitRefused, "run/level").exits(ExitRefused, "creating map").exits(ExitRefused, "CONFIG_BPF_SYSCALL")

	alone := filepath.Join(a.dir, "writ-keeper")
	b, err := os.ReadFile(keeperPath)
	if err != nil {
		t.Fatal(err)
	}
	write(t, alone, b, 0o755)
	e = a.prepare(t, "--level", "E4")
	e.supervised, e.keeper = true, alone
	e.start(nil, "touch", ran).exits(ExitRefused, "run/level").exits(ExitRefused, "install writ-bpf beside")

	elsewhere := append([]string{"--time", "--boottime", "1000000", "--fork", "--kill-child", keeperPath, "--level", "E4"}, a.prepare(t).flags...)
	out, err := exec.Command("unshare", append(elsewhere, "--", "touch", ran)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "time namespace") {
		t.Errorf("in a time namespace: %v\n%s", err, out)
	}
	if len(a.requests()) != 0 {
		t.Error("a token was asked for")
	}
	a.notRun(t)
}
