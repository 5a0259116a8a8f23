package enclave

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// The keeper's program plays three parts. The keeper starts itself again as
// the namespace init, and the init starts itself again as the stub that becomes
// the work. The first argument, which people never give, tells them apart.
const (
	partInit = "writ-init"
	partStub = "writ-stub"
)

// Descriptors the keeper leaves to the init and, shifted, the init to the stub.
const (
	fdPage   = 3 + iota // the deadline page
	fdLeash             // pipe from the keeper: a byte means go, its end means die
	fdResult            // pipe to the keeper: how the work ended
	fdFile              // the program
	fdInterpreter
)

// orders is what the keeper tells the init, as the JSON in its second argument.
type orders struct {
	Terminal bool   `json:"terminal"` // the work becomes the terminal's foreground group
	Script   bool   `json:"script"`
	Option   string `json:"option,omitempty"` // of a script's interpreter
	Path     string `json:"path"`             // of the program or the interpreter, for people
}

// Reenter plays the part of the init or the stub if the keeper started this
// process for one of them. A program that calls Keep calls it first.
func Reenter() (exit int, ok bool) {
	if len(os.Args) < 3 {
		return 0, false
	}
	var o orders
	switch os.Args[0] {
	case partInit, partStub:
		if err := json.Unmarshal([]byte(os.Args[1]), &o); err != nil {
			return ExitRefused, true
		}
	}
	switch os.Args[0] {
	case partInit:
		return initMain(o, os.Args[1:]), true
	case partStub:
		return stubMain(o, os.Args[2:]), true
	}
	return 0, false
}

// initMain is PID 1 of the work's namespaces. When it ends, for whatever reason,
// the kernel kills everything else in them; so all it needs for stopping the
// work is to end. It never executes anything itself.
func initMain(o orders, args []string) int {
	runtime.LockOSThread() // the stub's parent is this thread
	if os.Getpid() != 1 {
		return ExitRefused // somebody plays keeper
	}
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // no debugger
	for fd := fdPage; fd <= fdInterpreter; fd++ {
		unix.CloseOnExec(fd)
	}
	result := os.NewFile(fdResult, "result")
	page, err := mapPage(os.NewFile(fdPage, "deadline page"), unix.PROT_READ)
	if err != nil {
		return report(result, err)
	}
	if err := privateProc(); err != nil {
		return report(result, err)
	}
	var leash [1]byte
	if n, _ := readFull(fdLeash, leash[:]); n != 1 {
		return ExitRefused // the keeper got no token, or has died
	}
	go dieWithKeeper()
	go dieAtDeadline(page)
	var work atomic.Int64 // pid of the work, 0 before it lives
	go forwardSignals(&work)
	if !page.valid() {
		return ExitStopped
	}
	pid, err := startStub(o, args)
	if err != nil {
		return report(result, err)
	}
	work.Store(int64(pid))
	dieQuickly()
	return reap(pid, result)
}

// dieAtDeadline is key 3: the init's own wait for the deadline, on its own clock
// reading of a page it can only read.
func dieAtDeadline(page *word) {
	runtime.LockOSThread()
	for page.valid() {
		sleepUntil(page.deadline())
	}
	unix.Exit(ExitStopped)
}

// dieQuickly makes every thread urgent: the kernel ends the namespaces only when
// the last one has found the time to die. Without privilege it does nothing, and
// the level says so.
func dieQuickly() {
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = urgentThread(tid)
		}
	}
}

// dieWithKeeper is key 4: the end of the keeper's pipe. The kernel's signal at
// the keeper's death comes first, if nothing went wrong with it.
func dieWithKeeper() {
	var b [1]byte
	for {
		if n, err := readFull(fdLeash, b[:]); n == 0 || err != nil {
			unix.Exit(ExitStopped)
		}
	}
}

// readFull reads one buffer, whatever signals come.
func readFull(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// privateProc hides the rest of the machine: mounts made here stay here, and
// /proc shows this PID namespace only.
func privateProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting a private /proc: %w", err)
	}
	return nil
}

// startStub forks the process that becomes the work, in a process group of its
// own: signals to the group of the keeper are the keeper's to pass on, and the
// work cannot reach that group.
func startStub(o orders, args []string) (pid int, err error) {
	files := []uintptr{0, 1, 2, fdResult, fdFile}
	if o.Script {
		files = append(files, fdInterpreter)
	}
	return syscall.ForkExec("/proc/self/exe", append([]string{partStub}, args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, Foreground: o.Terminal},
	})
}

// forwarded signals reach the work through keeper and init.
var forwarded = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}

func forwardSignals(work *atomic.Int64) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, forwarded...)
	for s := range c {
		if pid := work.Load(); pid > 0 {
			_ = unix.Kill(int(pid), s.(syscall.Signal))
		}
	}
}

// reap waits for every child, as PID 1 must, until the work itself has ended.
// What it left running dies with the init.
func reap(work int, result *os.File) int {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return report(result, fmt.Errorf("waiting for the work: %w", err))
		case pid == work && ws.Signaled():
			return say(result, "exit "+strconv.Itoa(128+int(ws.Signal())))
		case pid == work && ws.Exited():
			return say(result, "exit "+strconv.Itoa(ws.ExitStatus()))
		}
	}
}

// report tells the keeper what went wrong before the work could start.
func report(result *os.File, err error) int {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return say(result, "fail "+strconv.Itoa(int(errno))+" "+err.Error())
	}
	return say(result, "fail 0 "+err.Error())
}

// say writes the one line that the keeper reads; the first line counts.
func say(result *os.File, line string) int {
	_, _ = fmt.Fprintln(result, line)
	return 0
}
