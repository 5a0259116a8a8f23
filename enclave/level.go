package enclave

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Level says what stops the work when its legitimacy ends. Each is stronger than
// the one below, and includes it from E2 on. The zero Level is the weakest.
type Level int

const (
	E0 Level = iota + 1 // in-process library only: work that does not ask is not stopped
	E1                  // `writ run` is PID 1 of a container that allows nothing else, see sole.go
	E2                  // PID namespace (in a user namespace if need be): keys 2, 3 and 4
	E3                  // and a cgroup of its own, keeper real-time: all of enforcement by processes
	E4                  // and a deadline in the kernel (BPF) that kills and cuts egress by itself: key 5
)

func (l Level) String() string { return fmt.Sprintf("E%d", int(l-E0)) }

// ParseLevel reads "E0" to "E4".
func ParseLevel(s string) (Level, error) {
	for l := E0; l <= E4; l++ {
		if s == l.String() {
			return l, nil
		}
	}
	return 0, fmt.Errorf("reading the level: %q is none of E0, E1, E2, E3, E4", s)
}

// Capabilities is what this machine lets a keeper do.
type Capabilities struct {
	Level   Level     // the best it can keep
	Missing []Missing // what the levels above it want, the nearest first
}

// Missing is one thing a level wants and this machine does not give.
type Missing struct {
	Level Level
	What  string // what was tried and what came of it
	Cure  string // what to do about it
}

// Detect finds out by trying: it clones into namespaces, makes a cgroup and
// removes it, and asks for a timer and for real-time priority. It leaves nothing.
// E1 is of one container and never of a machine.
func Detect() Capabilities { return detect(false) }

// detect is Detect for a keeper, which may have been told that its supervisor is
// PID 1.
func detect(sole bool) Capabilities {
	var c Capabilities
	miss := func(l Level, err error, cure string) {
		if err != nil {
			c.Missing = append(c.Missing, Missing{l, err.Error(), cure})
		}
	}
	miss(E1, trySole(sole), "make writ run the first process of its container (ENTRYPOINT), or let it make PID namespaces")
	miss(E2, tryFuse(), "use a kernel with CONFIG_POSIX_TIMERS")
	miss(E2, tryNamespaces(), "run as root, or let users make namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)")
	miss(E3, tryGroup(), "run as root, or have a cgroup delegated (systemd: Delegate=yes)")
	miss(E3, tryUrgent(), "give CAP_SYS_NICE or RLIMIT_RTPRIO")
	miss(E4, tryKernelDeadline(), "run as root with CAP_BPF and CAP_PERFMON on Linux 5.15 or later with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF, which lockdown does not forbid, in the machine's time namespace, and install writ-bpf beside this program")
	c.Level = c.best()
	return c
}

// best is the level below the first that lacks something. E2 does not need E1.
func (c Capabilities) best() Level {
	first, sole := E4+1, true
	for _, m := range c.Missing {
		if m.Level == E1 {
			sole = false
		} else {
			first = min(first, m.Level)
		}
	}
	if first == E2 && !sole {
		return E0
	}
	return first - 1
}

// shortOf explains why a level cannot be kept.
func (c Capabilities) shortOf(l Level) (what, cure string) {
	var whats, cures []string
	for _, m := range c.Missing {
		if m.Level == l || m.Level < l && m.Level > E1 {
			whats, cures = append(whats, m.What), append(cures, m.Cure)
		}
	}
	return strings.Join(whats, "; "), strings.Join(cures, "; ")
}

// tryNamespaces clones into the namespaces and then executes something that
// cannot be executed: that error, and not an earlier one, is success.
func tryNamespaces() error {
	_, err := syscall.ForkExec("/proc/self/exe/none", []string{"none"}, &syscall.ProcAttr{Sys: namespaces(0)})
	if errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return fmt.Errorf("cloning into new namespaces: %w", err)
}

// namespaces asks for the namespaces of the work. Without privilege a user
// namespace comes first, in which the user stays who it is; the capabilities
// that mounting /proc needs there are taken from the work again before it starts.
func namespaces(more uintptr) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | more}
	if effective(unix.CAP_SYS_ADMIN) {
		return attr
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_NET_ADMIN}
	return attr
}

// effective reports whether this process has a capability.
func effective(capability uint) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[capability/32].Effective&(1<<(capability%32)) != 0
}

func tryGroup() error {
	parent, err := ownGroup("cgroup2", "")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, groupPrefix+"probe")
	if err != nil {
		return fmt.Errorf("making a cgroup: %w", err)
	}
	defer os.Remove(dir)
	if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
		return fmt.Errorf("looking for cgroup.kill (Linux 5.14 or later): %w", err)
	}
	return nil
}

func tryKernelDeadline() error {
	g, err := newGroup(newID(), 1)
	if err != nil {
		return err
	}
	defer g.remove()
	d, err := newKernelDeadline(loaderBeside(), g)
	if err != nil {
		return fmt.Errorf("a deadline in the kernel: %w", err)
	}
	d.close()
	return nil
}

// tryUrgent asks for it, and gives it back.
func tryUrgent() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := urgentThread(0, 0); err != nil {
		return err
	}
	return ordinary()
}

func tryFuse() error {
	f, err := newFuse()
	if err != nil {
		return err
	}
	_, _, _ = unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(f.id), 0, 0)
	return nil
}
