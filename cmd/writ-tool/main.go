// Command writ-tool is the tool of a node and of its operator: it reads measured-boot
// logs, collects and verifies evidence, and provisions a node. People call it `writ`,
// which executes it for every command but `writ run`.
//
// Data goes to standard output, messages to standard error. Exit codes are the
// contract of exit.go.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/launch"
)

// version is set by the build (-ldflags -X main.version=...).
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the program as it is
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	report(stderr, cmd, err)
	return exitCode(err)
}

// newRoot makes the command tree: one constructor per command, listed here.
func newRoot() *cobra.Command {
	var config string
	root := &cobra.Command{
		Use:   "writ",
		Short: "Prove what machines run, and let work run only while it is proven",
		Long: `Writ proves what a machine booted and runs, with its TPM, and lets work run
only while that proof holds.

Exit codes: 0 legitimate, verified or parsed; 1 error; 2 usage or configuration;
3 appraised and denied; 4 evidence, signature, proof or log invalid, malformed
or empty; 5 unreachable or no quorum; 6 divergence; 7 no usable TPM or not
enrolled; 8 partial.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // needsCommand says what is wrong with them
		RunE:          needsCommand,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := launch.Settle(cmd.Flags(), config); err != nil {
				return exit(exitUsage, err, "")
			}
			return nil
		},
	}
	root.PersistentFlags().StringVar(&config, "config", os.Getenv("WRIT_CONFIG"), "configuration `file` (default "+launch.DefaultConfig+", if there is one)")
	root.SetVersionTemplate("writ {{.Version}}\n")
	root.AddCommand(
		newAgent(),
		newBundle(),
		newCollect(),
		newDev(),
		newEnclave(),
		newEventlog(),
		newPeer(),
		newVerifier(),
		newFreeze(false),
		newFreeze(true),
		newKeys(),
		newGate(),
		newIMA(),
		newJoinToken(),
		newSignIn(),
		newLineage(),
		newLog(),
		newNode(),
		newOCIHook(),
		newOperator(),
		newProvision(),
		newReference(),
		newRun(),
		newStatus(),
		newToken(),
		newVerify(),
		newVersion(),
	)
	root.SetHelpCommand(newHelp())
	complete(root)
	markErrors(root)
	return root
}
