package enclave

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
)

// keeper holds one execution.
type keeper struct {
	cfg       Config
	agent     agent
	self      func() (string, error) // digest of the keeper's program
	key       *ecdsa.PrivateKey      // of this execution: signs how it ended
	jkt       string
	execution string
	argv      string // digest of the policy that allows the command line, or ""
	level     Level
	program   *program
	admission *admission

	// The keys.
	page   *word         // shared with the init
	share  *os.File      // the page's descriptor
	fuse   fuse          // kills the keeper grace after the deadline
	frozen Instant       // since when the work stands still; 0 if it does not
	grace  time.Duration // time the keeper has for doing it itself
	bell   alarm         // rings at the deadline, and at once when revoked
	drain  alarm         // rings DrainBefore the deadline; -1 if not asked for

	group  *group          // nil below E3
	kernel *kernelDeadline // nil below E4
	init   int             // pid
	pidfd  int
	leash  *os.File // the init dies when it is closed
	result *os.File // how the work ended
	tty    bool     // the work has the terminal

	again   chan struct{}  // a reason to renew at once
	signals chan os.Signal // for the work, once it is let
	let     atomic.Bool    // the work may start
	heard   sync.Once      // that nobody reads stderr is no reason to die any more

	failing  atomic.Bool  // the last renewal failed
	drained  atomic.Int64 // Instant: the deadline before which the work was asked to end
	deadline atomic.Int64 // of the last token; the page forgets it when revoked
	asked    atomic.Int64 // Instant when that token was asked for
	ordered  atomic.Int64 // Instant of a revocation
	cause    atomic.Pointer[string]
}

// forge makes the keys of a level; none is set yet.
func (k *keeper) forge() (err error) {
	if k.level >= E3 {
		if err := tryUrgent(); err != nil {
			return err
		}
	}
	if k.level >= E3 && !k.adopts() {
		if k.group, err = newGroup(k.execution, k.cfg.Pids); err != nil {
			return err
		}
	}
	if k.level >= E4 {
		if k.kernel, err = newKernelDeadline(loaderBeside(), k.group); err != nil {
			return err
		}
	}
	if k.page, k.share, err = newPage(); err != nil {
		return err
	}
	if k.fuse, err = newFuse(); err != nil {
		return err
	}
	if k.bell, err = newAlarm(); err != nil {
		return err
	}
	if k.cfg.DrainBefore > 0 {
		if k.drain, err = newAlarm(); err != nil {
			return err
		}
	}
	k.grace = fuseGrace
	if k.level < E3 {
		k.grace = max(fuseGrace, 50*time.Millisecond) // an ordinary process may have to wait for the processor
	}
	return nil
}

// startInit starts the namespace init, which waits at its leash.
func (k *keeper) startInit() error {
	leash, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making the init's leash: %w", err)
	}
	defer leash.Close()
	theirs, result, err := pipe()
	if err != nil {
		return fmt.Errorf("making the init's result pipe: %w", err)
	}
	defer theirs.Close()
	k.leash, k.result = ours, result
	k.tty = supervisor.Foreground()
	o := orders{Terminal: k.tty, Sole: k.sole(), Path: k.program.file.Name(), Option: k.program.option,
		NoNet: k.cfg.NoNet, PrivateTmp: k.cfg.PrivateTmp, ReadOnly: k.cfg.ReadOnly, ReadWrite: k.cfg.ReadWrite}
	files := []uintptr{0, 1, 2, k.share.Fd(), leash.Fd(), theirs.Fd(), k.program.file.Fd()}
	if i := k.program.interpreter; i != nil {
		o.Script, o.Path = true, i.Name()
		files = append(files, i.Fd())
	}
	var attr *syscall.SysProcAttr
	switch {
	case k.sole():
		attr = &syscall.SysProcAttr{}
	case k.cfg.NoNet:
		attr = namespaces(unix.CLONE_NEWNET)
	default:
		attr = namespaces(0)
	}
	attr.Pdeathsig = unix.SIGKILL
	attr.PidFD = &k.pidfd
	if k.group != nil {
		if k.group.tasks != nil {
			o.Bound = len(files)
			files = append(files, k.group.tasks.Fd())
		}
		attr.UseCgroupFD, attr.CgroupFD = true, int(k.group.fd.Fd())
	}
	text, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("writing the init's orders: %w", err)
	}
	args := append([]string{partInit, string(text)}, k.program.argv...)
	k.init, err = syscall.ForkExec("/proc/self/exe", args, &syscall.ProcAttr{Env: k.environ(), Files: files, Sys: attr})
	if err != nil {
		return &Refusal{Code: "run/init", Err: fmt.Errorf("starting the namespace init: %w", err)}
	}
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // no debugger of the same user; not before uid_map was written
	return nil
}

// pipe makes a pipe whose read end never blocks.
func pipe() (w, r *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(p[1]), "pipe"), os.NewFile(uintptr(p[0]), "pipe"), nil
}

