package enclave

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/verifier/token"
)

// tree starts a hydra in a group, under nobody's eyes: the work of naive twins.
func tree(t *testing.T, g *group, heads int, mode string) *execution {
	t.Helper()
	a := newAgent(t, time.Second)
	e := a.prepare(t)
	path := filepath.Join(a.dir, "mem")
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
	cmd := exec.Command(hydraPath, path, fmt.Sprint(heads), mode)
	cmd.SysProcAttr = inGroup(g)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	e.eventually("all heads live", func() bool { return e.word(0) >= int64(heads) })
	return e
}

// Every process forks its successor and exits, faster than anybody can list them.
func TestChurningTree(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t).hydra(nil, 30, "churn")
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	e.dies(e.stop(CauseDeadline).Deadline)
}

// Its naive twin: killing every process that is listed.
func TestKillingTheListedIsNotEnough(t *testing.T) {
	t.Parallel()
	g := grouped(t)
	e := tree(t, g, 30, "churn")
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // whoever lists takes a moment to act
	for pid := range strings.FieldsSeq(string(b)) {
		n, _ := strconv.Atoi(pid)
		_ = unix.Kill(n, unix.SIGKILL)
	}
	time.Sleep(50 * time.Millisecond)
	e.lives("after everything listed was killed")
}

// A fork bomb fills its bound and no more, and dies like other work. The bound
// itself is the machine's defence: the twin without one is not for a test.
func TestForkBomb(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	e := a.prepare(t, "--pids", "150").hydra(nil, 1, "bomb")
	a.answers(unavailable)
	most := 0
	for !e.hasEnded() {
		most = max(most, e.processes())
		time.Sleep(5 * time.Millisecond)
	}
	e.exits(ExitStopped, "lapsed")
	e.dies(e.stop(CauseDeadline).Deadline)
	if most < 50 || most > 160 { // the init is not counted where the bound is of version 1
		t.Errorf("%d processes at most, expected the bomb to fill a bound of 150", most)
	}
}

// processes counts what is in the execution's cgroup.
func (e *execution) processes() int {
	parent, err := ownGroup("cgroup2", "")
	if err != nil {
		e.t.Fatal(err)
	}
	dirs, _ := filepath.Glob(filepath.Join(parent, fmt.Sprintf("%s%d-*", groupPrefix, e.cmd.Process.Pid)))
	for _, dir := range dirs {
		return (&group{dir: dir}).count()
	}
	return 0
}

// The keeper is frozen from outside: the kernel's timer kills it all the same.
func TestKeeperFrozen(t *testing.T) {
	t.Parallel()
	g := grouped(t)
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t).hydra(nil, 20, "sleep")
	a.answers(unavailable)
	if err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(e.cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if !g.freeze(Now().Add(time.Second)) {
		t.Fatal("the keeper could not be frozen")
	}
	e.lives("while the keeper is frozen")
	e.dies(a.until())
	e.exits(128+int(unix.SIGKILL), "")
}

// A debugger holds the keeper: not even as root does that keep the work alive.
func TestKeeperTraced(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t).hydra(nil, 20, "sleep")
	a.answers(unavailable)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", e.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		if err := unix.PtraceSeize(tid); err != nil {
			t.Fatal(err)
		}
		if err := unix.PtraceInterrupt(tid); err != nil {
			t.Fatal(err)
		}
	}
	e.lives("while the keeper is traced")
	e.dies(a.until())
}

// What people write: a supervisor that waits and kills, though with the best of
// kills. Whoever stops it has the work for good.
func TestStoppedSupervisorIsNotEnough(t *testing.T) {
	t.Parallel()
	g := grouped(t)
	e := tree(t, g, 10, "sleep")
	naive := exec.Command("sh", "-c", "sleep 0.3; echo 1 >"+filepath.Join(g.dir, "cgroup.kill"))
	if err := naive.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = naive.Process.Kill()
		_ = naive.Wait()
	})
	if err := naive.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	e.lives("after the deadline of a stopped supervisor")
}

// A keeper without namespaces and kernel timer dies, and its work lives on.
func TestKilledSupervisorIsNotEnough(t *testing.T) {
	t.Parallel()
	g := grouped(t)
	e := tree(t, g, 10, "sleep")
	naive := exec.Command("sh", "-c", "sleep 0.2; echo 1 >"+filepath.Join(g.dir, "cgroup.kill"))
	if err := naive.Start(); err != nil {
		t.Fatal(err)
	}
	_ = naive.Process.Kill()
	_ = naive.Wait()
	time.Sleep(300 * time.Millisecond)
	e.lives("after the deadline of a killed supervisor")
}

