// Command probe tries what work must not be able to do and prints, for each,
// "allowed" or the error.
package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "send" {
		send(os.Args[2])
	}
	runtime.LockOSThread()
	self := uintptr(os.Getpid())
	parent := uintptr(os.Getppid())
	var buf [4096]byte
	at := uintptr(unsafe.Pointer(&buf))
	path := uintptr(unsafe.Pointer(&[]byte("/\x00")[0]))
	if parent == 1 { // in a namespace of its own; outside it would stop whoever started it
		call("ptrace init", unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1, 0)
		call("ptrace parent", unix.SYS_PTRACE, unix.PTRACE_SEIZE, parent, 0)
	}
	call("process_vm_readv", unix.SYS_PROCESS_VM_READV, self, at, 0)
	call("bpf", unix.SYS_BPF, 0, at, 72)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, at, 0, ^uintptr(0))
	call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, at, 0)
	call("userfaultfd", unix.SYS_USERFAULTFD, 0, 0, 0)
	call("keyctl", unix.SYS_KEYCTL, 0, uintptr(0xfffffffd), 0)
	call("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUTS, 0, 0)
	call("mount", unix.SYS_MOUNT, path, path, 0)
	call("clone into a user namespace", unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0)
	call("clone3", unix.SYS_CLONE3, at, 88, 0)
	call("settimeofday", unix.SYS_SETTIMEOFDAY, 0, 0, 0)
	param := int32(1)
	call("real-time priority", unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&param)))
	if policy, _, errno := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0); policy != unix.SCHED_NORMAL || errno != 0 {
		fmt.Println("real-time from the start: allowed")
	}
	file("/proc/sys/kernel/core_pattern")
	file("/proc/sysrq-trigger")
	for _, path := range os.Args[1:] {
		file(path)
	}
	if err := unix.Mknod("/tmp/writ-probe-node", unix.S_IFBLK|0o600, 0); err != nil {
		fmt.Println("device node:", err)
	} else {
		fmt.Println("device node: allowed")
		_ = os.Remove("/tmp/writ-probe-node")
	}
}

// send fills the send buffer of a connection, says so, and never stops.
func send(address string) {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		panic(err)
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		panic(err)
	}
	_ = raw.Control(func(fd uintptr) { // whatever net.core.wmem_max says, if it may
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
		}
	})
	b := make([]byte, 64<<10)
	for err == nil {
		_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		_, err = c.Write(b)
	}
	fmt.Println("full:", err)
	_ = c.SetWriteDeadline(time.Time{})
	for err = nil; err == nil; {
		_, err = c.Write(b)
	}
}

func call(name string, nr, a, b, c uintptr) {
	pid, _, errno := unix.Syscall6(nr, a, b, c, 0, 0, 0)
	if nr == unix.SYS_CLONE && errno == 0 {
		if pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		_, _ = unix.Wait4(int(pid), nil, 0, nil)
	}
	if errno != 0 {
		fmt.Printf("%s: %v\n", name, errno)
		return
	}
	fmt.Printf("%s: allowed\n", name)
}

// file opens for writing and writes nothing.
func file(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		fmt.Printf("%s: %v\n", path, err.(*os.PathError).Err)
		return
	}
	_ = f.Close()
	fmt.Printf("%s: allowed\n", path)
}
