// Package supervisor starts a keeper and waits for it: it passes signals on, and says
// what killed a keeper that had no time to say it. It is apart from package enclave so
// that `writ run`, which is on the way of every execution, is a small program.
//
// Hazard. The keeper dies with the thread that started it, so that thread waits.
package supervisor

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes of `writ run` that a supervisor may have to give in the keeper's place.
const (
	ExitStopped = 124 // legitimacy lapsed
	ExitRefused = 125 // not started, or Writ itself failed
)

// Name is the name (comm, at most 15 bytes) by which a keeper knows that PID 1 is its
// supervisor.
const Name = "writ-supervisor"

// asInit is how much later than the keeper a supervisor that is PID 1 acts.
const asInit = 50 * time.Millisecond

// Run starts the keeper's program with args and returns its exit code, or an error if it
// could not be started. The keeper dies with its supervisor.
func Run(keeper string, args []string) (exit int, err error) {
	runtime.LockOSThread() // the keeper's parent is this thread
	memo, err := unix.MemfdCreate("writ-memo", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("making the supervisor's memo: %w", err)
	}
	measured, err := measure(keeper)
	if err != nil {
		return 0, err
	}
	theirs, line, err := newLine()
	if err != nil {
		return 0, err
	}
	files := []uintptr{0, 1, 2, uintptr(memo), measured.Fd()}
	own := []string{keeper, "-memo", "3", "-measured", "4"}
	if theirs >= 0 {
		files, own = append(files, uintptr(theirs)), append(own, "-line", "5")
	}
	if os.Getpid() == 1 {
		own = append(own, "-sole")
		if err := os.WriteFile("/proc/self/comm", []byte(Name), 0); err != nil {
			return 0, fmt.Errorf("naming the supervisor: %w", err)
		}
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // the work may be the same user, and sees us
		go watchAsInit(memo)
	}
	signals := make(chan os.Signal, 16) // they are kept until there is a keeper
	caught := make(chan struct{})
	go func() {
		Catch(signals) // the keeper starts meanwhile
		close(caught)
	}()
	pid, err := syscall.ForkExec(keeper, append(own, args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: files,
		Sys:   &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return 0, fmt.Errorf("executing %s: %w", keeper, err)
	}
	<-caught
	_ = measured.Close()
	if theirs >= 0 {
		_ = unix.Close(theirs) // so that the line ends with the keeper
	}
	return wait(pid, memo, line, signals), nil
}

// wait waits for the keeper and returns its exit code. A keeper that was
// killed at its deadline was killed by the kernel's timer.
func wait(keeper, memo, line int, signals <-chan os.Signal) int {
	told := make(chan struct{})
	go func() {
		defer close(told)
		relay(line)
	}()
	terminal := Foreground() // which reaches the keeper itself with what is typed
	go func() {
		for s := range signals {
			if typed := s == unix.SIGINT || s == unix.SIGQUIT || s == unix.SIGHUP; !typed || !terminal {
				_ = unix.Kill(keeper, s.(syscall.Signal))
			}
		}
	}()
	var ws unix.WaitStatus
	for {
		pid, err := unix.Wait4(-1, &ws, 0, nil) // as PID 1 it has to wait for everybody
		if err == nil && pid == keeper && (ws.Exited() || ws.Signaled()) {
			break
		}
		if err != nil && err != unix.EINTR {
			fmt.Fprintf(os.Stderr, "writ: run/failed: waiting for the keeper: %v\n", err)
			return ExitRefused
		}
	}
	<-told // the line ends with the keeper, and its last word counts
	if ws.Exited() {
		return ws.ExitStatus()
	}
	if deadline, ok := readMemo(memo); ok && now() >= deadline {
		fmt.Fprintln(os.Stderr, "writ: stopped: lapsed; the kernel's timer killed the keeper, and the work with it")
		return ExitStopped
	}
	fmt.Fprintf(os.Stderr, "writ: run/keeper-killed: the keeper was killed (%v), and the work with it\n", ws.Signal())
	return ExitRefused
}

// readMemo is the deadline, in nanoseconds on the boot clock, that the keeper noted last.
func readMemo(memo int) (deadline int64, ok bool) {
	var b [8]byte
	n, _ := unix.Pread(memo, b[:], 0)
	return int64(binary.NativeEndian.Uint64(b[:])), n == len(b)
}

// watchAsInit is key 3 where the supervisor is PID 1. The memo says until when the
// work may run: nothing yet, before there is a token, and 0 when the keeper has
// killed it.
func watchAsInit(memo int) {
	for {
		at, ok := readMemo(memo)
		end := at + int64(asInit)
		switch {
		case !ok:
			time.Sleep(10 * time.Millisecond)
		case at == 0:
			return
		case now() >= end:
			fmt.Fprintln(os.Stderr, "writ: stopped: lapsed; PID 1 ended the container, for the keeper did not")
			unix.Exit(ExitStopped)
		default:
			ts := unix.NsecToTimespec(max(end, 1))
			_ = unix.ClockNanosleep(unix.CLOCK_BOOTTIME, unix.TIMER_ABSTIME, &ts, nil)
		}
	}
}

// now reads the boot clock. One that cannot be read says that everything has ended.
func now() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return math.MaxInt64
	}
	return ts.Nano()
}

// Signals are those that reach the work, through supervisor, keeper and init.
func Signals() []os.Signal {
	return []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}
}

// Catch has them sent to c, but for ignored ones.
func Catch(c chan<- os.Signal) {
	for _, s := range Signals() {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}

// Foreground reports whether this process group has the terminal on its standard input.
func Foreground() bool {
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
