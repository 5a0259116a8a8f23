// Package calls is what system calls work may not make, assembled for the kernel by a
// library. That takes the library a millisecond, a third of it before main: so for amd64
// package enclave has the result as a table, which a test compares with this.
package calls

import (
	"fmt"
	"slices"
	"strings"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

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

// Assemble makes the filters for this architecture, in the order in which they are to be
// set. The library's lets every system call of another architecture's numbering pass,
// such as those of 32-bit programs; the one before it has none of those.
func Assemble() ([][]unix.SockFilter, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	native := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 4}, // seccomp_data.arch
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: uint32(info.ID)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	eperm := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM)}
	eperm.Names = slices.DeleteFunc(slices.Clone(denied), func(name string) bool { _, ok := info.SyscallNames[name]; return !ok })
	for _, flag := range newNamespaces {
		eperm.NamesWithCondtions = append(eperm.NamesWithCondtions, seccomp.NameWithConditions{
			Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: flag}}})
	}
	// The flags of clone3 lie in memory, where a filter cannot look: libraries fall back on clone.
	enosys := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{enosys, eperm}}
	code, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("assembling the filter: %w", err)
	}
	raw, err := bpf.Assemble(code)
	if err != nil {
		return nil, fmt.Errorf("assembling the filter: %w", err)
	}
	var denies []unix.SockFilter
	for _, r := range raw {
		denies = append(denies, unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K})
	}
	return [][]unix.SockFilter{native, denies}, nil
}
