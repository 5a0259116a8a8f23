package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/launch"
)

// exitRefused is what `writ run` adds to the codes of exit.go, with 124 (stopped
// because legitimacy lapsed), 126 and 127, which the keeper exits with.
const exitRefused = 125

func newRun() *cobra.Command {
	var o launch.Options
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
			if err := o.Check(); err != nil {
				return exit(exitRefused, fmt.Errorf("run/usage: %w", err), seeHelp(cmd))
			}
			code, err := o.Run(args)
			if err != nil {
				return exit(exitRefused, fmt.Errorf("run/no-keeper: %w", err), "")
			}
			return exit(code, nil, "") // COMMAND's own
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exit(exitRefused, fmt.Errorf("run/usage: %w", err), seeHelp(cmd))
	})
	o.Flags(cmd.Flags())
	return cmd
}
