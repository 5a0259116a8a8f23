// Command writd is the verifier of a domain: it challenges nodes, judges their
// evidence, keeps the history and issues tokens.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"strings"
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
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "writd: error: %v\n", err)
	if hint := hint(cmd, err); hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return exitCode(err)
}

// hint says what to do about errors whose text cannot know of this program, or that
// are about how a command was called.
func hint(cmd *cobra.Command, err error) string {
	var f failure
	switch {
	case !errors.As(err, &f), f.misused:
		return fmt.Sprintf("see '%s --help'", cmd.CommandPath())
	case errors.Is(err, fs.ErrPermission):
		return "run it as the user that writd runs as, whose files these are"
	case errors.Is(err, keys.ErrMissing) && cmd.Name() != "serve":
		return "a new domain gets its keys from the first writd serve; where there is a history, restore the keys folder from its backup"
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
	misused bool // the command's own help says more
}

func (f failure) Unwrap() error { return f.error }

// misuse is for how a command was called, where cobra cannot check that itself.
func misuse(format string, args ...any) error {
	return failure{exitUsage, fmt.Errorf(format, args...), true}
}

// unusable is for configuration, keys and files that a command was told to use.
func unusable(err error) error {
	if err == nil {
		return nil
	}
	return failure{code: exitUsage, error: err}
}

// wantArgs checks that a command has exactly the named arguments.
func wantArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		expected, found := "no argument", "none"
		if len(names) > 0 {
			expected = strings.Join(names, " ")
		}
		if len(args) > 0 {
			found = fmt.Sprintf("%q", args)
		}
		return fmt.Errorf("expected %s, found %s", expected, found)
	}
}

// needsCommand is the RunE of a command that only groups others.
func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("no command given")
	}
	cmd.SuggestionsMinimumDistance = min(2, len(args[0])/3)
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown command %q; did you mean %s?", args[0], near[0])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// newHelp is cobra's, but what there is no help about is a mistake.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND...]", Short: "Help about any command", Example: "  writd help serve",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return needsCommand(about, rest)
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

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
		Use:   "writd",
		Short: "The verifier of a Writ domain",
		Long: `The verifier of a Writ domain: it challenges nodes, judges their evidence, keeps
the history and issues tokens.

Exit codes: 0 done, or told to stop; 1 error; 2 usage, configuration, keys or guard
file; 4 fsck found something, or a backup is damaged; 6 the log was rolled back or
forked.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // needsCommand says what is wrong with them
		RunE:          needsCommand,
	}
	root.SetVersionTemplate("writd {{.Version}}\n")
	root.SetHelpCommand(newHelp())
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
		return failure{code: exitFailed, error: err}
	}
}

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Example: "  writd version --json", Args: wantArgs(), RunE: runs(func(cmd *cobra.Command, _ []string) error {
		if asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
				Version string `json:"version"`
				Go      string `json:"go"`
				OS      string `json:"os"`
				Arch    string `json:"arch"`
			}{version, runtime.Version(), runtime.GOOS, runtime.GOARCH})
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "writd %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	})}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func newCheckConfig() *cobra.Command {
	var path string
	cmd := &cobra.Command{Use: "check-config --config FILE", Short: "Check a configuration file and say what it means", Example: "  writd check-config --config writd.toml", Args: wantArgs(), RunE: runs(func(cmd *cobra.Command, _ []string) error {
		c, err := configured(path)
		if err != nil {
			return err
		}
		roots, err := c.ekRoots()
		if err != nil {
			return unusable(err)
		}
		devices, err := c.iakRoots()
		if err != nil {
			return unusable(err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "domain %s, verifier %s, data in %s\nnodes reach it at %s, tokens are issued by %s\n%d TPM makers' roots, %d of makers of devices, %d reference keys, %d approvals\n",
			c.Domain, c.Name, c.Data, c.Listen, c.issuer(), len(roots), len(devices), len(c.ReferenceKeys), c.Approvals)
		for _, w := range c.warnings(len(roots), len(devices)) {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
		}
		return nil
	})}
	cmd.Flags().StringVar(&path, "config", "", "configuration `file`")
	return cmd
}

func newExampleConfig() *cobra.Command {
	return &cobra.Command{Use: "example-config", Short: "Print a complete configuration with every key explained", Example: "  writd example-config > writd.toml", Args: wantArgs(), RunE: runs(func(cmd *cobra.Command, _ []string) error {
		_, err := cmd.OutOrStdout().Write(exampleConfig)
		return err
	})}
}

// warnings are what a configuration that could be served leaves to be desired.
func (c *config) warnings(roots, devices int) (out []string) {
	if c.Domain == exampleDomain {
		out = append(out, "domain is the example's, "+exampleDomain+": set a name you own before the first start, for it cannot be changed later")
	}
	if len(c.ReferenceKeys) == 0 {
		out = append(out, "no reference_keys: no reference set can be published, so nothing is ever granted; writ reference key makes one")
	}
	if roots+devices == 0 {
		out = append(out, `no TPM maker's root (ek_roots) and no device maker's (iak_roots): every node ends pending, and none is affirmed in hardware; ek_roots = ["vendors"] takes the makers that writd knows`)
	}
	if c.Approvals == 1 {
		out = append(out, "approvals = 1: one operator alone can put reference values into force and lift a freeze")
	}
	return out
}

// exampleDomain is the domain of example-config, which is nobody's.
const exampleDomain = "prod.example.org"

// configured reads the file that --config names.
func configured(path string) (*config, error) {
	if path == "" {
		return nil, misuse("--config FILE is needed; writd example-config prints one")
	}
	c, err := readConfig(path)
	if err != nil {
		return nil, unusable(err)
	}
	return c, nil
}
