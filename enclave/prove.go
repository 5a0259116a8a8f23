package enclave

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Halt is the proof that this machine can still stop work: with every key in
// turn, alone.
type Halt struct {
	Nonce string    `json:"nonce"` // of whoever asked, hexadecimal
	Keys  []HaltKey `json:"keys"`
}

// A HaltKey is one trial: a tree of processes that ignores every signal it may.
type HaltKey struct {
	Key       string `json:"key"`
	LatencyUS int64  `json:"latency_us"` // from the deadline to the last process gone
	Halted    bool   `json:"halted"`
}

// The keys of the trials.
const (
	keyKill   = "kill"            // the keeper's own
	keyTimer  = "kernel-timer"    // while the keeper is stopped
	keyWatch  = "init-watch"      // while the keeper sleeps
	keyDeath  = "keeper-death"    // the init's, when the keeper dies
	keyKernel = "kernel-deadline" // at E4, while the keeper is stopped
	trialTree = 6                 // processes below the first
	trialTime = 500 * time.Millisecond
)

// ProveHalt shows that this machine can halt work: it gets a token like any
// execution, halts a sacrificial tree in a cgroup of its own by each key, and
// signs nonce and latencies as the end of that execution. It prints the record
// and returns 0 only if every key worked.
func ProveHalt(cfg Config, nonce string) int {
	runtime.LockOSThread()
	if b, err := hex.DecodeString(nonce); err != nil || len(b) < 8 || len(b) > 64 {
		fmt.Fprintln(os.Stderr, "writ: run/usage: --nonce is 8 to 64 bytes in hexadecimal")
		return 2
	}
	if cfg.Level == 0 {
		cfg.Level = E3
	}
	cfg.Command, cfg.Pids = []string{"/proc/self/exe"}, 4096
	k := newKeeper(cfg, "prove-halt-"+newID())
	s, err := k.proveHalt(nonce)
	if err != nil {
		k.warn("%v", err)
		return 1
	}
	b, _ := json.Marshal(s)
	fmt.Println(string(b))
	k.publish(*s)
	if !s.Confirmed {
		k.warn("prove-halt/failed: a key did not halt the work; look which in the record")
		return 1
	}
	return 0
}

func (k *keeper) proveHalt(nonce string) (_ *Stop, err error) {
	if err := k.settle(); err != nil {
		return nil, err
	}
	if err := k.find(); err != nil {
		return nil, err
	}
	defer k.program.close()
	defer k.release()
	if k.admission, err = k.prepare(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	g, err := k.ask(ctx)
	if err != nil {
		return nil, err
	}
	deadline, err := k.admission.admit(g, time.Now())
	if err != nil {
		return nil, &Refusal{Code: "run/token", Err: err}
	}
	s := &Stop{Exec: k.execution, Cause: CauseProveHalt, Deadline: deadline, Renewed: g.T0, Confirmed: true,
		Level: k.level.String(), Admitted: k.admission.last(), Halt: &Halt{Nonce: nonce}}
	keys := []string{keyKill, keyTimer, keyWatch, keyDeath}
	if k.level >= E4 {
		keys = append(keys, keyKernel)
	}
	for _, key := range keys {
		latency, err := tryKey(key, k.level)
		if err != nil {
			k.warn("halting by %s: %v", key, err)
		}
		s.Halt.Keys = append(s.Halt.Keys, HaltKey{Key: key, LatencyUS: latency.Microseconds(), Halted: err == nil})
		s.Confirmed = s.Confirmed && err == nil
		s.LatencyUS = max(s.LatencyUS, latency.Microseconds())
	}
	s.Stopped = Now()
	return s, nil
}

// errNotReady is what a trial says on a machine that is busy with other things.
var errNotReady = errors.New("starting the trial: its tree was not ready in time")

// tryKey tries a key, again with more time to start if that was not enough.
func tryKey(key string, level Level) (latency time.Duration, err error) {
	for start := trialTime; start <= 16*trialTime; start *= 4 {
		if latency, err = tryKeyIn(start, key, level); !errors.Is(err, errNotReady) {
			break
		}
	}
	return latency, err
}

// tryKeyIn starts a keeper that has one key only, and watches its work die after that
// time.
func tryKeyIn(start time.Duration, key string, level Level) (latency time.Duration, err error) {
	var dir string
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{partTrial, key, level.String(), start.String()}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return 0, fmt.Errorf("starting the trial: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if dir != "" {
			_ = emptied(dir, Now().Add(time.Second))
			sweepAll() // what a killed keeper leaves
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	var deadline Instant
	var init int
	if line == notReady {
		return 0, errNotReady
	}
	if _, err := fmt.Sscan(line, &deadline, &init, &dir); err != nil && init == 0 {
		return 0, fmt.Errorf("starting the trial: it said %.100q", line)
	}
	pidfd, err := unix.PidfdOpen(init, 0)
	if err != nil {
		return 0, fmt.Errorf("watching the trial's init: it is gone before its time: %w", err)
	}
	defer unix.Close(pidfd)
	for end := deadline.Add(5 * time.Second); Now() < end; {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if unix.PidfdSendSignal(pidfd, 0, nil, 0) == unix.ESRCH || isZombie(init) {
			gone := Now() // not before it is known: this process may have to wait in between
			if gone < deadline {
				return 0, errors.New("the trial's work ended before its time")
			}
			if dir != "" && !emptied(dir, end) {
				break
			}
			return gone.Sub(deadline), nil
		}
	}
	return Now().Sub(deadline), errors.New("the work runs on")
}

// isZombie reports that a process has ended and waits for its parent, which the
// init of a namespace does only after all in it have gone.
func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(b, []byte(") "))
	return err != nil || bytes.HasPrefix(rest, []byte("Z")) || bytes.HasPrefix(rest, []byte("X"))
}

// emptied waits until nothing lives in a cgroup, which may be removed already.
func emptied(dir string, end Instant) bool {
	for ; Now() < end; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil || bytes.Contains(b, []byte("populated 0")) {
			return true
		}
	}
	return false
}

