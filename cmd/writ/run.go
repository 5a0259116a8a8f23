package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/enclave"
)

// exitRefused is what `writ run` adds to the codes of exit.go, with 124 (stopped
// because legitimacy lapsed), 126 and 127, which the keeper exits with.
const exitRefused = 125

const defaultState = "/var/lib/writ"

func newRun() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND...",
		Short: "Run a command only while this node's legitimacy token is valid",
		Long: `Run COMMAND, and everything it starts, only while a legitimacy token for it is
valid, and kill all of it at the deadline whatever happens to those who watch
it. The token is asked for through the node's agent; the keeper, writ-keeper,
verifies it itself with the issuer keys of the trust file, and renews it.

Signals, standard files and the exit code are COMMAND's own; this process only
waits, and the work does not outlive it. COMMAND runs in a PID, mount and IPC namespace of
its own, with no way to gain privileges. Daemons it leaves end with it.

Levels: E4 is E3 with a deadline in the kernel, which kills and cuts off by
itself, and needs CAP_BPF and CAP_PERFMON besides; E3 needs root, or a delegated cgroup v2 and real-time priority; E2 works
for any user who may make user namespaces, and stops later on a busy machine; E1
is for containers that allow none, if writ run is their first process.

Exit codes: COMMAND's own; 124 stopped because legitimacy lapsed, was denied or
revoked; 125 refused at start, or Writ failed (reason code on standard error);
126 COMMAND cannot be executed; 127 it is not found; 128+n ended by signal n.`,
		Example: `  writ run -- ./server --port 8080
  writ run --level E2 -- make test
  writ run --drain-before 5s --record stop.json -- ./worker`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exit(exitRefused, errors.New("run/usage: no COMMAND given"), seeHelp(cmd))
			}
			if err := o.check(); err != nil {
				return exit(exitRefused, fmt.Errorf("run/usage: %w", err), seeHelp(cmd))
			}
			return exit(exitRefused, o.become(args), "")
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exit(exitRefused, fmt.Errorf("run/usage: %w", err), seeHelp(cmd))
	})
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows COMMAND is COMMAND's
	f.StringVar(&o.level, "level", "E3", "least enforcement `level`; below it nothing is started")
	f.StringVar(&o.audience, "audience", "", "`audience` of the token (default the domain's enclave)")
	f.StringVar(&o.socket, "socket", "", "`path` of the agent's socket (default /run/writ/agent.sock, else $XDG_RUNTIME_DIR/writ/agent.sock)")
	f.StringVar(&o.state, "state", defaultState, "state `directory` of the node")
	f.StringVar(&o.trust, "trust", "", "trust `file` that pins the issuer's keys (default trust.json in the state directory)")
	f.StringVar(&o.parent, "parent", os.Getenv("WRIT_EXECUTION"), "`id` of the execution that starts this one (default WRIT_EXECUTION)")
	f.StringVar(&o.image, "image", "", "`digest` (sha256:...) of the image COMMAND is from; recorded as your word, nothing checks it")
	f.DurationVar(&o.drain, "drain-before", 0, "send SIGTERM this long before the deadline when renewing has failed")
	f.StringVar(&o.onLapse, "on-lapse", "kill", "`what` happens at the deadline: kill, or freeze:DURATION, which holds the work still for so long and then kills it (E3)")
	f.DurationVar(&o.partition, "stop-on-partition", 0, "stop this long after the last answer of a verifier, though the token lives longer")
	f.IntVar(&o.pids, "pids", 4096, "most processes and threads, where the kernel can bound them")
	f.StringVar(&o.record, "record", "", "write the stop record, JSON, to `file`")
	f.StringVar(&o.net, "net", "host", "`host`, or none: a network of its own without a way out")
	f.BoolVar(&o.privateTmp, "private-tmp", false, "/tmp, /var/tmp and /dev/shm of its own")
	f.StringArrayVar(&o.readOnly, "landlock-ro", nil, "`path` COMMAND may read and execute; if any is named, it reaches no others (repeatable)")
	f.StringArrayVar(&o.readWrite, "landlock-rw", nil, "`path` COMMAND may also write (repeatable)")
	f.BoolVar(&o.jsonStop, "json-stop", false, "write the stop record to standard error")
	return cmd
}

type runOptions struct {
	level, audience, socket, state, trust, parent, image, record, net, onLapse string

	readOnly, readWrite []string

	drain      time.Duration
	freeze     time.Duration // of onLapse
	partition  time.Duration
	pids       int
	jsonStop   bool
	privateTmp bool
}

var imageRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// check reads --on-lapse, and refuses an image that no log entry takes.
func (o *runOptions) check() (err error) {
	if o.image != "" && !imageRE.MatchString(o.image) {
		return fmt.Errorf("--image %.100q: expected sha256: and 64 hexadecimal digits", o.image)
	}
	bound, freeze := strings.CutPrefix(o.onLapse, "freeze:")
	if freeze {
		o.freeze, err = time.ParseDuration(bound)
	}
	if err != nil || freeze == (o.onLapse == "kill") || o.freeze < 0 || o.freeze > time.Hour {
		return fmt.Errorf("--on-lapse %q: expected kill, or freeze: and a duration of at most 1h", o.onLapse)
	}
	return nil
}

// become starts the keeper and replaces this process by its supervisor. It
// returns only if it could not.
func (o *runOptions) become(command []string) error {
	keeper, err := findKeeper()
	if err != nil {
		return fmt.Errorf("run/no-keeper: %w", err)
	}
	return fmt.Errorf("run/no-keeper: %w", enclave.Supervise(keeper, o.arguments(command)))
}

func (o *runOptions) arguments(command []string) []string {
	if o.socket == "" {
		o.socket = defaultSocket()
	}
	if o.trust == "" {
		o.trust = filepath.Join(o.state, "trust.json")
	}
	args := []string{"-level", o.level, "-socket", o.socket, "-trust", o.trust, "-audience", o.audience, "-parent", o.parent, "-image", o.image,
		"-drain-before", o.drain.String(), "-pids", strconv.Itoa(o.pids), "-record", o.record, "-freeze-for", o.freeze.String(), "-stop-on-partition", o.partition.String(), "-net", o.net, "-private-tmp=" + strconv.FormatBool(o.privateTmp)}
	for _, path := range o.readOnly {
		args = append(args, "-landlock-ro", path)
	}
	for _, path := range o.readWrite {
		args = append(args, "-landlock-rw", path)
	}
	if o.jsonStop {
		args = append(args, "-json-stop")
	}
	return append(append(args, "--"), command...)
}

// defaultSocket is the machine's agent, or else the user's.
func defaultSocket() string {
	const system = "/run/writ/agent.sock"
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		if _, err := os.Stat(system); err != nil {
			return filepath.Join(dir, "writ", "agent.sock")
		}
	}
	return system
}

// findKeeper prefers the one named by WRIT_KEEPER, then the one installed with
// this program. Which one ran is in the request for the token, by its digest.
func findKeeper() (string, error) {
	if path := os.Getenv("WRIT_KEEPER"); path != "" {
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "writ-keeper")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("writ-keeper")
	if err != nil {
		return "", fmt.Errorf("looking for writ-keeper beside writ and in PATH: %w; set WRIT_KEEPER", err)
	}
	return path, nil
}
