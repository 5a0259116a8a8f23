package enclave

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Supervise starts the keeper's program with args, and becomes its supervisor:
// a small process that only waits, passes signals on and knows how to call what
// killed a keeper that had no time to say it. It returns only if it could not.
// The keeper dies with its supervisor.
func Supervise(keeper string, args []string) error {
	runtime.LockOSThread() // the keeper's parent is this thread, and it executes
	fd, err := unix.MemfdCreate("writ-memo", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("making the supervisor's memo: %w", err)
	}
	theirs, line, err := newLine()
	if err != nil {
		return err
	}
	files := []uintptr{0, 1, 2, uintptr(fd)}
	own := []string{keeper, "-memo", "3"}
	if os.Getpid() == 1 {
		own = append(own, "-sole")
	}
	if theirs >= 0 {
		files, own = append(files, uintptr(theirs)), append(own, "-line", "4")
	}
	pid, err := syscall.ForkExec(keeper, append(own, args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: files,
		Sys:   &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return fmt.Errorf("executing %s: %w", keeper, err)
	}
	if _, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err == nil && line >= 0 {
		_, err = unix.FcntlInt(uintptr(line), unix.F_SETFD, 0)
	}
	if err == nil {
		err = hold()
	}
	if err == nil {
		err = syscall.Exec(keeper, []string{partSupervisor, strconv.Itoa(pid), strconv.Itoa(fd), strconv.Itoa(line)}, os.Environ())
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	return fmt.Errorf("executing %s: %w", keeper, err)
}

// hold keeps the signals that are passed on waiting in this thread, which is the one
// that executes, until supervise is there to catch them: the work may be ready before.
func hold() error {
	var set unix.Sigset_t
	for _, s := range forwarded {
		n := uint(s.(syscall.Signal)) - 1
		set.Val[n/64] |= 1 << (n % 64)
	}
	return unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

// note leaves the deadline where the supervisor finds it when the keeper cannot
// say any more what killed it.
func (k *keeper) note(deadline Instant) {
	if k.cfg.Memo > 0 {
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], uint64(deadline))
		_, _ = unix.Pwrite(k.cfg.Memo, b[:], 0)
	}
}

// readMemo is what the keeper noted last.
func readMemo(memo int) (Instant, bool) {
	var b [8]byte
	n, _ := unix.Pread(memo, b[:], 0)
	return Instant(binary.NativeEndian.Uint64(b[:])), n == len(b)
}

// supervise waits for the keeper and returns its exit code. A keeper that was
// killed at its deadline was killed by the kernel's timer.
func supervise(keeper, memo, line int) int {
	if os.Getpid() == 1 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // the work may be the same user, and sees us
		go watchAsInit(memo)
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		relay(line)
	}()
	c := make(chan os.Signal, 8)
	for _, s := range forwarded {
		signal.Notify(c, s)
	}
	terminal := foreground() // which reaches the keeper itself with what is typed
	go func() {
		for s := range c {
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
	if deadline, ok := readMemo(memo); ok && Now() >= deadline {
		fmt.Fprintln(os.Stderr, "writ: stopped: lapsed; the kernel's timer killed the keeper, and the work with it")
		return ExitStopped
	}
	fmt.Fprintf(os.Stderr, "writ: run/keeper-killed: the keeper was killed (%v), and the work with it\n", ws.Signal())
	return ExitRefused
}