// notReady is what a trial prints instead.
const notReady = "not ready\n"

// trial is the keeper of a trial: it starts the tree, tells when its deadline is
// and acts, or is hindered, as the key wants.
func trial(key string, level Level, start time.Duration) error {
	runtime.LockOSThread()
	k := &keeper{cfg: Config{Pids: 64}, execution: newID(), level: level, bell: alarm{-1}, drain: alarm{-1}}
	var err error
	if k.program, err = openProgram([]string{"/proc/self/exe"}); err != nil {
		return err
	}
	k.program.argv = []string{partSacrifice, "root", ""}
	if err := k.forge(); err != nil {
		return err
	}
	if err := k.startInit(); err != nil {
		return err
	}
	deadline, far := Now().Add(start), Now().Add(time.Hour)
	until := far
	if key == keyWatch {
		until = deadline
	}
	if err := k.page.renew(until); err != nil {
		return err
	}
	if key == keyTimer {
		if err := k.fuse.set(deadline); err != nil {
			return err
		}
	}
	if key == keyKernel {
		k.kernel.set(deadline)
	}
	if _, err := k.leash.Write([]byte{'g'}); err != nil {
		return err
	}
	dir := ""
	if k.group != nil {
		dir = k.group.dir
		for k.group.count() < trialTree+2 { // the init, the first and those below
			if Now() >= deadline {
				fmt.Print(notReady)
				return errNotReady
			}
			time.Sleep(time.Millisecond)
		}
	}
	fmt.Println(int64(deadline), k.init, dir)
	return k.act(key, deadline)
}

func (k *keeper) act(key string, deadline Instant) error {
	if key == keyTimer || key == keyKernel {
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP) // and never on
	}
	for Now() < deadline {
		sleepUntil(deadline)
	}
	switch {
	case key == keyDeath:
		unix.Exit(0)
	case key == keyKill && k.group != nil:
		k.group.killAll()
	case key == keyKill:
		k.signal(unix.SIGKILL)
	}
	time.Sleep(20 * time.Second) // until it is killed
	return nil
}

// count is the number of processes in the group.
func (g *group) count() int {
	b, _ := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	return bytes.Count(b, []byte{'\n'})
}

// sacrifice is the work of a trial: it ignores what it can, never ends, and wakes
// up often, since the kernel's deadline is for what runs.
func sacrifice(part string) int {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	if part == "root" {
		for i := range trialTree {
			_, err := syscall.ForkExec("/proc/self/exe", []string{partSacrifice, "leaf", ""},
				&syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: i%2 == 0}})
			if err != nil {
				return ExitRefused
			}
		}
	}
	for {
		time.Sleep(5 * time.Millisecond)
	}
}
