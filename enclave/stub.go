package enclave

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Descriptors of the stub.
const (
	stubResult = 3 + iota
	stubFile
	stubInterpreter
)

// withheld are the capabilities the work does not get even as root: with them
// it could stop, starve or outlive those who hold its keys, or reach the kernel.
var withheld = []uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_SYS_NICE, unix.CAP_SYS_RESOURCE,
	unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT, unix.CAP_BPF, unix.CAP_PERFMON,
	unix.CAP_CHECKPOINT_RESTORE,
}

// stubMain gives up what the work must not have, and becomes the work.
func stubMain(o orders, argv []string) int {
	runtime.LockOSThread()
	result := os.NewFile(stubResult, "result")
	unix.CloseOnExec(stubResult)
	unix.CloseOnExec(stubInterpreter)
	if err := giveUp(); err != nil {
		report(result, err)
		return ExitRefused
	}
	err := become(o, argv)
	_, _ = fmt.Fprintf(result, "exec %d\n", err)
	return ExitNotExecutable
}

// giveUp holds for the calling thread, which is the one that executes.
func giveUp() error {
	if err := unix.Setrlimit(unix.RLIMIT_RTPRIO, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding real-time priority: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	for _, c := range withheld {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: a kernel that does not know it
			return fmt.Errorf("withholding capability %d: %w", c, err)
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	caps[0].Inheritable, caps[1].Inheritable = 0, 0
	if err := unix.Capset(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("clearing inheritable capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	return nil
}

// become executes the descriptor that was digested. Of a script that is its
// interpreter, which opens the script by its descriptor in turn.
func become(o orders, argv []string) unix.Errno {
	fd := stubFile
	if o.Script {
		fd = stubInterpreter
		script := "/proc/self/fd/" + strconv.Itoa(stubFile)
		args := []string{o.Path}
		if o.Option != "" {
			args = append(args, o.Option)
		}
		argv = append(append(args, script), argv[1:]...)
	} else {
		unix.CloseOnExec(stubFile)
	}
	args, err := syscall.SlicePtrFromStrings(argv)
	if err != nil {
		return unix.EINVAL
	}
	env, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return unix.EINVAL
	}
	// Go raised the limit on open files when this process began and gives it
	// back when it executes. This fails to execute, but after giving it back.
	_ = syscall.Exec("/proc/self/exe/none", argv, nil)
	var empty [1]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}
