package enclave

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A container engine's part: waiting is a process in a group of its own that executes a
// hydra as soon as it is let go.
type waiting struct {
	group *group
	cmd   *exec.Cmd
}

func (w *waiting) release(t *testing.T) {
	t.Helper()
	if err := w.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// adopting starts a keeper for a container that waits. The container is let go when a
// token was given.
func (a *fakeAgent) adopting(t *testing.T, heads int, after string) (*execution, *waiting) {
	t.Helper()
	w := &waiting{group: grouped(t)}
	e := a.prepare(t)
	path := filepath.Join(a.dir, newID()+".mem")
	write(t, path, make([]byte, 64*(heads+2)), 0o600)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if e.mem, err = unix.Mmap(int(f.Fd()), 0, 64*(heads+2), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	e.heads = heads
	if after == "" {
		after = fmt.Sprintf("exec %s %s %d sleep", hydraPath, path, heads)
	}
	w.cmd = exec.Command("sh", "-c", "kill -STOP $$; "+after)
	w.cmd.SysProcAttr = inGroup(w.group)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go w.cmd.Wait()
	e.eventually("the container waits", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.cmd.Process.Pid))
		return err == nil && isState(b, 'T')
	})
	e.flags = append(e.flags, "-adopt", w.group.dir, "-path", "/none:/bin")
	e.start(nil, hydraPath)
	return e, w
}

// isState looks at /proc/PID/stat.
func isState(stat []byte, state byte) bool {
	for i := len(stat) - 1; i > 2; i-- {
		if stat[i-2] == ')' && stat[i-1] == ' ' {
			return stat[i] == state
		}
	}
	return false
}

// held is adopting with the hydra let go and alive.
func (a *fakeAgent) held(t *testing.T, heads int) (*execution, *waiting) {
	t.Helper()
	e, w := a.adopting(t, heads, "")
	e.eventually("a token is given", func() bool { return a.until() != 0 || e.hasEnded() })
	w.release(t)
	e.eventually("all heads live", func() bool { return e.word(0) >= int64(heads) || e.hasEnded() })
	return e, w
}

func TestAdoptedWorkDiesAtDeadline(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 5*time.Second)
	e, w := a.held(t, 20)
	first := a.until()
	sleepPast(first.Add(300 * time.Millisecond))
	e.lives("after the first deadline, renewed")
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	s := e.stop(CauseDeadline)
	e.dies(s.Deadline)
	want, err := Digest(hydraPath)
	if r := a.requests()[0]; err != nil || s.Level != "E4" || r.Level != "E4" || r.Workload != want {
		t.Errorf("stop record %+v, request %+v, expected E4 and %s (%v)", s, r, want, err)
	}
	if _, err := os.Stat(w.group.dir); err != nil {
		t.Errorf("the engine's group is gone: %v", err)
	}
}

// Each holder is hindered in turn, and both together: what is left of the keys is enough.
func TestAdoptedWorkOutlivesNoHolder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		keeper, guard unix.Signal
		atOnce        bool
	}{
		"keeper killed":            {keeper: unix.SIGKILL, atOnce: true},
		"guard killed":             {guard: unix.SIGKILL, atOnce: true},
		"keeper stopped":           {keeper: unix.SIGSTOP},
		"guard stopped":            {guard: unix.SIGSTOP},
		"keeper and guard stopped": {keeper: unix.SIGSTOP, guard: unix.SIGSTOP},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAgent(t, 3*time.Second)
			e, _ := a.held(t, 8)
			a.answers(unavailable)
			keeper := e.cmd.Process.Pid
			guard := e.child(keeper)
			t.Cleanup(func() { _ = unix.Kill(guard, unix.SIGKILL) })
			dead := a.until()
			if c.atOnce {
				dead = Now().Add(time.Second)
			}
			for pid, s := range map[int]unix.Signal{guard: c.guard, keeper: c.keeper} {
				if s == 0 {
					continue
				}
				if err := unix.Kill(pid, s); err != nil {
					t.Fatal(err)
				}
			}
			if !c.atOnce {
				e.lives("while they are stopped")
			}
			e.dies(dead)
		})
	}
}

// The work ends by itself, and keeper and guard with it.
func TestAdoptedWorkEnds(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e, w := a.adopting(t, 1, "exit 0")
	e.eventually("a token is given", func() bool { return a.until() != 0 || e.hasEnded() })
	w.release(t)
	e.exits(0, "").stop(CauseExited)
}

// Without a token nothing that waits is ever let go: it is dead.
func TestAdoptedWithoutToken(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	a.answers(unavailable)
	e, w := a.adopting(t, 1, "")
	e.exits(ExitRefused, "run/no-token")
	e.eventually("the container is dead", w.group.empty)
}

func TestAdoptedTwice(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	e, w := a.held(t, 4)
	second := a.prepare(t, "-adopt", w.group.dir)
	second.start(nil, hydraPath).exits(ExitHeld, "run/held")
	e.lives("after another keeper came")
	if e.hasEnded() {
		t.Error("its keeper ended")
	}
}

func TestAdoptedGroupIsNotTheKeepers(t *testing.T) {
	t.Parallel()
	own, err := ownGroup("cgroup2", "")
	if err != nil {
		t.Fatal(err)
	}
	empty := grouped(t)
	for name, dir := range map[string]string{"its own": own, "below which it is": own + "/.", "none": filepath.Join(own, "writ-none"), "empty": empty.dir} {
		if g, err := adoptGroup(dir); err == nil {
			g.remove()
			t.Errorf("a keeper adopted a group: %s", name)
		}
	}
	for _, path := range []string{"", "/", "a", "/a/../b", "/a/", "//a"} {
		if dir, err := GroupDir(path); err == nil {
			t.Errorf("%q is at %s", path, dir)
		}
	}
	if dir, err := GroupDir("/writ-test"); err != nil || filepath.Base(dir) != "writ-test" {
		t.Errorf("%s, %v", dir, err)
	}
}

// A container's links lead nowhere but into the container.
func TestAdoptedProgramIsInTheContainer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inside := filepath.Join(dir, "etc/secret")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "bin"), 0o755), os.MkdirAll(filepath.Dir(inside), 0o755)); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "secret")
	write(t, inside, []byte("#!/bin/own\n"), 0o755)
	write(t, outside, []byte("outside"), 0o755)
	write(t, filepath.Join(dir, "bin/own"), []byte("inside"), 0o755)
	write(t, filepath.Join(dir, "bin/plain"), []byte("not executable"), 0o644)
	for link, to := range map[string]string{"bin/absolute": "/etc/secret", "bin/up": "../../../../../etc/secret", "bin/out": outside} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, found := range map[string]bool{"own": true, "/bin/own": true, "absolute": true, "up": true, "out": false, "plain": false, "none": false, "/none": false} {
		p, err := openProgramIn(root, []string{name}, "/sbin:/bin")
		if (err == nil) != found {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if script := name == "absolute" || name == "up"; script != (p.interpreter != nil) {
			t.Errorf("%s: interpreter %v", name, p.interpreter)
		}
		p.close()
	}
}
