package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes (docs: "Commands"). `writ run` passes on its child's code instead.
const (
	exitOK        = 0 // legitimate, verified, parsed (also with findings)
	exitFailed    = 1 // any other error
	exitUsage     = 2 // usage or configuration
	exitDenied    = 3 // appraised and denied
	exitInvalid   = 4 // evidence, signature, proof or log invalid, malformed or empty
	exitUnreached = 5 // unreachable or no quorum
	exitDiverged  = 6
	exitNoTPM     = 7 // no usable TPM or not enrolled
	exitPartial   = 8 // a truncated tail, something skipped
)

// An exitError says how a command ends. A nil err ends it silently, for a
// command whose output has said it all.
type exitError struct {
	code int
	err  error
	hint string // what to do next; "" if the error says it
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exit makes a command's error end the program with code.
func exit(code int, err error, hint string) error { return &exitError{code, err, hint} }

// usageError is for arguments that cobra cannot check itself.
func usageError(cmd *cobra.Command, format string, args ...any) error {
	return exit(exitUsage, fmt.Errorf(format, args...), seeHelp(cmd))
}

func seeHelp(cmd *cobra.Command) string { return fmt.Sprintf("see '%s --help'", cmd.CommandPath()) }

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

// needsCommand is the RunE of a command that only groups others: running it
// alone is a mistake, and must not look like success to a script.
func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError(cmd, "no command given")
	}
	err := fmt.Errorf("unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = min(2, len(args[0])/3)
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return exit(exitUsage, err, fmt.Sprintf("did you mean '%s %s'? All are in '%s --help'", cmd.CommandPath(), near[0], cmd.CommandPath()))
	}
	return exit(exitUsage, err, seeHelp(cmd))
}

// newHelp is cobra's, but what there is no help about is a mistake.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND...]",
		Short:   "Help about any command",
		Example: "  writ help node revoke",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usageError(cmd.Root(), "%v", err)
			}
			if len(rest) > 0 {
				return needsCommand(about, rest)
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// A runError marks an error that a command returned while running. All other
// errors come from cobra and are about how the command was called.
type runError struct{ error }

func (e runError) Unwrap() error { return e.error }

// markErrors makes the errors of cmd and all commands below it runErrors.
func markErrors(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := run(cmd, args); err != nil {
				return runError{err}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		markErrors(c)
	}
}

// exitCode is the one mapping from errors to exit codes.
func exitCode(err error) int {
	var e *exitError
	var r runError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		return e.code
	case errors.As(err, &r):
		return exitFailed
	}
	return exitUsage
}

// report writes the error line of cmd, and the hint if there is one.
func report(w io.Writer, cmd *cobra.Command, err error) {
	var e *exitError
	var r runError
	hint := ""
	switch {
	case err == nil:
		return
	case errors.As(err, &e):
		if e.err == nil {
			return
		}
		hint = e.hint
	case !errors.As(err, &r):
		hint = seeHelp(cmd)
	}
	fmt.Fprintf(w, "writ: error: %v\n", err)
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
}
