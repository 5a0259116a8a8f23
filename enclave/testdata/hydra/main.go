// Command hydra is work that resists being stopped: a tree of processes of which
// some leave their session, their parent or their process group, and all ignore
// the signals that ask. Each stamps the boot clock into its slot of a shared
// file as its last act, again and again, so that when the work stopped is
// measured and not inferred.
//
//	hydra FILE N sleep|busy|churn|bomb
//
// When it churns, every process forks its successor and exits; a bomb is one
// process that forks for ever, and so do its children.
//
// The file begins with the number of processes that run; slot i is the 64-bit
// word at 64*(i+1). It forks without executing, so its children must not need
// the Go runtime: they make raw system calls only, and from functions that never
// look at their stack, where the runtime may have asked them to yield.
package main

import (
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	f, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 64*(n+2), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGALRM, unix.SIGXCPU, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGCHLD)
	if os.Args[3] == "bomb" {
		bomb(mem)
	}
	busy, churn := os.Args[3] == "busy", os.Args[3] == "churn"
	for i := 1; i < n; i++ {
		if fork() != 0 {
			continue
		}
		switch i % 4 {
		case 1:
			raw(unix.SYS_SETSID)
		case 2: // a daemon: its parent is gone
			if fork() != 0 {
				syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
			raw(unix.SYS_SETSID)
		case 3:
			raw(unix.SYS_SETPGID)
		}
		if churn {
			chain(mem, i)
		}
		stamp(mem, i, busy)
	}
	stamp(mem, 0, busy)
}

//go:nosplit
func fork() uintptr {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 3, 0, 0)
	}
	return pid
}

//go:nosplit
func raw(call uintptr) { syscall.RawSyscall(call, 0, 0, 0) }

//go:nosplit
func bomb(mem []byte) {
	slot := (*atomic.Int64)(unsafe.Pointer(&mem[64]))
	atomic.AddInt64((*int64)(unsafe.Pointer(&mem[0])), 1)
	nap := unix.Timespec{Nsec: 1e6}
	var now unix.Timespec
	for {
		syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&now)), 0)
		slot.Store(now.Sec*1e9 + now.Nsec)
		syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&nap)), 0, 0)
	}
}

//go:nosplit
func chain(mem []byte, i int) {
	slot := (*atomic.Int64)(unsafe.Pointer(&mem[64*(i+1)]))
	atomic.AddInt64((*int64)(unsafe.Pointer(&mem[0])), 1)
	nap := unix.Timespec{Nsec: 2e6}
	var now unix.Timespec
	for {
		syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&now)), 0)
		slot.Store(now.Sec*1e9 + now.Nsec)
		syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&nap)), 0, 0)
		if fork() != 0 {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}

//go:nosplit
func stamp(mem []byte, i int, busy bool) {
	slot := (*atomic.Int64)(unsafe.Pointer(&mem[64*(i+1)]))
	atomic.AddInt64((*int64)(unsafe.Pointer(&mem[0])), 1)
	nap := unix.Timespec{Nsec: 5e6 + int64(i%11)*1e5}
	var now unix.Timespec
	for {
		syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&now)), 0)
		slot.Store(now.Sec*1e9 + now.Nsec)
		if !busy {
			syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&nap)), 0, 0)
		}
	}
}
