// Command writ-nri is a plugin of containerd and CRI-O (Node Resource Interface): a
// container that asks for it, by the annotation writ-attestation.github.io/hold of its
// pod, starts only with a legitimacy token, and is killed when that ends.
//
// It is a program of its own because what it links to speak with the engine is larger
// than all of writ.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/containerd/nri/pkg/stub"

	"github.com/writ-attestation/writ/enclave/nri"
)

// version is set by the build (-ldflags -X main.version=...).
var version = "unknown"

const about = `Hold containers that containerd or CRI-O start: one whose pod bears the annotation
writ-attestation.github.io/hold: "true" starts only with a legitimacy token, and is
killed when that ends. The engine must have NRI enabled; writ agent must run here.

Usage:
  writ-nri [flags]

Examples:
  writ-nri --socket /run/writ/agent.sock --trust /var/lib/writ/trust.json

Exit codes: 0 told to stop; 1 the engine cannot be reached, or another error; 2 usage.

Flags:
`

// misuse is what is wrong with how the program was called.
type misuse struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "writ-nri: error: %v\n", err)
	code, hint := 1, ""
	switch {
	case errors.As(err, new(misuse)):
		code, hint = 2, "see 'writ-nri --help'"
	case errors.Is(err, fs.ErrPermission):
		hint = "the engine's socket and cgroups are root's: run it as root"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		hint = "start containerd or CRI-O with NRI enabled, or name its socket with --nri-socket"
	}
	if hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	cfg := nri.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for writ-keeper: %w", err)
	}
	flag := flag.NewFlagSet("writ-nri", flag.ContinueOnError)
	flag.SetOutput(io.Discard)
	flag.StringVar(&cfg.Keeper, "keeper", filepath.Join(filepath.Dir(self), "writ-keeper"), "`path` of writ-keeper")
	flag.StringVar(&cfg.Socket, "socket", "/run/writ/agent.sock", "`path` of the agent's socket")
	flag.StringVar(&cfg.Trust, "trust", "/var/lib/writ/trust.json", "trust `file`")
	flag.StringVar(&cfg.Audience, "audience", "", "`audience` of the tokens (default the domain's enclave)")
	index := flag.String("index", "90", "two `digits`: where among the engine's plugins this one is asked")
	socket := flag.String("nri-socket", "/var/run/nri/nri.sock", "`path` of the engine's socket")
	shown := flag.Bool("version", false, "print the version")
	if err := flag.Parse(args); isHelp(err) {
		fmt.Fprint(stdout, about)
		flag.SetOutput(stdout)
		flag.PrintDefaults()
		return nil
	} else if err != nil {
		return misuse{err}
	}
	if flag.NArg() > 0 {
		return misuse{fmt.Errorf("expected no argument, found %q", flag.Args())}
	}
	if *shown {
		_, err := fmt.Fprintf(stdout, "writ-nri %s\n", version)
		return err
	}
	p, err := nri.New(cfg)
	if err != nil {
		return err
	}
	var opts []stub.Option
	if os.Getenv("NRI_PLUGIN_IDX") == "" { // the engine started it, and knows its place
		opts = append(opts, stub.WithPluginIdx(*index), stub.WithSocketPath(*socket))
	}
	return p.Serve(ctx, opts...)
}

// isHelp reports that help was asked for.
func isHelp(err error) bool { return errors.Is(err, flag.ErrHelp) }
