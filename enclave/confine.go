package enclave

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// withheld are the capabilities the work does not get even as root: with them
// it could stop, starve or outlive those who hold its keys, or reach the kernel.
var withheld = []uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_SYS_NICE, unix.CAP_SYS_RESOURCE,
	unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT, unix.CAP_SYS_TIME, unix.CAP_MKNOD,
	unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_CHECKPOINT_RESTORE,
}

// mounts makes what the init and the work see of the machine: mounts made here
// stay here, /proc shows this PID namespace only, and the kernel's settings,
// every cgroup and every pin are read-only. A root that could write them would leave its
// cgroup, freeze its keeper, remove the kernel's deadline, or have the kernel start a
// helper outside.
func mounts(o orders) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	groups, err := mountsOf(func(kind, path string) bool { // what is in /sys is made read-only with it
		return (strings.HasPrefix(kind, "cgroup") || kind == "bpf") && !strings.HasPrefix(path, "/sys/")
	})
	if err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting a private /proc: %w", err)
	}
	for _, path := range []string{"/proc/sys", "/proc/sysrq-trigger"} {
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("making %s read-only: %w", path, err)
		}
		groups = append(groups, path)
	}
	for _, path := range append(groups, "/sys") {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		err := unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, &attr)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount, so nothing of the kernel's
			return fmt.Errorf("making %s read-only: %w", path, err)
		}
	}
	if o.PrivateTmp {
		for _, path := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
			if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("mounting a private %s: %w", path, err)
			}
		}
	}
	return nil
}

// mountsOf lists where the file systems that are wanted are mounted.
func mountsOf(wanted func(kind, path string) bool) (paths []string, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mounts: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		left, kind := strings.Fields(before), strings.Fields(after)
		if len(left) > 4 && len(kind) > 0 && wanted(kind[0], left[4]) {
			paths = append(paths, unescape(left[4]))
		}
	}
	return paths, nil
}

// loopback gives a network namespace without any way out its own lo.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("starting the loopback interface: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err == nil {
		lo.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}
	if err != nil {
		return fmt.Errorf("starting the loopback interface: %w", err)
	}
	return nil
}

// giveUp takes from the calling thread what the work must not have: what that
// thread starts afterwards starts without it, and cannot get it back.
func giveUp(o orders) error {
	if err := ordinary(); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_RTPRIO, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding real-time priority: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	if err := restrictFiles(o); err != nil {
		return err
	}
	return filterCalls()
}

func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	for _, c := range withheld {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		// EINVAL: a kernel that does not know it. EPERM: without CAP_SETPCAP; what is
		// taken below does not come back either, for no_new_privs is set next.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("withholding capability %d: %w", c, err)
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	caps[0].Inheritable, caps[1].Inheritable = 0, 0
	for _, c := range withheld {
		caps[c/32].Effective &^= 1 << (c % 32)
		caps[c/32].Permitted &^= 1 << (c % 32)
	}
	if err := unix.Capset(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	return nil
}

// restrictFiles lets the work reach only the files it was given, if any were
// named, and the program itself. Nothing is done at best effort: a kernel that
// cannot restrict refuses. It holds for all threads of the init, which opens
// nothing any more.
func restrictFiles(o orders) error {
	if len(o.ReadOnly)+len(o.ReadWrite) == 0 {
		return nil
	}
	rules := []landlock.Rule{landlock.ROFiles("/proc/self/fd/" + strconv.Itoa(fdFile))}
	if o.Script {
		rules = append(rules, landlock.ROFiles("/proc/self/fd/"+strconv.Itoa(fdInterpreter)))
	}
	for _, given := range []struct {
		paths       []string
		dirs, files func(...string) landlock.FSRule
	}{{o.ReadOnly, landlock.RODirs, landlock.ROFiles}, {o.ReadWrite, landlock.RWDirs, landlock.RWFiles}} {
		for _, path := range given.paths {
			st, err := os.Stat(path)
			if err != nil {
				return fmt.Errorf("restricting files: %w", err)
			}
			if st.IsDir() {
				rules = append(rules, given.dirs(path))
			} else {
				rules = append(rules, given.files(path))
			}
		}
	}
	if err := landlock.V3.RestrictPaths(rules...); err != nil {
		return fmt.Errorf("restricting files (Landlock of Linux 6.2 or later): %w", err)
	}
	return nil
}

// filterCalls denies the calling thread, and what starts from it, what package calls
// lists.
func filterCalls() error {
	programs, err := callFilters()
	if err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	for _, filter := range programs {
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
			return fmt.Errorf("filtering system calls: %w", err)
		}
		runtime.KeepAlive(filter)
	}
	return nil
}
