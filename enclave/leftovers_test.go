package enclave

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideVar makes this program the tests themselves, in a world of their own: it names
// a directory in which tmp is for temporary files and bpf for pins.
const insideVar = "WRIT_TEST_INSIDE"

// watchTests runs the tests in a mount namespace, cgroups and a directory of their own,
// as the parent of whatever they orphan, and fails if anything of it is left when they
// are over.
func watchTests() int {
	runtime.LockOSThread()       // the tests die with this thread
	c := make(chan os.Signal, 8) // what is caught here the tests do not find ignored, as in the background of a shell
	signal.Notify(c, unix.SIGQUIT, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	world, err := newWorld()
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing a world for the tests, which need root:", err)
		return 1
	}
	pid, err := world.start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the tests:", err)
		return 1
	}
	go func() {
		for s := range c {
			_ = unix.Kill(pid, s.(syscall.Signal))
		}
	}()
	var ws unix.WaitStatus
	for {
		if got, _ := unix.Wait4(-1, &ws, 0, nil); got == pid && !ws.Stopped() {
			break
		}
	}
	left := world.left()
	for _, l := range left {
		fmt.Fprintln(os.Stderr, "left behind:", l)
	}
	if ws.ExitStatus() == 0 && len(left) > 0 {
		return 1
	}
	return ws.ExitStatus()
}

type world struct {
	dir    string
	groups []string // one in each hierarchy that a keeper uses, version 2 first
}

func newWorld() (*world, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "writ-tests-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir}
	for _, sub := range []string{"", "tmp", "bpf"} {
		path := filepath.Join(dir, sub)
		if err := os.MkdirAll(path, 0o777); err != nil {
			return nil, err
		}
		if err := os.Chmod(path, 0o777|os.ModeSticky); err != nil { // for the unprivileged
			return nil, err
		}
	}
	for _, h := range [][2]string{{"cgroup2", ""}, {"cgroup", "pids"}} {
		parent, err := ownGroup(h[0], h[1])
		if err != nil {
			continue
		}
		if b, _ := os.ReadFile(filepath.Join(parent, "cgroup.subtree_control")); strings.Contains(string(b), "pids") {
			continue // only here, in the root, can keepers bound their work: see vminit
		}
		group := filepath.Join(parent, fmt.Sprintf("%s%d-tests", groupPrefix, os.Getpid()))
		if err := os.Mkdir(group, 0o755); err != nil {
			return nil, err
		}
		w.groups = append(w.groups, group)
	}
	return w, nil
}

func (w *world) start() (pid int, err error) {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if len(w.groups) > 0 {
		group, err := os.Open(w.groups[0])
		if err != nil {
			return 0, err
		}
		defer group.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(group.Fd())
	}
	env := append(os.Environ(), insideVar+"="+w.dir, "TMPDIR="+filepath.Join(w.dir, "tmp"))
	return syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}, Sys: attr})
}

// left lists what the tests have left, and removes it.
func (w *world) left() (left []string) {
	for _, p := range orphans() {
		left = append(left, "a process: "+p)
	}
	for _, group := range w.groups {
		sweep(group) // as the next keeper would
		dirs, _ := filepath.Glob(filepath.Join(group, "*", "cgroup.procs"))
		for _, dir := range dirs {
			left = append(left, "a cgroup: "+filepath.Dir(dir))
			_ = os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.kill"), []byte("1"), 0)
			_ = os.Remove(filepath.Dir(dir))
		}
		for end := time.Now().Add(5 * time.Second); os.Remove(group) != nil && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := os.Stat(group); err == nil {
			left = append(left, "a cgroup: "+group)
		}
	}
	files, _ := filepath.Glob(filepath.Join(w.dir, "tmp", "*"))
	for _, f := range files {
		left = append(left, "a file: "+f)
	}
	_ = os.RemoveAll(w.dir)
	return left
}

// orphans waits for the children that this process has by now, and kills those that
// do not end.
func orphans() (left []string) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var err error
		for pid := 1; err == nil && pid > 0; {
			pid, err = unix.Wait4(-1, nil, unix.WNOHANG, nil)
		}
		if err == unix.ECHILD {
			return left
		}
		if time.Now().Before(end) {
			continue
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", unix.Gettid()))
		for _, pid := range strings.Fields(string(children)) {
			line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
			var n int
			_, _ = fmt.Sscan(pid, &n)
			_ = unix.Kill(n, unix.SIGKILL)
		}
		end = time.Now().Add(10 * time.Second)
		if len(children) == 0 {
			return append(left, "somebody's who does not end")
		}
	}
}

// runInside runs the tests within the world that dir names, with a bpffs, and looks
// whether mounts and pins are left, which end with it.
func runInside(m *testing.M, dir string) int {
	at := filepath.Join(dir, "bpf")
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	for _, others := range bpffs() {
		_ = unix.Unmount(others, unix.MNT_DETACH)
	}
	if err == nil {
		err = unix.Mount("bpf", at, "bpf", 0, "mode=0700")
	}
	if group, no := ownGroup("cgroup", "pids"); no == nil && err == nil {
		err = os.WriteFile(filepath.Join(group, fmt.Sprintf("%s%d-tests", groupPrefix, os.Getppid()), "cgroup.procs"), []byte("0"), 0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing a world for the tests:", err)
		return 1
	}
	before := mounted()
	exit := buildAndRun(m)
	sweepAll() // as the next keeper would
	left, _ := filepath.Glob(filepath.Join(at, pinPrefix+"*"))
	for _, line := range mounted() {
		if !slices.Contains(before, line) {
			left = append(left, line)
		}
	}
	for _, l := range left {
		fmt.Fprintln(os.Stderr, "left behind:", l)
		exit = max(exit, 1)
	}
	return exit
}

func mounted() []string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Split(string(b), "\n")
}
