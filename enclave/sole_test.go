package enclave

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// containerVar makes this program a container runtime that allows as little as
// Kubernetes' restricted profile: its process is PID 1 of its PID namespace, an
// ordinary user, and may make neither namespaces nor cgroups.
const containerVar = "WRIT_TEST_CONTAINER"

// scheduled is what ordinary processes may have to wait for a processor.
const scheduled = time.Second

// containMain restricts itself and becomes `writ run`.
func containMain() error {
	runtime.LockOSThread()
	_ = os.Unsetenv(containerVar)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := filterCalls(); err != nil { // denies what runtimes deny
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

func (a *fakeAgent) contained(t testing.TB, flags ...string) *execution {
	e := a.prepare(t, flags...)
	e.supervised = true
	e.env = []string{containerVar + "=1"}
	return e
}

func container() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
}

func TestWorkAtE1(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 4*time.Second)
	e := a.contained(t, "--level", "E1").hydra(container(), 20, "sleep")
	first := a.until()
	sleepPast(first.Add(300 * time.Millisecond))
	e.lives("after the first deadline, renewed")
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	e.dies(a.until().Add(scheduled))
	if asked := a.requests()[0].Level; asked != "E1" {
		t.Errorf("asked for %s", asked)
	}
	if strings.Contains(e.said(), "PID 1 ended the container") {
		return // on a machine with much else to do it may be first, and nobody is left to leave a record
	}
	if s := e.stop(CauseDeadline); s.Level != "E1" {
		t.Errorf("level %s", s.Level)
	}
}

func TestRevocationAtE1(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.contained(t, "--level", "E1").hydra(container(), 20, "sleep")
	e.pushed(a.event(a.lastSeq()))
	e.dies(Now().Add(scheduled))
	e.exits(ExitStopped, "writ: stopped: revoked").stop(CauseRevoked)
}

// Every key of E1 alone, and its twin without any: with keeper and PID 1 both
// stopped, which only somebody outside the container can do, nobody is left.
func TestHoldersStoppedAtE1(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ first, keeper, starter, naive bool }{
		"keeper and starter: the kernel's timer, then PID 1":     {keeper: true, starter: true},
		"PID 1: the keeper kills all but it":                     {first: true},
		"PID 1 and keeper: nobody, which is why E1 is below E2 ": {first: true, keeper: true, naive: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAgent(t, 3*time.Second)
			e := a.contained(t, "--level", "E1").hydra(container(), 8, "sleep")
			a.answers(unavailable)
			first := e.cmd.Process.Pid
			keeper := e.childCalled(first, "writ-keeper")
			starter := e.childCalled(keeper, "")
			for pid, stopped := range map[int]bool{starter: c.starter, keeper: c.keeper, first: c.first} {
				if !stopped {
					continue
				}
				if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			e.lives("while they are stopped")
			if c.naive {
				sleepPast(a.until().Add(late))
				e.lives("after the deadline")
				return
			}
			e.dies(a.until().Add(scheduled))
			if err := unix.Kill(first, unix.SIGCONT); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
			e.exits(ExitStopped, "lapsed")
		})
	}
}

// childCalled is the child of a process by the name of its program; "" is any.
func (e *execution) childCalled(parent int, name string) int {
	e.t.Helper()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		b, _ := os.ReadFile(stat)
		var pid, ppid int
		var state string
		head, rest, _ := strings.Cut(string(b), ") ")
		_, comm, _ := strings.Cut(head, "(")
		if _, err := fmt.Sscanf(rest, "%s %d", &state, &ppid); err != nil || ppid != parent || name != "" && comm != name {
			continue
		}
		_, _ = fmt.Sscan(string(b), &pid)
		return pid
	}
	e.t.Fatalf("it has no child %s", name)
	return 0
}

func TestKeeperKilledAtE1(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e := a.contained(t, "--level", "E1").hydra(container(), 8, "sleep")
	keeper := e.childCalled(e.cmd.Process.Pid, "writ-keeper")
	now := Now()
	if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.dies(now.Add(scheduled))
	e.exits(ExitRefused, "run/keeper-killed")
}