// A renewal that comes after the deadline revives nothing.
func TestRenewalLate(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t).hydra(nil, 10, "sleep")
	first := a.until()
	a.answers(func(req request) (int, any) {
		sleepPast(first.Add(200 * time.Millisecond))
		return 200, map[string]string{"token": a.issue(req)}
	})
	e.exits(ExitStopped, "lapsed")
	e.dies(first)
}

// An answer to an earlier request, kept by whoever stands between, is no renewal.
func TestRenewalOlderThanTheLease(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	var kept string
	a.answers(func(req request) (int, any) {
		if kept == "" {
			kept = a.issue(req)
		}
		return 200, map[string]string{"token": kept}
	})
	now := Now()
	e := a.prepare(t).hydra(nil, 10, "sleep")
	e.exits(ExitStopped, token.WrongNonce)
	if s := e.stop(CauseDeadline); s.Deadline > now.Add(4*time.Second) {
		t.Errorf("it lived until %v after its start", s.Deadline.Sub(now))
	}
}

// Two renewals of three are lost, and the third is in time.
func TestRenewalLostTwice(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 5*time.Second)
	e := a.prepare(t).hydra(nil, 10, "sleep")
	first := a.until()
	lost := 0
	a.answers(func(req request) (int, any) {
		if lost++; lost <= 2 {
			return unavailable(req)
		}
		return 200, map[string]string{"token": a.issue(req)}
	})
	sleepPast(first.Add(300 * time.Millisecond))
	e.lives("after two lost renewals")
}

// The verifier grants less than before: what was granted stays, and is not added
// to.
func TestDeadlineMovedBack(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 4*time.Second)
	e := a.prepare(t).hydra(nil, 10, "sleep")
	first := a.until()
	a.set(func() { a.life = time.Second })
	e.eventually("it is told", func() bool { return strings.Contains(e.said(), "not later") })
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	if s := e.stop(CauseDeadline); s.Deadline > first {
		t.Errorf("the deadline moved by %v", s.Deadline.Sub(first))
	}
}

// The revocation arrives while a renewal is under way, and the new token after it.
func TestRevocationDuringRenewal(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 3*time.Second)
	e := a.prepare(t).hydra(nil, 10, "sleep")
	last, asked := a.lastSeq(), make(chan struct{}, 8)
	a.answers(func(req request) (int, any) {
		asked <- struct{}{}
		time.Sleep(300 * time.Millisecond)
		return 200, map[string]string{"token": a.issue(req)}
	})
	<-asked
	e.pushed(a.event(last))
	now := Now()
	e.dies(now)
	e.exits(ExitStopped, "writ: stopped: revoked").stop(CauseRevoked)
}

// The keeper lives in a time namespace of its own, where the boot clock is
// another: the deadline is its own clock's, and the work ends in time.
func TestTimeNamespace(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 2*time.Second)
	e := a.prepare(t)
	e.cmd = exec.Command("unshare", append([]string{"--time", "--boottime", "1000000", "--fork", "--kill-child", keeperPath}, append(e.flags, "--", "sleep", "60")...)...)
	began := Now()
	e.cmd.Stderr = create(t, e.stderr)
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = e.cmd.Wait()
		close(e.ended)
	}()
	t.Cleanup(func() {
		_ = e.cmd.Process.Kill()
		<-e.ended
		sweepAll()
	})
	e.eventually("it has asked", func() bool { return len(a.requests()) > 0 })
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	s := e.stop(CauseDeadline)
	if took := Now().Sub(began); took > 4*time.Second || s.Deadline < Instant(1000000*time.Second) {
		t.Errorf("it took %v; the deadline was %v on the keeper's clock", took, time.Duration(s.Deadline))
	}
}

// What a killed keeper leaves, the next one sweeps.
func TestNextKeeperSweeps(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 10*time.Second)
	e := a.prepare(t).hydra(nil, 4, "sleep")
	if err := e.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-e.ended
	e.eventually("the next keeper has swept", func() bool {
		a.prepare(t).start(nil, "true").exits(0, "")
		return len(e.groupDirs()) == 0
	})
}