// environ is the work's: ours, without what is only for Writ, and with the
// execution's id.
func (k *keeper) environ() []string {
	for _, own := range []string{"WRIT_JOIN_TOKEN", supervisor.NotifyVar, "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(own)
	}
	return append(os.Environ(), "WRIT_EXECUTION="+k.execution)
}

// enter gets the first token and lets the init start the work. It returns the
// life of the token.
func (k *keeper) enter(ctx context.Context) (life time.Duration, err error) {
	asking, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	g, err := k.ask(asking)
	if err != nil {
		return 0, err
	}
	deadline, err := k.admission.admit(g, time.Now())
	if err != nil {
		return 0, &Refusal{Code: "run/token", Err: err}
	}
	if err := k.program.unchanged(); err != nil {
		return 0, &Refusal{Code: "run/changed", Err: err}
	}
	if err := k.extend(g.T0, deadline); err != nil {
		return 0, err
	}
	k.let.Store(true)                                 // signals are the work's from here on
	_, _ = unix.Write(int(k.leash.Fd()), []byte{'g'}) // if it died meanwhile, hold sees that
	k.tell(true, deadline)
	return deadline.Sub(g.T0), nil
}

// extend moves the deadline. What the kernel does comes first, so that whatever
// happens in between, the work is stopped no later than now agreed.
func (k *keeper) extend(asked, deadline Instant) error {
	if deadline <= k.page.deadline() {
		return errNotLater // before anything is moved: the kernel would take it
	}
	if err := k.fuse.set(deadline.Add(k.grace)); err != nil {
		return err
	}
	if k.kernel != nil {
		k.kernel.set(deadline)
	}
	if err := k.page.renew(deadline); err != nil {
		return err
	}
	k.deadline.Store(int64(deadline))
	k.asked.Store(int64(asked))
	k.note(deadline)
	k.tell(false, deadline)
	if k.drain.fd >= 0 {
		if err := k.drain.set(deadline.Add(-k.cfg.DrainBefore)); err != nil {
			return err
		}
	}
	return k.bell.set(k.ring(deadline))
}

// revoke ends the lease for good and wakes the thread that holds the work.
func (k *keeper) revoke(cause string) {
	k.cause.CompareAndSwap(nil, &cause)
	k.ordered.CompareAndSwap(0, int64(Now()))
	k.page.revoke()
	k.note(1)
	_ = k.bell.set(0)
}

// hold waits until the work has ended (true) or must be stopped (false).
func (k *keeper) hold() bool {
	fds := []unix.PollFd{
		{Fd: int32(k.pidfd), Events: unix.POLLIN},
		{Fd: int32(k.bell.fd), Events: unix.POLLIN},
		{Fd: int32(k.drain.fd), Events: unix.POLLIN},
	}
	for {
		_, _ = unix.Poll(fds, -1) // whatever it says, the page and the clock decide
		switch {
		case !k.page.valid():
			k.stop()
			return false
		case fds[0].Revents != 0:
			return true
		case k.freezes() && Now() >= k.ring(k.page.deadline()) && k.freeze():
			k.stop()
			return false
		}
		if fds[1].Revents != 0 {
			k.bell.clear()
		}
		if fds[2].Revents != 0 {
			k.drain.clear()
			if deadline := k.deadline.Load(); k.failing.Load() && k.drained.Swap(deadline) != deadline {
				k.warn("draining: the token could not be renewed and ends in %v", k.page.deadline().Sub(Now()).Round(time.Millisecond))
				k.signal(unix.SIGTERM)
			}
		}
	}
}

// stop is key 1. The init goes first: from then on the kernel ends the
// namespaces even without us, so that our own timer may be given time. The
// cgroup's kill then reaches all processes before the init's death does.
func (k *keeper) stop() {
	if k.kernel != nil {
		k.kernel.set(1) // what it still sends is cut off before it is killed
	}
	if k.adopts() {
		k.group.killAll() // the guard's end ends nothing
	}
	k.signal(unix.SIGKILL)
	if k.group != nil || k.sole() {
		_ = k.fuse.set(Now().Add(100 * time.Millisecond))
		k.killAll()
	}
	k.fuse.remove()
	if k.sole() {
		k.note(0)
	}
}

// killAll kills what holds together without the init.
func (k *keeper) killAll() {
	switch {
	case k.group != nil:
		k.group.killAll()
	case k.sole():
		killEverybody()
	}
}

// gone reports whether nothing is left of the work, once the init has been reaped.
func (k *keeper) gone() bool {
	return (k.group == nil || k.group.empty()) && (!k.sole() || alone())
}

// signal reaches the init alone, and never another process of the same pid. It
// is a raw system call for the same reason as killAll's.
func (k *keeper) signal(s unix.Signal) {
	_, _, _ = unix.RawSyscall6(unix.SYS_PIDFD_SEND_SIGNAL, uintptr(k.pidfd), uintptr(s), 0, 0, 0, 0)
}