// What the work leaves behind dies with it, though it is not in namespaces of its own.
func TestDaemonAtE1(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	beat := filepath.Join(a.dir, "beat")
	e := a.contained(t, "--level", "E1").start(container(), "sh", "-c",
		"setsid sh -c 'while :; do date +%s%N >"+beat+"; sleep 0.01; done' & while ! [ -s "+beat+" ]; do sleep 0.01; done; kill -STOP 1; exit 3")
	e.exits(3, "").stop(CauseExited)
	before, _ := os.ReadFile(beat)
	time.Sleep(100 * time.Millisecond)
	if after, _ := os.ReadFile(beat); string(after) != string(before) {
		t.Error("a daemon runs on")
	}
}

// The work is the same user as those who hold it, and sees them: it can neither read nor
// write their memory and files, and who it stops is killed by the kernel in time.
func TestWorkTurnsOnItsHoldersAtE1(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	beat := filepath.Join(a.dir, "beat")
	e := a.contained(t, "--level", "E1").start(container(), "sh", "-c", `
		for d in /proc/[0-9]*; do
			[ $d = /proc/$$ ] && continue
			ls $d/fd >/dev/null 2>&1 && echo files of $d
			(: >$d/mem) 2>/dev/null && echo memory of $d
			echo $d
			kill -STOP ${d#/proc/}
		done
		while :; do date +%s%N >`+beat+`; sleep 0.01; done`)
	e.eventually("it beats", func() bool { b, _ := os.ReadFile(beat); return len(b) > 0 || e.hasEnded() })
	a.answers(unavailable)
	if out := e.output(); strings.Contains(out, " of ") || strings.Count(out, "/proc/") != 3 || !strings.HasPrefix(out, "/proc/1\n") {
		t.Errorf("the work found or reached:\n%s", out)
	}
	sleepPast(a.until().Add(scheduled))
	before, _ := os.ReadFile(beat)
	time.Sleep(200 * time.Millisecond)
	if after, _ := os.ReadFile(beat); string(after) != string(before) {
		t.Error("the work runs on")
	}
	e.exits(ExitStopped, "lapsed")
}

// What E1 cannot do is refused with its cure, and E1 is not given where `writ run` is
// not the first process: there nothing would end with it.
func TestE1Refused(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	ran := filepath.Join(a.dir, "ran")
	for _, c := range []struct {
		flags []string
		says  string
	}{
		{nil, "pass --level E1"},
		{[]string{"--level", "E2"}, "pass --level E1"},
		{[]string{"--level", "E1", "--net", "none"}, "empty network"},
		{[]string{"--level", "E1", "--private-tmp"}, "/tmp of its own"},
	} {
		a.contained(t, c.flags...).start(container(), "touch", ran).exits(ExitRefused, "run/level").exits(ExitRefused, c.says)
	}
	if len(a.requests()) != 0 {
		t.Error("a token was asked for")
	}
	a.notRun(t)
	if err := trySole(true); err == nil || os.Getppid() == 1 {
		t.Errorf("a keeper whose parent is PID %d takes it for its supervisor", os.Getppid())
	}
}

func TestBestLevel(t *testing.T) {
	lacks := func(levels ...Level) (c Capabilities) {
		for _, l := range levels {
			c.Missing = append(c.Missing, Missing{Level: l, What: l.String()})
		}
		return c
	}
	for _, c := range []struct {
		lacks Capabilities
		best  Level
	}{
		{lacks(), E4}, {lacks(E1), E4}, {lacks(E1, E4), E3}, {lacks(E3), E2}, {lacks(E1, E3, E4), E2},
		{lacks(E2, E3), E1}, {lacks(E1, E2, E3), E0}, {lacks(E1, E2), E0},
	} {
		if got := c.lacks.best(); got != c.best {
			t.Errorf("lacking %v: %v, expected %v", c.lacks.Missing, got, c.best)
		}
	}
	if what, _ := lacks(E1, E3).shortOf(E3); what != "E3" {
		t.Errorf("E3 is said to lack %q", what)
	}
}
