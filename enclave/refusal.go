package enclave

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Exit codes of `writ run`, beside the work's own and 128+n when a signal ended it.
const (
	ExitStopped       = 124 // legitimacy lapsed
	ExitRefused       = 125 // not started, or Writ itself failed
	ExitHeld          = 123 // of a keeper that adopts: another one holds the cgroup
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// A Refusal is why work was not started or could not be kept. Its code is
// stable; scripts may match it.
type Refusal struct {
	Code string // such as "run/no-token"
	Exit int    // exit code; 0 is ExitRefused
	Err  error
	Cure string // what to do about it, or ""
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

func (r *Refusal) exit() int {
	if r.Exit == 0 {
		return ExitRefused
	}
	return r.Exit
}

// notExecutable sorts the errors of finding and executing a program.
func notExecutable(name string, err error) *Refusal {
	r := &Refusal{Code: "run/not-executable", Exit: ExitNotExecutable, Err: fmt.Errorf("executing %s: %w", name, err)}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		r.Code, r.Exit = "run/not-found", ExitNotFound
	}
	return r
}
