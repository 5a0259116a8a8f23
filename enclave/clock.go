package enclave

import (
	"fmt"
	"math"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Instant is a moment on CLOCK_BOOTTIME, in nanoseconds since the machine
// booted. It counts through suspend and nobody can set it, which is true of no
// clock that package time offers: time.Timer and context deadlines run on
// CLOCK_MONOTONIC, which stands still while the machine sleeps, and the wall
// clock belongs to whoever may set it.
type Instant int64

// Now reads the boot clock. A clock that cannot be read says that everything
// has ended.
func Now() Instant {
	var ts unix.Timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		return math.MaxInt64
	}
	return Instant(ts.Nano())
}

// Add returns the instant d after t.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns the time from u to t.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// A Place is where an Instant means something: one boot of one kernel, seen
// from one time namespace.
type Place struct {
	Boot   string // /proc/sys/kernel/random/boot_id
	TimeNS string // /proc/self/ns/time
}

// Here is the place this process reads its clock at.
func Here() (Place, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Place{}, fmt.Errorf("reading the boot id: %w", err)
	}
	ns, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		return Place{}, fmt.Errorf("reading the time namespace: %w", err)
	}
	return Place{Boot: strings.TrimSpace(string(boot)), TimeNS: ns}, nil
}

// An alarm wakes whoever polls or reads its descriptor at an instant. It is a
// timerfd: unlike a sleep it can be moved while somebody waits for it, and it
// has no slack.
type alarm struct{ fd int }

func newAlarm() (alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return alarm{-1}, fmt.Errorf("creating a boot-clock timer: %w", err)
	}
	return alarm{fd}, nil
}

// set moves the alarm. An instant in the past rings at once.
func (a alarm) set(at Instant) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(at, 1)))} // 0 would disarm it
	if err := unix.TimerfdSettime(a.fd, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		return fmt.Errorf("setting a boot-clock timer: %w", err)
	}
	return nil
}

// clear silences an alarm that has rung.
func (a alarm) clear() {
	var b [8]byte
	_, _ = unix.Read(a.fd, b[:]) // EAGAIN: it was moved meanwhile
}

// sleepUntil returns at the instant or, when a signal comes, before it.
func sleepUntil(at Instant) {
	ts := unix.NsecToTimespec(int64(max(at, 1)))
	_ = unix.ClockNanosleep(unix.CLOCK_BOOTTIME, unix.TIMER_ABSTIME, &ts, nil)
}

// A fuse is a POSIX timer on the boot clock by which the kernel kills this very
// process. It needs no instruction of ours, so it also ends a process that is
// stopped, traced or frozen (cgroup v2). It is not inherited by fork and is
// deleted by exec.
type fuse struct{ id int32 }

// sigevent is struct sigevent of <asm-generic/siginfo.h>: 64 bytes.
type sigevent struct {
	value  uint64
	signo  int32
	notify int32 // 0: SIGEV_SIGNAL, to the process
	_      [48]byte
}

func newFuse() (fuse, error) {
	ev := sigevent{signo: int32(unix.SIGKILL)}
	var f fuse
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_BOOTTIME,
		uintptr(unsafe.Pointer(&ev)), uintptr(unsafe.Pointer(&f.id))); errno != 0 {
		return f, fmt.Errorf("creating the kernel's timer on the keeper: %w", errno)
	}
	return f, nil
}

// set moves the fuse.
func (f fuse) set(at Instant) error { return f.settime(unix.NsecToTimespec(int64(max(at, 1)))) }

// remove takes it out. Only for when nothing is left that it should stop.
func (f fuse) remove() { _ = f.settime(unix.Timespec{}) }

func (f fuse) settime(at unix.Timespec) error {
	spec := unix.ItimerSpec{Value: at}
	if _, _, errno := unix.RawSyscall6(unix.SYS_TIMER_SETTIME, uintptr(f.id), unix.TIMER_ABSTIME,
		uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("setting the kernel's timer on the keeper: %w", errno)
	}
	return nil
}

// urgent puts the calling thread before everything that is not real-time, so
// that starving the machine does not postpone the stop. The caller has locked
// its thread.
//
// Threads and processes made from it start as ordinary ones.
func urgent() error { return urgentThread(0, unix.SCHED_FLAG_RESET_ON_FORK) }

// urgentThread does it to a thread of this process.
func urgentThread(tid int, flags uint64) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 50, Flags: flags}
	if err := unix.SchedSetAttr(tid, &attr, 0); err != nil {
		return fmt.Errorf("asking for SCHED_FIFO: %w", err)
	}
	return nil
}

// ordinary takes it back from the calling thread, which is as nice as it was: only
// root may make it less so.
func ordinary() error {
	prio, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return fmt.Errorf("giving up SCHED_FIFO: %w", err)
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: int32(20 - prio)} // the kernel's own answer is 20 - nice
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("giving up SCHED_FIFO: %w", err)
	}
	return nil
}
