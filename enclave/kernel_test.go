package enclave

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// grouped is a cgroup of a test, emptied and removed at its end.
func grouped(t *testing.T) *group {
	t.Helper()
	g, err := newGroup(newID(), 200)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for !g.empty() {
			g.killAll()
			time.Sleep(time.Millisecond)
		}
		g.remove()
	})
	return g
}

func inGroup(g *group) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.fd.Fd())}
}

// No process acts at the deadline at all, and the hydra dies, sleeping or busy.
// The same hydra in the same kind of group without it is the naive twin of
// TestProcessGroupKillIsNotEnough.
func TestKernelDeadlineAlone(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"sleep", "busy"} {
		g := grouped(t)
		d, err := newKernelDeadline(loaderPath, g)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.close)
		heads := map[string]int{"sleep": 20, "busy": 4}[mode]
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
		e.eventually("all heads live", func() bool { return e.word(0) == int64(heads) })
		deadline := Now().Add(1500 * time.Millisecond)
		d.set(deadline)
		e.lives("before the deadline")
		e.dies(deadline.Add(scheduled)) // what waits for a processor dies when it has got it
	}
}

// What lies in send buffers when the work dies does not leave the machine; in the
// naive twin it goes on for as long as somebody reads.
func TestEgressCutAtTheDeadline(t *testing.T) {
	t.Parallel()
	after := func(cut bool) (sent int64) {
		g := grouped(t)
		d, err := newKernelDeadline(loaderPath, g)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.close)
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cmd := exec.Command(probePath, "send", l.Addr().String())
		cmd.SysProcAttr = inGroup(g)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetReadBuffer(16 << 10)
		if line, err := bufio.NewReader(out).ReadString('\n'); !strings.Contains(line, "timeout") {
			t.Fatalf("the sender's buffer did not fill: %q, %v", line, err)
		}
		if cut {
			d.set(1)
		}
		g.killAll()
		_ = cmd.Wait()
		return arrived(c, cut)
	}
	if cut, naive := after(true), after(false); cut >= plenty || naive < plenty {
		t.Errorf("after the kill %d bytes came with the cut, %d without", cut, naive)
	}
}

// plenty is more than may lie in a receiver's own queue, and less than in a sender's.
const plenty = 1 << 20

// arrived counts what comes from the dead, up to plenty. It waits long for what is to
// come, and not so long for what is not.
func arrived(c net.Conn, cut bool) (n int64) {
	patience := 20 * time.Second
	if cut {
		patience = 1500 * time.Millisecond
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	n, _ = io.CopyN(io.Discard, c, plenty)
	return n
}

// Work that moves below its group, as containers do, is held all the same.
func TestKernelDeadlineBelowTheGroup(t *testing.T) {
	t.Parallel()
	g := grouped(t)
	inner := &group{dir: filepath.Join(g.dir, "inner")}
	if err := os.Mkdir(inner.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for os.Remove(inner.dir) != nil {
			g.killAll()
			time.Sleep(time.Millisecond)
		}
	})
	var err error
	if inner.fd, err = os.Open(inner.dir); err != nil {
		t.Fatal(err)
	}
	defer inner.fd.Close()
	d, err := newKernelDeadline(loaderPath, g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	e := tree(t, inner, 10, "sleep")
	deadline := Now().Add(200 * time.Millisecond)
	d.set(deadline)
	e.dies(deadline.Add(scheduled)) // what waits for a processor dies when it has got it
}

// What is in send buffers does not leave after the deadline: not though keeper, init and
// work were killed before it and the next keeper has swept their cgroup, and not where
// keeper and init are both stopped. At E3, the naive twin, all of it leaves.
func TestEgressCutThoughEverybodyIsGone(t *testing.T) {
	t.Parallel()
	for _, hinder := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP} {
		if cut, naive := sentAfterDeadline(t, "E4", hinder), sentAfterDeadline(t, "E3", hinder); cut >= plenty || naive < plenty {
			t.Errorf("%v: after the deadline %d bytes came at E4, %d at E3", hinder, cut, naive)
		}
	}
}

func sentAfterDeadline(t *testing.T, level string, hinder unix.Signal) int64 {
	a := newAgent(t, 3*time.Second)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := a.prepare(t, "--level", level).start(nil, probePath, "send", l.Addr().String())
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("%v\n%s", err, e.said())
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetReadBuffer(16 << 10)
	e.eventually("the sender's buffer is full", func() bool { return strings.Contains(e.output(), "timeout") })
	a.answers(unavailable)
	if hinder == unix.SIGSTOP {
		if err := unix.Kill(e.initPID(), unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.cmd.Process.Signal(hinder); err != nil {
		t.Fatal(err)
	}
	<-e.ended
	e.eventually("its cgroup is swept", func() bool {
		sweepAll()
		return len(e.groupDirs()) == 0
	})
	sleepPast(a.until())
	return arrived(c, level == "E4")
}

// groupDirs lists the cgroups of a keeper, that of version 2 first.
func (e *execution) groupDirs() (dirs []string) {
	for _, h := range [][2]string{{"cgroup2", ""}, {"cgroup", "pids"}} {
		if parent, err := ownGroup(h[0], h[1]); err == nil {
			left, _ := filepath.Glob(filepath.Join(parent, fmt.Sprintf("%s%d-*", groupPrefix, e.cmd.Process.Pid)))
			dirs = append(dirs, left...)
		}
	}
	return dirs
}

// The whole keeper at E4.
func TestWorkAtE4(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 4*time.Second)
	e := a.prepare(t, "--level", "E4").hydra(nil, 30, "sleep")
	first := a.until()
	sleepPast(first.Add(300 * time.Millisecond))
	e.lives("after the first deadline, renewed")
	a.answers(unavailable)
	e.exits(ExitStopped, "lapsed")
	s := e.stop(CauseDeadline)
	e.dies(s.Deadline)
	if s.Level != "E4" {
		t.Errorf("level %s", s.Level)
	}
	a.answers(nil)
	a.prepare(t, "--level", "E4").start(nil, "sh", "-c", "exit 6").exits(6, "")
}
