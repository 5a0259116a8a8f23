package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/launch"
)

func newEnclave() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enclave",
		Short: "Look after what holds work on this node",
		RunE:  needsCommand,
	}
	cmd.AddCommand(newProveHalt())
	return cmd
}

func newProveHalt() *cobra.Command {
	var nonce, level, socket, state, trust string
	cmd := &cobra.Command{
		Use:   "prove-halt --nonce HEX",
		Short: "Show that this node can still halt work",
		Long: `Start a sacrificial tree of processes in a cgroup of its own and halt it, once by
each key alone: the keeper's kill, the kernel's timer on a stopped keeper, the
init's own watch, and the keeper's death. Nonce and latencies are signed like
the end of an execution, printed, and sent to the history through the agent.

A verifier with prove_halt_every gives no token for an execution to a node whose
last proof is older. Exit codes: 0 every key halted it; 1 one did not, or
nothing could be tried.`,
		Example: `  writ enclave prove-halt --nonce $(openssl rand -hex 16)`,
		Args:    wantArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b, err := hex.DecodeString(nonce); err != nil || len(b) < 8 || len(b) > 64 {
				return usageError(cmd, "--nonce %q: expected 8 to 64 bytes in hexadecimal", nonce)
			}
			keeper, err := launch.FindKeeper()
			if err != nil {
				return exit(exitFailed, err, "")
			}
			if socket == "" {
				socket = launch.DefaultSocket()
			}
			if trust == "" {
				trust = filepath.Join(state, "trust.json")
			}
			args := []string{keeper, "-prove-halt", nonce, "-level", level, "-socket", socket, "-trust", trust}
			return exit(exitFailed, fmt.Errorf("executing %s: %w", keeper, syscall.Exec(keeper, args, os.Environ())), "")
		},
	}
	f := cmd.Flags()
	f.StringVar(&nonce, "nonce", "", "`hex` bytes that whoever asks has drawn")
	f.StringVar(&level, "level", "E3", "enforcement `level` to prove")
	f.StringVar(&socket, "socket", "", "`path` of the agent's socket (default as for run)")
	f.StringVar(&state, "state", launch.DefaultState, "state `directory` of the node")
	f.StringVar(&trust, "trust", "", "trust `file` (default trust.json in the state directory)")
	return cmd
}
