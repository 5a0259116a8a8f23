package enclave

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/writ-attestation/writ/enclave/supervisor"
)

// Exit codes of `writ run`, beside the work's own and 128+n when a signal ended it.
const (
	ExitStopped       = supervisor.ExitStopped
	ExitRefused       = supervisor.ExitRefused
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

// noTrust says what to do about a trust file that cannot be used.
func noTrust(path string, err error) *Refusal {
	r := &Refusal{Code: "run/trust", Err: err, Cure: "provision this node, or name the trust file with --trust"}
	switch {
	case errors.Is(err, fs.ErrPermission):
		r.Cure = fmt.Sprintf("user %d may not read %s; it holds no secret: let that user read it and its directories, give a copy with --trust, or run this as root", os.Geteuid(), path)
	case !errors.Is(err, fs.ErrNotExist):
		r.Cure = "get it anew: provision this node again, or save what the verifier serves at /v1/domain"
	}
	return r
}

// noAgent says what to do about an agent that does not answer.
func noAgent(err error) *Refusal {
	r := &Refusal{Code: "run/agent-unreachable", Err: err, Cure: "start `writ agent`, or name its socket with --socket"}
	if errors.Is(err, fs.ErrPermission) {
		r.Cure = fmt.Sprintf("user %d may not open that socket; run this as root or as the agent's user, or start the agent with --allow-uid %[1]d", os.Geteuid())
	}
	return r
}

// refused says what to do about a no: the agent's, or its verifier's.
func refused(a *answer) *Refusal {
	r := &Refusal{Code: "run/denied", Err: fmt.Errorf("asking for a token: %s", a.why())}
	switch a.Title {
	case "peer-not-allowed":
		r.Cure = fmt.Sprintf("start the agent with --allow-uid %d, or run this as root", os.Geteuid())
	case "node-not-active", "token-revoked":
		r.Cure = "`writ status` says what the verifier holds against this node; a suspended or pending one runs work again once an operator approves it: writ node approve NODE"
	case "policy-denied":
		r.Cure = "`writ status` shows each finding and what to do about it"
	case "domain-frozen":
		r.Cure = "operators stopped the whole domain; it runs again when enough of them agree: writ unfreeze"
	}
	return r
}

// notExecutable sorts the errors of finding and executing a program.
func notExecutable(name string, err error) *Refusal {
	r := &Refusal{Code: "run/not-executable", Exit: ExitNotExecutable, Err: fmt.Errorf("executing %s: %w", name, err)}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		r.Code, r.Exit = "run/not-found", ExitNotFound
	}
	return r
}
