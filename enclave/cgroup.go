package enclave

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// groupPrefix begins the name of every cgroup a keeper makes: writ-PID-EXECUTION.
const groupPrefix = "writ-"

// A group is the cgroup the work lives in. The keeper, which stays outside, can
// kill everything in it with one write to a file it has opened before.
type group struct {
	dir     string
	adopted bool     // somebody else's, and theirs to remove
	fd      *os.File // the directory, to be cloned into
	kill    *os.File // cgroup.kill, since Linux 5.14
	killFD  int      // its descriptor
	events  *os.File // cgroup.events
	pids    string   // directory that bounds the number of processes; "" if nothing can
	tasks   *os.File // where a thread puts itself under that bound, if it is not in the group already
}

// newGroup makes a cgroup below the keeper's own that holds at most pids
// processes and threads, if a controller for that exists.
func newGroup(execution string, pids int) (_ *group, err error) {
	parent, err := ownGroup("cgroup2", "")
	if err != nil {
		return nil, err
	}
	sweep(parent)
	name := groupPrefix + strconv.Itoa(os.Getpid()) + "-" + execution
	g := &group{dir: filepath.Join(parent, name)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making a cgroup: %w", err)
	}
	defer func() {
		if err != nil {
			g.remove()
		}
	}()
	if err := g.open(); err != nil {
		return nil, err
	}
	g.bound(name, pids)
	return g, nil
}

// open opens what is needed of the group when there is no time to.
func (g *group) open() (err error) {
	if g.fd, err = os.Open(g.dir); err != nil {
		return fmt.Errorf("opening the cgroup: %w", err)
	}
	if g.kill, err = os.OpenFile(filepath.Join(g.dir, "cgroup.kill"), os.O_WRONLY, 0); err != nil {
		return fmt.Errorf("opening cgroup.kill (Linux 5.14 or later): %w", err)
	}
	g.killFD = int(g.kill.Fd())
	if g.events, err = os.Open(filepath.Join(g.dir, "cgroup.events")); err != nil {
		return fmt.Errorf("opening cgroup.events: %w", err)
	}
	return nil
}

// bound limits the number of processes: in the group itself where the pids
// controller is a cgroup v2 one, else in a group of the same name in its own
// hierarchy (cgroup v1).
func (g *group) bound(name string, pids int) {
	limit := []byte(strconv.Itoa(pids))
	if os.WriteFile(filepath.Join(g.dir, "pids.max"), limit, 0) == nil {
		g.pids = g.dir
		return
	}
	parent, err := ownGroup("cgroup", "pids")
	if err != nil {
		return
	}
	sweep(parent)
	dir := filepath.Join(parent, name)
	if os.Mkdir(dir, 0o755) != nil {
		return
	}
	err = os.WriteFile(filepath.Join(dir, "pids.max"), limit, 0)
	if err == nil {
		g.tasks, err = os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
	}
	if err != nil {
		_ = os.Remove(dir)
		return
	}
	g.pids = dir
}

// underBound puts the calling thread, and so what it forks, under a version 1
// bound. A thread that moves itself there need not wait for all others, which
// takes the kernel milliseconds.
func underBound(tasks int) error {
	if _, err := unix.Write(tasks, []byte{'0'}); err != nil {
		return fmt.Errorf("limiting the number of processes: %w", err)
	}
	return nil
}

// killAll sends SIGKILL to everything in the group and below. It allocates
// nothing, forks nothing, and does not let the Go scheduler take the processor
// away from the thread meanwhile.
func (g *group) killAll() {
	one := [1]byte{'1'}
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(g.killFD), uintptr(unsafe.Pointer(&one)), 1)
}

// empty reports whether the last process has gone, and perhaps the group with it.
func (g *group) empty() bool {
	var b [128]byte
	n, err := unix.Pread(int(g.events.Fd()), b[:], 0)
	return err == unix.ENODEV || err == nil && bytes.Contains(b[:n], []byte("populated 0"))
}

// remove closes and removes the group. A group that is not empty stays, for
// whoever looks for what did not die.
func (g *group) remove() {
	for _, f := range []*os.File{g.fd, g.kill, g.events, g.tasks} {
		if f != nil {
			_ = f.Close()
		}
	}
	if g.adopted {
		return
	}
	for range 50 { // a zombie's exit may still hold a v1 group for a moment
		left := os.Remove(g.dir)
		if errors.Is(left, fs.ErrNotExist) {
			left = nil
		}
		if g.pids != "" && g.pids != g.dir {
			if err := os.Remove(g.pids); !errors.Is(err, fs.ErrNotExist) {
				left = errors.Join(left, err)
			}
		}
		if left == nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// sweepAll sweeps wherever a keeper makes groups, and pins.
func sweepAll() {
	for _, h := range [][2]string{{"cgroup2", ""}, {"cgroup", "pids"}} {
		if dir, err := ownGroup(h[0], h[1]); err == nil {
			sweep(dir)
		}
	}
	dir, err := ownGroup("cgroup2", "")
	if err != nil {
		return
	}
	if any, err := os.Open(dir); err == nil {
		defer any.Close()
		for _, at := range bpffs() {
			sweepPins(at, any)
		}
	}
}

// sweep removes the empty groups of keepers that are no more, which were killed
// before they could do it themselves.
func sweep(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"*-*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && errors.Is(unix.Kill(n, 0), unix.ESRCH) {
			_ = os.Remove(dir) // fails if anything lives in it
		}
	}
}

// ownGroup is the directory of the cgroup this process is in: of the version 2
// hierarchy, or of the version 1 hierarchy that has a controller. The mount is
// looked up; distributions and containers differ in where it is.
func ownGroup(fstype, controller string) (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("reading the mounts: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("reading the own cgroup: %w", err)
	}
	dir, ok := findGroup(string(mounts), string(own), fstype, controller)
	if !ok {
		return "", fmt.Errorf("looking for the own cgroup: no %s mount shows it", strings.TrimSpace(fstype+" "+controller))
	}
	return dir, nil
}

// findGroup combines proc_pid_mountinfo(5) and cgroups(7) /proc/PID/cgroup.
func findGroup(mounts, own, fstype, controller string) (string, bool) {
	path, ok := pathOf(own, controller)
	if !ok {
		return "", false
	}
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || right[0] != fstype {
			continue
		}
		if controller != "" && !contains(right[2], controller) {
			continue
		}
		root, mountpoint := unescape(left[3]), unescape(left[4])
		if below, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")); ok && (below == "" || below[0] == '/') {
			return filepath.Join(mountpoint, below), true
		}
	}
	return "", false
}

// pathOf finds the line of a hierarchy: "0::/path" for version 2,
// "8:cpu,pids:/path" for version 1.
func pathOf(own, controller string) (string, bool) {
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 && (f[1] == controller || controller != "" && contains(f[1], controller)) {
			return f[2], strings.HasPrefix(f[2], "/") && !strings.HasPrefix(f[2], "/..")
		}
	}
	return "", false
}

func contains(list, item string) bool {
	for s := range strings.SplitSeq(list, ",") {
		if s == item {
			return true
		}
	}
	return false
}

// unescape undoes the octal escapes of mountinfo (space, tab, newline, backslash).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
