package enclave

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
)

// The keeper's program plays several parts: the keeper starts itself again as the
// namespace init. The first argument, which people never give, tells them apart.
const (
	partInit      = "writ-init"
	partGuard     = "writ-guard"     // of a group that the keeper adopted
	partTrial     = "writ-trial"     // a keeper of ProveHalt
	partSacrifice = "writ-sacrifice" // and its work
)

// Descriptors the keeper leaves to the init.
const (
	fdPage   = 3 + iota // the deadline page
	fdLeash             // pipe from the keeper: a byte means go, its end means die
	fdResult            // pipe to the keeper: how the work ended
	fdFile              // the program
	fdInterpreter
)

// orders is what the keeper tells the init, as the JSON in its second argument.
type orders struct {
	Terminal   bool     `json:"terminal"`       // the work becomes the terminal's foreground group
	Sole       bool     `json:"sole,omitempty"` // level E1: this is not PID 1, and nothing is ours to mount
	Script     bool     `json:"script"`
	Bound      int      `json:"bound,omitempty"`  // descriptor that underBound wants
	Option     string   `json:"option,omitempty"` // of a script's interpreter
	Path       string   `json:"path"`             // of the program or the interpreter, for people
	NoNet      bool     `json:"no_net,omitempty"` // the network namespace is the work's own
	PrivateTmp bool     `json:"private_tmp,omitempty"`
	ReadOnly   []string `json:"read_only,omitempty"` // if any are named here or next, the work reaches no other files
	ReadWrite  []string `json:"read_write,omitempty"`
}

// Reenter plays the part of the init, or another, if this process was
// started for one of them. A program that calls Keep calls it first.
func Reenter() (exit int, ok bool) {
	if len(os.Args) < 3 {
		return 0, false
	}
	switch os.Args[0] {
	case partInit:
		var o orders
		if err := json.Unmarshal([]byte(os.Args[1]), &o); err != nil {
			return ExitRefused, true
		}
		return initMain(o, os.Args[2:]), true
	case partGuard:
		return guardMain(), true
	case partTrial:
		level, err := ParseLevel(os.Args[2])
		start, no := time.ParseDuration(os.Args[len(os.Args)-1])
		if err = errors.Join(err, no); err == nil {
			err = trial(os.Args[1], level, start)
		}
		fmt.Fprintln(os.Stderr, "writ: trying to halt:", err)
		return ExitRefused, true
	case partSacrifice:
		return sacrifice(os.Args[1]), true
	}
	return 0, false
}

// initMain is PID 1 of the work's namespaces. When it ends, for whatever reason,
// the kernel kills everything else in them; so all it needs for stopping the
// work is to end. It never executes anything itself. At level E1 it only starts the
// work, and PID 1 is the supervisor.
func initMain(o orders, argv []string) int {
	if os.Getpid() != 1 && !o.Sole {
		return ExitRefused // somebody plays keeper
	}
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // no debugger
	for fd := fdPage; fd <= max(fdInterpreter, o.Bound); fd++ {
		unix.CloseOnExec(fd)
	}
	result := os.NewFile(fdResult, "result")
	page, err := mapPage(os.NewFile(fdPage, "deadline page"), unix.PROT_READ)
	if err != nil {
		return report(result, err)
	}
	if !o.Sole {
		if err := mounts(o); err != nil {
			return report(result, err)
		}
	}
	if o.NoNet {
		if err := loopback(); err != nil {
			return report(result, err)
		}
	}
	signals := make(chan os.Signal, 16)
	supervisor.Catch(signals)
	armed := make(chan struct{})
	go dieAtDeadline(page, armed)
	go dieWithKeeper(armed)
	dieQuickly() // while it may: the limit on it becomes the work's
	pid, err := start(o, argv, func() bool {
		var leash [1]byte
		if n, _ := readFull(fdLeash, leash[:]); n != 1 {
			return false // the keeper got no token, or has died
		}
		close(armed)
		return page.valid()
	})
	if errors.Is(err, errNotLet) {
		return ExitRefused
	}
	if err != nil {
		return report(result, err)
	}
	go forwardSignals(signals, pid)
	dieQuickly()
	return reap(pid, result)
}

// dieAtDeadline is key 3, once there is a token: the init's own wait for the deadline,
// on its own clock reading of a page it can only read.
func dieAtDeadline(page *word, armed <-chan struct{}) {
	runtime.LockOSThread()
	<-armed
	for page.valid() {
		sleepUntil(page.deadline())
	}
	unix.Exit(ExitStopped)
}

// dieQuickly makes every thread urgent, and those made from it, except the one
// that starts the work, which gives it up: the kernel ends the namespaces only when
// the last one has found the time to die. Without privilege it does nothing, and
// the level says so.
func dieQuickly() {
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = urgentThread(tid, 0)
		}
	}
}

// dieWithKeeper is key 4: the end of the keeper's pipe. The kernel's signal at
// the keeper's death comes first, if nothing went wrong with it.
func dieWithKeeper(armed <-chan struct{}) {
	<-armed
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

// errNotLet is why the work was not started: the keeper did not let it.
var errNotLet = errors.New("the keeper got no token, or has died")

// start executes the work from the descriptor that was digested, once let returns true,
// in a process group of its own: signals to the group of the keeper are the keeper's to
// pass on, and the work cannot reach that group. Of a script it executes the
// interpreter, which opens the script by its descriptor in turn. The thread that
// does it gives everything up first, and ends with it.
func start(o orders, argv []string, let func() bool) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if o.Bound > 0 {
			err = underBound(o.Bound)
		}
		if err == nil {
			err = giveUp(o)
		}
		if err != nil {
			return
		}
		program, files := fdFile, []uintptr{0, 1, 2}
		if o.Script {
			program, files = fdInterpreter, append(files, fdFile)
			args := []string{o.Path}
			if o.Option != "" {
				args = append(args, o.Option)
			}
			argv = append(append(args, "/proc/self/fd/3"), argv[1:]...)
		}
		name, attr := "/proc/self/fd/"+strconv.Itoa(program), &syscall.ProcAttr{
			Env:   os.Environ(),
			Files: files,
			Sys:   &syscall.SysProcAttr{Setpgid: true, Foreground: o.Terminal},
		}
		if !let() {
			err = errNotLet
			return
		}
		pid, err = syscall.ForkExec(name, argv, attr)
		if errno := unix.Errno(0); errors.As(err, &errno) {
			err = execError(errno)
		}
	}()
	<-done
	return pid, err
}

// execError is the kernel's word on why the work cannot be executed.
type execError unix.Errno

func (e execError) Error() string { return unix.Errno(e).Error() }

func forwardSignals(signals <-chan os.Signal, work int) {
	for s := range signals {
		_ = unix.Kill(work, s.(syscall.Signal))
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
	var no execError
	if errors.As(err, &no) {
		return say(result, "exec "+strconv.Itoa(int(no)))
	}
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
