package enclave

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A kernelDeadline is key 5, level E4: programs in the kernel that compare the
// boot clock with a deadline whenever a process in or below the group leaves a processor,
// a thousand times a second while it keeps one, and for every packet it sends.
// After the deadline they kill the process and drop the packet, though no
// process of ours ever ran again. A process that sleeps is killed when it wakes.
//
// The programs that kill are held by the keeper, and by pins where there is a file
// system for them: then they go on when all its holders have gone, until the work is
// known to be over. The one that drops belongs to the cgroup, and stays for what is in
// send buffers after that too: each socket keeps its cgroup, even a removed one.
//
// Another program, writ-bpf, makes them: the library it takes would cost every start
// of a keeper a millisecond, at levels that have no use for it as well.
type kernelDeadline struct {
	at   *word // the deadline, shared with the programs; 1 is long ago
	fds  []int // what holds the programs
	pins *pins
}

// beforeToken is how long a group may wait for its first token.
const beforeToken = 60e9

// initialTimeNS is the time namespace of the machine itself (PROC_TIME_INIT_INO).
const initialTimeNS = "time:[4026531834]"

// loaderBeside is where writ-bpf is expected: beside the program that runs.
func loaderBeside() string {
	self, err := os.Executable()
	if err != nil {
		return "writ-bpf"
	}
	return filepath.Join(filepath.Dir(self), "writ-bpf")
}

// newKernelDeadline has the loader, writ-bpf, hold a group to a deadline.
func newKernelDeadline(loader string, g *group) (_ *kernelDeadline, err error) {
	if ns, err := os.Readlink("/proc/self/ns/time"); err == nil && ns != initialTimeNS {
		return nil, fmt.Errorf("this is a time namespace (%s), whose boot clock is not the kernel's", ns)
	}
	d := &kernelDeadline{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.pins, err = newPins(g); err != nil {
		return nil, err
	}
	fds, err := loadDeadline(loader, g, d.pins.path())
	d.fds = fds
	if err != nil {
		return nil, err
	}
	b, err := unix.Mmap(fds[0], 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the kernel's deadline: %w", err)
	}
	d.at = (*word)(unsafe.Pointer(&b[0]))
	return d, nil
}

// loadDeadline runs the loader and takes over what it has made: the map first, then
// what holds the programs.
func loadDeadline(loader string, g *group, pins string) (fds []int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a line to writ-bpf: %w", err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "line")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, loader, strconv.FormatInt(int64(Now())+beforeToken, 10), pins)
	cmd.ExtraFiles = []*os.File{g.fd, theirs}
	cmd.Stderr = os.Stderr
	cmd.Env = []string{} // nothing of it is the loader's
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("starting writ-bpf, which belongs beside writ-keeper: %w", err)
	}
	defer cmd.Wait()
	for said := ""; said != "done"; {
		var more []int
		said, more, err = receive(pair[0])
		fds = append(fds, more...)
		if err != nil || said != "more" && said != "done" {
			return fds, fmt.Errorf("loading the kernel's deadline: writ-bpf said %.2000q (%v)", said, err)
		}
	}
	if len(fds) < 3 { // the map, one tracepoint, one processor
		return fds, fmt.Errorf("loading the kernel's deadline: writ-bpf gave %d descriptors only", len(fds))
	}
	return fds, nil
}

// receive takes one message and the descriptors with it.
func receive(line int) (said string, fds []int, err error) {
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*253))
	var n, oobn int
	for {
		if n, oobn, _, _, err = unix.Recvmsg(line, b, oob, unix.MSG_CMSG_CLOEXEC); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		more, no := unix.ParseUnixRights(&m)
		fds, err = append(fds, more...), errors.Join(err, no)
	}
	return string(b[:n]), fds, err
}

// set moves the deadline. An instant in the past kills and drops at once.
func (d *kernelDeadline) set(at Instant) { d.at.v.Store(int64(max(at, 1))) }

// close lets the programs go: nothing is left for them to kill. The one that drops
// goes on.
func (d *kernelDeadline) close() {
	for _, fd := range d.fds {
		_ = unix.Close(fd)
	}
	d.fds = nil
	d.pins.remove()
}

// pinPrefix begins the name of every directory of pins: writ-CGROUP-RANDOM, where
// CGROUP is the number of the cgroup (`stat -c %i`).
const pinPrefix = "writ-"

// pins is a directory in a bpffs for one group. Nil is none.
type pins struct {
	dir  string
	lock *os.File // held as long as the keeper lives
}

// newPins makes a directory in the first bpffs that this process may write to, nil if
// there is none, and sweeps what keepers before have left there.
func newPins(g *group) (*pins, error) {
	for _, at := range bpffs() {
		sweepPins(at, g.fd)
		st, err := g.fd.Stat()
		if err != nil {
			return nil, fmt.Errorf("making a directory for pins: %w", err)
		}
		dir := filepath.Join(at, fmt.Sprintf("%s%d-%s", pinPrefix, st.Sys().(*syscall.Stat_t).Ino, newID()))
		if os.Mkdir(dir, 0o700) != nil {
			continue
		}
		p := &pins{dir: dir}
		if p.lock, err = lockPins(dir); err != nil {
			p.remove()
			return nil, err
		}
		return p, nil
	}
	return nil, nil
}

// lockPins says that whoever pinned there lives, until its file is closed.
func lockPins(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("locking the pins: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the pins: %w", err), f.Close())
	}
	return f, nil
}

func (p *pins) path() string {
	if p == nil {
		return ""
	}
	return p.dir
}

// remove lets go what was pinned. Only for when nothing is left that it should stop.
func (p *pins) remove() {
	if p == nil {
		return
	}
	_ = os.RemoveAll(p.dir)
	if p.lock != nil {
		_ = p.lock.Close()
	}
}

// bpffs lists where a file system for pins is mounted.
func bpffs() (at []string) {
	paths, _ := mountsOf(func(kind, _ string) bool { return kind == "bpf" })
	return paths
}

// sweepPins removes what was pinned by keepers that are no more for groups that are
// empty or gone. While something lives in the group, pins are what stops it. Group is
// any in the hierarchy.
func sweepPins(at string, group *os.File) {
	dirs, _ := filepath.Glob(filepath.Join(at, pinPrefix+"*-*"))
	for _, dir := range dirs {
		var id uint64
		var random string
		if n, _ := fmt.Sscanf(filepath.Base(dir), pinPrefix+"%d-%s", &id, &random); n != 2 || populated(group, id) {
			continue
		}
		if lock, err := lockPins(dir); err == nil {
			(&pins{dir, lock}).remove()
		}
	}
}

// populated reports whether the group of a number may have something living in it.
func populated(any *os.File, id uint64) bool {
	const fileidKernfs = 0xfe
	handle := unix.NewFileHandle(fileidKernfs, (*[8]byte)(unsafe.Pointer(&id))[:])
	fd, err := unix.OpenByHandleAt(int(any.Fd()), handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return !errors.Is(err, unix.ESTALE)
	}
	defer unix.Close(fd)
	events, err := unix.Openat(fd, "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	g := &group{events: os.NewFile(uintptr(events), "cgroup.events")}
	defer g.events.Close()
	return !g.empty()
}