// catch takes the signals that ask the work to end, and passes them on: one that comes
// while it starts neither kills who forwards it nor is lost. Before it may start they are
// the keeper's, and end it as if they had not been caught. Those for the work in an
// adopted group are its engine's to send.
func (k *keeper) catch() {
	supervisor.Catch(k.signals)
	for s := range k.signals {
		switch {
		case !k.let.Load():
			signal.Reset(s)
			_ = unix.Kill(unix.Getpid(), s.(syscall.Signal))
		case !k.adopts():
			k.signal(s.(syscall.Signal))
		}
	}
}

// confirm waits until the init has been reaped, which the kernel allows only
// after everything in its namespaces has gone, and its cgroup is empty; at E1, until
// PID 1 has reaped what was left.
func (k *keeper) confirm(limit time.Duration) (gone Instant, ok bool) {
	reaped := false
	for end := Now().Add(limit); Now() < end; {
		if !reaped {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(k.pidfd), Events: unix.POLLIN}}, 100)
			pid, err := unix.Wait4(k.init, nil, unix.WNOHANG, nil)
			reaped = pid == k.init || err == unix.ECHILD
		}
		switch {
		case reaped && k.gone():
			return Now(), true
		case reaped && k.group != nil:
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(k.group.events.Fd()), Events: unix.POLLPRI}}, 10)
		case reaped:
			time.Sleep(time.Millisecond)
		}
		k.signal(unix.SIGKILL)
		k.killAll()
	}
	return Now(), false
}

// end confirms that all is over, tidies up and says how it ended.
func (k *keeper) end(byItself bool) (*Stop, int, error) {
	s := &Stop{Exec: k.execution, Image: k.cfg.Image, Level: k.level.String(), Cause: CauseExited, Deadline: Instant(k.deadline.Load()), Frozen: k.frozen, Renewed: Instant(k.asked.Load()), Admitted: k.admission.last()}
	s.Stopped, s.Confirmed = k.confirm(10 * time.Second)
	k.fuse.remove()
	k.restoreTerminal()
	if k.group != nil {
		k.group.remove()
	}
	if k.kernel != nil && s.Confirmed {
		k.kernel.close()
	}
	exit, said, err := k.outcome()
	ordered := Instant(k.ordered.Load())
	switch {
	case byItself && err != nil:
		s.Cause = CauseFailed
		return s, 0, err
	case byItself && said:
		return s, exit, nil
	case ordered != 0:
		s.Cause, s.LatencyUS = *k.cause.Load(), s.Stopped.Sub(ordered).Microseconds()
	case !byItself || s.Stopped >= s.Deadline: // the init may have been first
		s.Cause, s.LatencyUS = CauseDeadline, s.Stopped.Sub(s.Deadline).Microseconds()
	default:
		s.Cause = CauseInitDied
		return s, 0, &Refusal{Code: "run/init-died", Err: fmt.Errorf("the namespace init was killed, and the work with it")}
	}
	k.warn("%v", s)
	return s, ExitStopped, nil
}

// outcome reads what the init and the stub said: how the work ended, or why it
// could not start.
func (k *keeper) outcome() (exit int, said bool, err error) {
	var b [1024]byte
	n, _ := unix.Read(int(k.result.Fd()), b[:])
	line, _, _ := bytes.Cut(b[:max(n, 0)], []byte{'\n'})
	verb, rest, _ := bytes.Cut(line, []byte{' '})
	number, text, _ := bytes.Cut(rest, []byte{' '})
	code, _ := strconv.Atoi(string(number))
	switch string(verb) {
	case "exit":
		return code, true, nil
	case "exec":
		return 0, true, notExecutable(k.cfg.Command[0], unix.Errno(code))
	case "fail":
		return 0, true, &Refusal{Code: "run/init", Err: fmt.Errorf("starting the work: %s", text)}
	}
	return 0, false, nil
}

// abandon ends an init that never got a token, and what waits in an adopted group.
func (k *keeper) abandon() {
	if k.adopts() {
		k.killAll()
	}
	if k.init > 0 {
		k.signal(unix.SIGKILL)
		_, _ = unix.Wait4(k.init, nil, 0, nil)
	}
	k.release()
}

// release gives up the group, and the kernel's deadline of one that is empty.
func (k *keeper) release() {
	if k.group == nil {
		return
	}
	for end := Now().Add(time.Second); k.adopts() && !k.group.empty() && Now() < end; {
		time.Sleep(time.Millisecond)
	}
	if k.kernel != nil && k.group.empty() {
		k.kernel.close()
	}
	k.group.remove()
	k.group, k.kernel = nil, nil
}

// restoreTerminal takes the terminal back from the work's process group, which
// interactive shells do themselves and scripts do not.
func (k *keeper) restoreTerminal() {
	if k.tty {
		signal.Ignore(unix.SIGTTOU)
		_ = unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp())
	}
}
