// Command writ-nri is a plugin of containerd and CRI-O (Node Resource Interface): a
// container that asks for it, by the annotation writ-attestation.github.io/hold of its
// pod, starts only with a legitimacy token, and is killed when that ends.
//
// It is a program of its own because what it links to speak with the engine is larger
// than all of writ.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/containerd/nri/pkg/stub"

	"github.com/writ-attestation/writ/enclave/nri"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "writ-nri: error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := nri.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for writ-keeper: %w", err)
	}
	flag.StringVar(&cfg.Keeper, "keeper", filepath.Join(filepath.Dir(self), "writ-keeper"), "`path` of writ-keeper")
	flag.StringVar(&cfg.Socket, "socket", "/run/writ/agent.sock", "`path` of the agent's socket")
	flag.StringVar(&cfg.Trust, "trust", "/var/lib/writ/trust.json", "trust `file`")
	flag.StringVar(&cfg.Audience, "audience", "", "`audience` of the tokens (default the domain's enclave)")
	index := flag.String("index", "90", "two `digits`: where among the engine's plugins this one is asked")
	socket := flag.String("nri-socket", "/var/run/nri/nri.sock", "`path` of the engine's socket")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
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
