// Package launch starts work under the keeper: what of `writ run` is on the way of
// every execution. It is small for that, and links nothing that verifies evidence.
package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/writ-attestation/writ/enclave/supervisor"
)

// DefaultState is the state directory of a node.
const DefaultState = "/var/lib/writ"

// Options are those of `writ run`.
type Options struct {
	level, audience, socket, state, trust, parent, image, argv, record, net, onLapse string

	readOnly, readWrite []string

	drain      time.Duration
	freeze     time.Duration // of onLapse
	partition  time.Duration
	pids       int
	jsonStop   bool
	privateTmp bool
}

// Flags defines the options in a set of flags that ends where COMMAND begins.
func (o *Options) Flags(f *pflag.FlagSet) {
	f.SetInterspersed(false) // what follows COMMAND is COMMAND's
	f.StringVar(&o.level, "level", "E3", "least enforcement `level`; below it nothing is started")
	f.StringVar(&o.audience, "audience", "", "`audience` of the token (default the domain's enclave)")
	f.StringVar(&o.socket, "socket", "", "`path` of the agent's socket (default /run/writ/agent.sock, else $XDG_RUNTIME_DIR/writ/agent.sock)")
	f.StringVar(&o.state, "state", DefaultState, "state `directory` of the node")
	f.StringVar(&o.trust, "trust", "", "trust `file` that pins the issuer's keys (default trust.json in the state directory)")
	f.StringVar(&o.parent, "parent", os.Getenv("WRIT_EXECUTION"), "`id` of the execution that starts this one (default WRIT_EXECUTION)")
	f.StringVar(&o.image, "image", "", "`digest` (sha256:...) of the image COMMAND is from; recorded as your word, nothing checks it")
	f.StringVar(&o.argv, "argv-policy", "", "`file` of the command lines that may be started; its digest is recorded")
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
}

var imageRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Check reads --on-lapse, and refuses an image that no log entry takes.
func (o *Options) Check() (err error) {
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

// Run starts the keeper with COMMAND and supervises it. It returns the exit code, or
// an error if nothing was started.
func (o *Options) Run(command []string) (exit int, err error) {
	keeper, err := FindKeeper()
	if err != nil {
		return 0, err
	}
	return supervisor.Run(keeper, o.arguments(command))
}

func (o *Options) arguments(command []string) []string {
	if o.socket == "" {
		o.socket = DefaultSocket()
	}
	if o.trust == "" {
		o.trust = filepath.Join(o.state, "trust.json")
	}
	args := []string{"-level", o.level, "-socket", o.socket, "-trust", o.trust, "-audience", o.audience, "-parent", o.parent, "-image", o.image, "-argv-policy", o.argv,
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

// DefaultSocket is the machine's agent, or else the user's.
func DefaultSocket() string {
	const system = "/run/writ/agent.sock"
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		if _, err := os.Stat(system); err != nil {
			return filepath.Join(dir, "writ", "agent.sock")
		}
	}
	return system
}

// FindKeeper prefers the one named by WRIT_KEEPER, then the one installed with
// this program. Which one ran is in the request for the token, by its digest.
func FindKeeper() (string, error) {
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
