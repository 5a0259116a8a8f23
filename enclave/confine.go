package enclave

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
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

// denied are the system calls by which work could look into or stop others,
// leave its namespaces or hide in new ones, change the machine, or bypass the
// other denials. They fail with EPERM.
var denied = strings.Fields(`
	ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp
	setns unshare mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr open_by_handle_at
	bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register lookup_dcookie
	keyctl add_key request_key
	init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl
	settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname syslog iopl ioperm`)

// newNamespaces are the flags of clone(2) that would do what unshare is denied.
var newNamespaces = []uint64{
	unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNS, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP,
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

// filterCalls denies what is in denied. The library's filter lets every system
// call of another architecture's numbering pass, such as those of 32-bit
// programs; a filter before it has none of those.
func filterCalls() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	native := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 4}, // seccomp_data.arch
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: uint32(info.ID)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(native)), Filter: &native[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	runtime.KeepAlive(native)
	has := func(name string) bool { _, ok := info.SyscallNames[name]; return ok }
	eperm := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM)}
	eperm.Names = slices.DeleteFunc(slices.Clone(denied), func(name string) bool { return !has(name) })
	for _, flag := range newNamespaces {
		eperm.NamesWithCondtions = append(eperm.NamesWithCondtions, seccomp.NameWithConditions{
			Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: flag}}})
	}
	// The flags of clone3 lie in memory, where a filter cannot look: libraries fall back on clone.
	enosys := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}}
	if err := seccomp.LoadFilter(seccomp.Filter{Policy: seccomp.Policy{
		DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{enosys, eperm}}}); err != nil {
		return fmt.Errorf("filtering system calls: %w", err)
	}
	return nil
}
