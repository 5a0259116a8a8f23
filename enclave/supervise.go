package enclave

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// nameSupervisor is the name (comm, at most 15 bytes) by which a keeper knows that PID 1
// is its supervisor.
const nameSupervisor = "writ-supervisor"

// Supervise starts the keeper's program with args, and waits for it: this process
// passes signals on and knows how to call what killed a keeper that had no time to say
// it. It returns the exit code, or an error if it could not start the keeper. The keeper
// dies with its supervisor.
func Supervise(keeper string, args []string) (exit int, err error) {
	runtime.LockOSThread() // the keeper's parent is this thread
	memo, err := unix.MemfdCreate("writ-memo", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("making the supervisor's memo: %w", err)
	}
	theirs, line, err := newLine()
	if err != nil {
		return 0, err
	}
	files := []uintptr{0, 1, 2, uintptr(memo)}
	own := []string{keeper, "-memo", "3"}
	if os.Getpid() == 1 {
		own = append(own, "-sole")
		if err := os.WriteFile("/proc/self/comm", []byte(nameSupervisor), 0); err != nil {
			return 0, fmt.Errorf("naming the supervisor: %w", err)
		}
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // the work may be the same user, and sees us
		go watchAsInit(memo)
	}
	if theirs >= 0 {
		files, own = append(files, uintptr(theirs)), append(own, "-line", "4")
	}
	signals := make(chan os.Signal, 16) // they are kept until there is a keeper
	caught := make(chan struct{})
	go func() {
		catch(signals) // the keeper starts meanwhile
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
	if theirs >= 0 {
		_ = unix.Close(theirs) // so that the line ends with the keeper
	}
	return supervise(pid, memo, line, signals), nil
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
func supervise(keeper, memo, line int, signals <-chan os.Signal) int {
	told := make(chan struct{})
	go func() {
		defer close(told)
		relay(line)
	}()
	terminal := foreground() // which reaches the keeper itself with what is typed
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
	if deadline, ok := readMemo(memo); ok && Now() >= deadline {
		fmt.Fprintln(os.Stderr, "writ: stopped: lapsed; the kernel's timer killed the keeper, and the work with it")
		return ExitStopped
	}
	fmt.Fprintf(os.Stderr, "writ: run/keeper-killed: the keeper was killed (%v), and the work with it\n", ws.Signal())
	return ExitRefused
}
