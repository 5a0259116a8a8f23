// Command writd is the verifier of a domain: it challenges nodes, judges their
// evidence, keeps the history and issues tokens.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// version is set by the build (-ldflags -X main.version=...).
var version = "unknown"

// Exit codes, as those of writ.
const (
	exitFailed   = 1
	exitUsage    = 2 // usage, configuration, keys
	exitInvalid  = 4 // fsck found something
	exitDiverged = 6 // the log was rolled back or forked
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the program as it is
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "writd: error: %v\n", err)
	if hint := hint(err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return exitCode(err)
}

// hint says what to do about errors whose text cannot know of this program.
func hint(err error) string {
	switch {
	case errors.Is(err, ledger.ErrNoGuard):
		return "if nothing can have been lost: writd serve --config FILE --adopt, once"
	case errors.Is(err, ledger.ErrRolledBack):
		return "put the newest database back; revocations may be missing from this one"
	}
	return ""
}

// failure is an error that came up while a command ran; all others are about
// how it was called.
type failure struct {
	code int
	error
}

func (f failure) Unwrap() error { return f.error }

// exitCode is the one mapping from errors to exit codes.
func exitCode(err error) int {
	var f failure
	switch {
	case errors.Is(err, ledger.ErrRolledBack):
		return exitDiverged
	case errors.Is(err, keys.ErrMissing), errors.Is(err, ledger.ErrKey), errors.Is(err, ledger.ErrNoGuard):
		return exitUsage
	case errors.As(err, &f):
		return f.code
	}
	return exitUsage
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "writd",
		Short:         "The verifier of a Writ domain",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return errors.New("no command given; see writd --help")
		},
	}
	root.AddCommand(newServe(), newDev(), newCheckConfig(), newExampleConfig(), newMigrate(), newFsck(), newPrune(), newBackup(), newRestore(), newIssueOperator(), newInvite(), newJoin(), newReference(), newEKRoots(), newVersion())
	return root
}

// runs wraps what a command does, so that its errors exit with 1.
func runs(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd, args)
		var g failure
		if err == nil || errors.As(err, &g) {
			return err
		}
		return failure{exitFailed, err}
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Example: "  writd version", Args: cobra.NoArgs, RunE: runs(func(cmd *cobra.Command, _ []string) error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "writd %s\n", version)
		return err
	})}
}

func newCheckConfig() *cobra.Command {
	var path string
	cmd := &cobra.Command{Use: "check-config --config FILE", Short: "Check a configuration file and say what it means", Example: "  writd check-config --config writd.toml", Args: cobra.NoArgs, RunE: runs(func(cmd *cobra.Command, _ []string) error {
		c, err := configured(path)
		if err != nil {
			return err
		}
		roots, err := c.ekRoots()
		if err != nil {
			return failure{exitUsage, err}
		}
		devices, err := c.iakRoots()
		if err != nil {
			return failure{exitUsage, err}
		}
		fmt.Fprintf(cmd.OutOrStdout(), "domain %s, verifier %s, data in %s\nnodes reach it at %s, tokens are issued by %s\n%d TPM makers' roots, %d of makers of devices, %d reference keys, %d approvals\n",
			c.Domain, c.Name, c.Data, c.Listen, c.issuer(), len(roots), len(devices), len(c.ReferenceKeys), c.Approvals)
		if len(c.ReferenceKeys) == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning: no reference_keys: no reference set can be published, so nothing is ever granted")
		}
		return nil
	})}
	cmd.Flags().StringVar(&path, "config", "", "configuration `file`")
	return cmd
}

func newExampleConfig() *cobra.Command {
	return &cobra.Command{Use: "example-config", Short: "Print a complete configuration with every key explained", Example: "  writd example-config > writd.toml", Args: cobra.NoArgs, RunE: runs(func(cmd *cobra.Command, _ []string) error {
		_, err := cmd.OutOrStdout().Write(exampleConfig)
		return err
	})}
}

// configured reads the file that --config names.
func configured(path string) (*config, error) {
	if path == "" {
		return nil, failure{exitUsage, errors.New("--config FILE is needed; writd example-config prints one")}
	}
	c, err := readConfig(path)
	if err != nil {
		return nil, failure{exitUsage, err}
	}
	return c, nil
}
