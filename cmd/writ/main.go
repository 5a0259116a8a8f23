// Command writ starts work under the keeper (`writ run`), and for every other command
// becomes writ-tool, which is installed beside it. It is a program of its own because
// `writ run` is on the way of every execution: what verifies evidence takes longer to
// get ready than many a command takes to run.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/writ-attestation/writ/enclave/supervisor"
	"github.com/writ-attestation/writ/internal/launch"
)

func main() {
	if exit, ok := run(os.Args[1:]); ok {
		os.Exit(exit)
	}
	// What could not be done here, writ-tool does again, and says what is wrong with it.
	tool, err := findTool()
	if err == nil {
		err = fmt.Errorf("executing %s: %w", tool, syscall.Exec(tool, os.Args, os.Environ()))
	}
	fmt.Fprintf(os.Stderr, "writ: error: %v\n", err)
	os.Exit(supervisor.ExitRefused)
}

// run is `writ run` as it is meant to be called; anything else is not ok.
func run(args []string) (exit int, ok bool) {
	config := os.Getenv("WRIT_CONFIG")
	global := flags(&config)
	global.SetInterspersed(false)
	if global.Parse(args) != nil || global.Arg(0) != "run" {
		return 0, false
	}
	var o launch.Options
	f := flags(&config)
	o.Flags(f)
	if f.Parse(global.Args()[1:]) != nil || f.NArg() == 0 || launch.Settle(f, config) != nil || o.Check() != nil {
		return 0, false
	}
	exit, err := o.Run(f.Args())
	return exit, err == nil
}

// flags is a set with the one flag that every command has; it says nothing itself.
func flags(config *string) *pflag.FlagSet {
	f := pflag.NewFlagSet("writ", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.StringVar(config, "config", *config, "")
	return f
}

// findTool prefers the one installed with this program.
func findTool() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "writ-tool")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("writ-tool")
	if err != nil {
		return "", fmt.Errorf("looking for writ-tool beside writ and in PATH: %w; install it too", err)
	}
	return path, nil
}
