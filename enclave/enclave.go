// Package enclave runs work only while its legitimacy token is valid, and stops
// all of it at the deadline whatever happens to those who watch it.
//
// A keeper K starts a namespace init I, which starts the work. Any one of the
// keys stops everything:
//
//  1. K wakes at the deadline, on the boot clock, and kills I and the cgroup.
//  2. A kernel timer kills K itself shortly after; K's death kills I. It fires
//     also while K is stopped, traced or frozen.
//  3. I waits for the deadline itself, on a page it can only read, and ends.
//  4. The pipe from K ends, and I with it.
//  5. At level E4, programs in the kernel kill what runs after the deadline and
//     drop what it sends.
//
// I is PID 1 of the work's namespaces, so the kernel kills what is left when I
// ends. A renewal moves key 2 first and the page last: a crash in between can
// only shorten. Nothing here ever moves a deadline back, or lengthens one
// without a token that K has verified with keys pinned at its start.
//
// Hazards. Go's timers and contexts run on CLOCK_MONOTONIC, which stands still
// while the machine sleeps: they pace, they never decide. PDEATHSIG belongs to
// the thread that forked, so that thread must live as long as K. A process that
// must not be stopped for memory, threads or a garbage collection allocates
// nothing at the deadline; mlockall is left out because Go maps so much that it
// slows the kill. A hostile root outside the namespaces can always end K's
// hold, by copying the program and running it elsewhere; what stops that is
// remote, the token.
package enclave

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
	"github.com/writ-attestation/writ/verifier/token"
)

// Config is what `writ run` passes on to the keeper.
type Config struct {
	Command     []string
	Level       Level         // the least; 0 is E3. The keeper uses the best the machine allows
	Socket      string        // of the agent
	Trust       string        // trust file: domain, issuer, token_keys
	Audience    string        // "" is spiffe://<domain>/enclave
	Parent      string        // execution that starts this one, or ""
	Image       string        // "sha256:" and the digest of the image the work is from, or ""; the caller's word
	ArgvPolicy  string        // file of the command lines that may be started, or ""
	DrainBefore time.Duration // SIGTERM this long before the deadline if renewing fails; 0 never
	FreezeFor   time.Duration // hold the work still this long at its deadline before it is killed; 0 kills at once
	Partition   time.Duration // stop this long after the last token was asked for, if it is shorter than the token's life; 0 never
	Pids        int           // most processes and threads of the work; 0 is 4096
	Record      string        // file for the stop record, or ""
	JSONStop    bool          // stop record to stderr
	Adopt       string        // cgroup directory to hold, in which something waits to execute Command; "" starts it
	Path        string        // PATH of what Adopt names
	Memo        int           // descriptor of the supervisor's, by which it learns the deadline; or 0
	Measured    int           // another, by which it says the keeper's digest; or 0
	Sole        bool          // said by the supervisor: it is PID 1
	Line        int           // another, by which the service manager is told; or 0
	NoNet       bool          // a network namespace of its own, with loopback only
	PrivateTmp  bool          // /tmp, /var/tmp and /dev/shm of its own
	ReadOnly    []string      // if any path is named here or in ReadWrite, the work reaches no other files
	ReadWrite   []string
}

// Keep runs the command and returns the exit code of `writ run`. It is the whole
// life of the keeper's process: it must be called once, and exited with.
func Keep(cfg Config) int {
	runtime.LockOSThread() // the init's parent is this thread, and it is the urgent one
	if cfg.Level == 0 {
		cfg.Level = E3
	}
	if cfg.Adopt != "" {
		cfg.Level = E4
	}
	if cfg.Pids == 0 {
		cfg.Pids = 4096
	}
	k := newKeeper(cfg, newID())
	stop, exit, err := k.keep()
	var no *Refusal
	switch {
	case errors.As(err, &no):
		k.warn("%v", no)
		if no.Cure != "" {
			fmt.Fprintf(os.Stderr, "  hint: %s\n", no.Cure)
		}
		exit = no.exit()
	case err != nil:
		k.warn("run/failed: %v", err)
		exit = ExitRefused
	}
	if stop != nil {
		k.publish(*stop)
	}
	return exit
}

func newKeeper(cfg Config, execution string) *keeper {
	return &keeper{cfg: cfg, agent: agent{cfg.Socket}, execution: execution, bell: alarm{-1}, drain: alarm{-1},
		again: make(chan struct{}, 1), signals: make(chan os.Signal, 16)}
}

func (k *keeper) warn(format string, args ...any) {
	k.mayBeUnheard()
	fmt.Fprintf(os.Stderr, "writ: "+format+"\n", args...)
}

// mayBeUnheard comes before anything is said: a stderr nobody reads is no reason to die.
func (k *keeper) mayBeUnheard() {
	k.heard.Do(func() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) })
}

