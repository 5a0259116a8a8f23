package enclave

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
)

// A keeper can also hold what somebody else starts: the cgroup of a container whose
// engine made it, namespaces and all, and has it wait to be started. There is then no
// init of ours whose end would be the work's, so the keys are
//
//  1. K wakes at the deadline and kills the cgroup.
//  2. The kernel's timer kills K, and a guard G, which sees that, kills the cgroup.
//     It fires also while K is stopped.
//  3. G waits for the deadline itself, on a page it can only read, and kills the cgroup.
//  4. Programs in the kernel kill what runs after the deadline, in and below the
//     cgroup, and drop what it sends. G holds them too, so they stay when K dies.
//
// With K and G both stopped only key 4 is left: so nothing less than E4 is taken. What
// the container may do is up to its engine. Whoever shares its cgroup shares its end.

// Descriptors the keeper leaves to the guard, after fdPage, fdLeash and fdResult.
const (
	fdKill   = fdFile
	fdEvents = fdInterpreter
)

// GroupDir is the directory of a cgroup, by its path from the root of the version 2
// hierarchy as a container engine names it ("/kubepods/pod1/c1"). A cgroup that this
// process is in is refused: whoever asks wants to kill it.
func GroupDir(path string) (string, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return "", fmt.Errorf("looking for cgroup %.200q: expected a clean path below the root", path)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("reading the mounts: %w", err)
	}
	dir, ok := findGroup(string(mounts), "0::"+path+"\n", "cgroup2", "")
	if !ok {
		return "", fmt.Errorf("looking for cgroup %.200q: no cgroup2 mount shows it", path)
	}
	if err := notOwn(dir); err != nil {
		return "", err
	}
	return dir, nil
}

// notOwn refuses a cgroup that this process is in.
func notOwn(dir string) error {
	own, err := ownGroup("cgroup2", "")
	if err != nil {
		return err
	}
	if own == dir || strings.HasPrefix(own, strings.TrimSuffix(dir, "/")+"/") {
		return fmt.Errorf("holding cgroup %s: this process is in it", dir)
	}
	return nil
}

// adoptGroup opens a cgroup that somebody else made and that something lives in. Until
// it is removed, no other keeper can hold it.
func adoptGroup(dir string) (_ *group, err error) {
	dir = filepath.Clean(dir)
	if err := notOwn(dir); err != nil {
		return nil, err
	}
	g := &group{dir: dir, adopted: true}
	defer func() {
		if err != nil {
			g.remove()
		}
	}()
	if err := g.open(); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(g.fd.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, &Refusal{Code: "run/held", Exit: ExitHeld, Err: fmt.Errorf("adopting cgroup %s: another keeper holds it: %w", dir, err)}
	}
	if g.empty() {
		return nil, fmt.Errorf("adopting cgroup %s: nothing is in it", dir)
	}
	return g, nil
}

// openAdopted opens the program of the work as the group's first process would find
// it: the engine executes it, so the digest is of what lies there now.
func openAdopted(g *group, argv []string, path string) (*program, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("looking for the container's first process: %w", err)
	}
	line, _, _ := bytes.Cut(b, []byte{'\n'})
	pid, err := strconv.Atoi(string(line))
	if err != nil || pid <= 0 {
		return nil, fmt.Errorf("looking for the container's first process: cgroup.procs begins with %q", line)
	}
	root, err := os.Open(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return nil, fmt.Errorf("opening the container's root: %w", err)
	}
	defer root.Close()
	return openProgramIn(root, argv, path)
}

// openProgramIn finds argv[0] below a root, which no link in it leads out of.
func openProgramIn(root *os.File, argv []string, path string) (*program, error) {
	candidates := []string{argv[0]}
	if !strings.Contains(argv[0], "/") {
		candidates = nil
		for _, dir := range filepath.SplitList(path) {
			candidates = append(candidates, filepath.Join("/", dir, argv[0]))
		}
	}
	err := errors.New("PATH names no directory")
	for _, c := range candidates {
		p := &program{argv: argv, root: root}
		if err = p.find(c); err == nil {
			return p, nil
		}
		p.close()
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EACCES) {
			break
		}
	}
	return nil, notExecutable(argv[0], err)
}

// openIn opens a file below a root for reading, if anybody may execute it.
func openIn(root *os.File, path string) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if st, err := f.Stat(); err != nil || st.Mode().Perm()&0o111 == 0 {
		return nil, errors.Join(&os.PathError{Op: "execute", Path: path, Err: unix.EACCES}, err, f.Close())
	}
	return f, nil
}

// adopts reports whether the work is somebody else's to start.
func (k *keeper) adopts() bool { return k.cfg.Adopt != "" }

// startGuard starts G, which waits at its leash.
func (k *keeper) startGuard() error {
	leash, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making the guard's leash: %w", err)
	}
	defer leash.Close()
	theirs, result, err := pipe()
	if err != nil {
		return fmt.Errorf("making the guard's result pipe: %w", err)
	}
	defer theirs.Close()
	k.leash, k.result = ours, result
	files := []uintptr{0, 1, 2, k.share.Fd(), leash.Fd(), theirs.Fd(), k.group.kill.Fd(), k.group.events.Fd()}
	for _, fd := range k.kernel.fds {
		files = append(files, uintptr(fd))
	}
	k.init, err = syscall.ForkExec("/proc/self/exe", []string{partGuard, strconv.Itoa(len(files)), ""}, &syscall.ProcAttr{
		Files: files, Sys: &syscall.SysProcAttr{PidFD: &k.pidfd}})
	if err != nil {
		return &Refusal{Code: "run/init", Err: fmt.Errorf("starting the guard: %w", err)}
	}
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	return nil
}

// guardMain is G. It ends when the cgroup is empty, having said so, or having killed
// it: when the keeper has died, and at the deadline.
func guardMain() int {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	signal.Ignore(supervisor.Signals()...)
	result := os.NewFile(fdResult, "result")
	g := &group{killFD: fdKill, events: os.NewFile(fdEvents, "cgroup.events")}
	page, err := mapPage(os.NewFile(fdPage, "deadline page"), unix.PROT_READ)
	if err != nil {
		g.killAll()
		return report(result, err)
	}
	var leash [1]byte
	if n, _ := readFull(fdLeash, leash[:]); n != 1 {
		g.killAll() // no token, or the keeper has died
		return ExitStopped
	}
	kill := func() {
		g.killAll()
		unix.Exit(ExitStopped)
	}
	go func() {
		runtime.LockOSThread()
		_ = urgent()
		for page.valid() {
			sleepUntil(page.deadline())
		}
		kill()
	}()
	go func() {
		runtime.LockOSThread()
		_ = urgent()
		var b [1]byte
		for {
			if n, err := readFull(fdLeash, b[:]); n == 0 || err != nil {
				kill()
			}
		}
	}()
	for !g.empty() {
		_, _ = unix.Poll([]unix.PollFd{{Fd: fdEvents, Events: unix.POLLPRI}}, 1000)
	}
	return say(result, "exit 0")
}