// keep prepares everything, starts the work and holds it. It returns a Stop if
// the work was started. The init gets ready while the rest is prepared: it takes as
// long to start as a whole program, and waits at its leash.
func (k *keeper) keep() (*Stop, int, error) {
	if err := k.settle(); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := k.find(); err != nil {
		return nil, 0, err
	}
	defer k.program.close()
	life, err := k.start(ctx)
	if err != nil {
		k.abandon()
		return nil, 0, err
	}
	go pace(ctx, life, wallSteps(ctx, k.again), k.renew, k.renewed)
	runtime.GOMAXPROCS(8) // more than there are goroutines that could have something to do
	if k.group != nil {
		_ = urgent() // Detect found that it works; if not any more, we are later, not wrong
	}
	return k.end(k.hold())
}

// settle makes this process a keeper.
func (k *keeper) settle() error {
	tune()
	k.self = begin(func() (string, error) { return supervisor.Digest(k.cfg.Measured) })
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keeping inherited files from the work (Linux 5.11 or later): %w", err)
	}
	return nil
}

// start has everything ready for the work, gets the first token and lets it start. It
// returns the life of the token.
func (k *keeper) start(ctx context.Context) (life time.Duration, err error) {
	// Whoever listens before asking misses no revocation in between.
	listening, admitted := make(chan struct{}), make(chan struct{})
	ready := sync.OnceFunc(func() { close(listening) })
	go k.listen(ctx, func() { ready(); <-admitted })
	prepared := begin(k.prepare)
	start := k.startInit
	if k.adopts() {
		start = k.startGuard
	}
	if err := start(); err != nil {
		return 0, err
	}
	go k.catch()
	if k.admission, err = prepared(); err != nil {
		return 0, err
	}
	select {
	case <-listening:
	case <-time.After(100 * time.Millisecond):
	}
	if life, err = k.enter(ctx); err == nil {
		close(admitted)
	}
	return life, err
}

// prepare does what else can be refused before anybody is asked for a token.
func (k *keeper) prepare() (_ *admission, err error) {
	if k.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("making the keeper's key: %w", err)
	}
	if k.jkt, err = token.Thumbprint(k.key.Public()); err != nil {
		return nil, fmt.Errorf("making the keeper's key: %w", err)
	}
	pinned, err := loadTrust(k.cfg.Trust)
	if err != nil {
		return nil, noTrust(k.cfg.Trust, err)
	}
	here, err := Here()
	if err != nil {
		return nil, err
	}
	digest, err := k.program.digest()
	if err != nil {
		return nil, err
	}
	audience := k.cfg.Audience
	if audience == "" {
		audience = "spiffe://" + pinned.Domain + "/enclave"
	}
	return &admission{
		trust: pinned, here: here, audience: audience, partition: k.cfg.Partition,
		workload: digest, execution: k.execution, level: k.level,
	}, nil
}

// find opens the program, and makes the keys.
func (k *keeper) find() (err error) {
	if err := k.permit(); err != nil {
		return err
	}
	if k.adopts() {
		if k.group, err = adoptGroup(k.cfg.Adopt); err != nil {
			return err
		}
		if k.program, err = openAdopted(k.group, k.cfg.Command, k.cfg.Path); err != nil {
			return err
		}
		k.level = E4
		if err := k.forge(); err != nil {
			_, cure := Detect().shortOf(E4)
			return &Refusal{Code: "run/level", Err: fmt.Errorf("holding what somebody else starts needs E4: %w", err), Cure: cure}
		}
		return nil
	}
	if k.program, err = openProgram(k.cfg.Command); err != nil {
		return err
	}
	return k.reach()
}

// reach makes the keys of the best level that this machine can keep; E4 only if
// it is asked for. What is missing is looked for when something is.
func (k *keeper) reach() error {
	k.level = max(k.cfg.Level, E3)
	err := k.forge()
	if err == nil {
		return nil
	}
	k.release()
	caps := detect(k.cfg.Sole)
	if k.level = min(caps.Level, E3); k.level >= k.cfg.Level && k.level >= E1 {
		return k.afford()
	}
	least := max(k.cfg.Level, E1)
	what, cure := caps.shortOf(least)
	if what == "" {
		return err
	}
	if k.level >= E1 {
		cure = "pass --level " + k.level.String() + " to accept less; or " + cure
	}
	return &Refusal{Code: "run/level", Err: fmt.Errorf("%v is asked for and this machine gives %v: %s", least, k.level, what), Cure: cure}
}

// afford forges a level below E3, at which not everything can be asked for.
func (k *keeper) afford() error {
	if k.sole() && (k.cfg.NoNet || k.cfg.PrivateTmp) {
		return &Refusal{Code: "run/level", Err: errors.New("--net none and --private-tmp need namespaces (E2), which this machine does not give"),
			Cure: "let the container's runtime give it an empty network and a /tmp of its own"}
	}
	return k.forge()
}

// tune sets the Go runtime up for one moment, the deadline: garbage is collected
// after a renewal and not when it happens to be due, and one of Go's processors
// is always free for the thread that wakes, also when ordinary threads that hold
// the others are starved.
func tune() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(12 << 20)
}

// begin computes on another processor, and returns how to wait for the result.
func begin[T any](f func() (T, error)) (wait func() (T, error)) {
	once := sync.OnceValues(f)
	go func() { _, _ = once() }()
	return once
}
