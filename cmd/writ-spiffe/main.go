// Command writ-spiffe serves the SPIFFE Workload API on a node, with SVIDs that end with
// the node's token. It is a program of its own, so that nothing else on a node links
// gRPC, and off unless it is started.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/attestor/workload"
)

// version is set by the build (-ldflags -X main.version=...).
var version = "unknown"

// Exit codes, as those of writ.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitUnreached = 5
)

// failure is an error that came up while serving; all others are about how the
// program was called.
type failure struct {
	error
	code int
	hint string
}

func (f *failure) Unwrap() error { return f.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	f := &failure{err, exitUsage, "see 'writ-spiffe --help'"}
	errors.As(err, &f)
	fmt.Fprintf(os.Stderr, "writ-spiffe: error: %v\n", err)
	if f.hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", f.hint)
	}
	os.Exit(f.code)
}

func command() *cobra.Command {
	var agent, socket, file string
	cmd := &cobra.Command{
		Use:   "writ-spiffe --map FILE",
		Short: "Serve the SPIFFE Workload API with identities that end with the node's legitimacy",
		Long: `Answer the SPIFFE Workload API on a unix socket: X509-SVIDs and JWT-SVIDs that the
domain's verifier gives for this node's token, and that end with it.

Which process is which workload, --map says; what it does not match gets nothing:

  [[workload]]
  uid = 1000                                  # all that is given must match
  cgroup = "/system.slice/api.service"        # or, with / at the end, anything below
  executable = "sha256:..."                   # of the file that runs
  id = "workload/api"                         # path of the SPIFFE ID; without it the node's own
  audiences = ["https://db.example.org"]      # of JWT-SVIDs; without any there are none

The domain must allow it too: x509_svids, exchange_audiences and workloads of writd.
Run it as root or as the agent's own user: only they get SVIDs from the agent.

Exit codes: 0 told to stop; 1 error; 2 usage, or the map; 5 the agent does not answer.`,
		Version: version,
		Example: `  writ-spiffe --map workloads.toml --socket /run/writ/workload.sock
  SPIFFE_ENDPOINT_SOCKET=unix:///run/writ/workload.sock ./api`,
		SilenceUsage: true, SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("expected no argument, found %q", args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			entries, err := readMap(file)
			if err != nil {
				return err
			}
			return served(serve(cmd.Context(), agent, socket, entries))
		},
	}
	cmd.SetVersionTemplate("writ-spiffe {{.Version}}\n")
	f := cmd.Flags()
	f.StringVar(&agent, "agent", "/run/writ/agent.sock", "`path` of the agent's socket")
	f.StringVar(&socket, "socket", "/run/writ/workload.sock", "`path` of the socket to serve")
	f.StringVar(&file, "map", "", "TOML `file` that says which process is which workload")
	return cmd
}

// served says what to do about an error of serving.
func served(err error) error {
	var net *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &net) && net.Op == "dial" && errors.Is(err, fs.ErrPermission):
		return &failure{err, exitUnreached, "run it as root or as the agent's own user"}
	case errors.As(err, &net) && net.Op == "dial":
		return &failure{err, exitUnreached, "start writ agent, or name its socket with --agent"}
	}
	return &failure{err, exitFailed, ""}
}

func serve(ctx context.Context, agent, socket string, entries workload.Map) error {
	source := newAgent(agent)
	domain, node, err := source.whoami(ctx)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := workload.New(workload.Config{Domain: domain, Node: "node/" + node, Map: entries, Source: source, Log: log})
	if err != nil {
		return err
	}
	l, err := listen(socket)
	if err != nil {
		return err
	}
	log.Info("serving the Workload API", "socket", socket, "domain", domain, "workloads", len(entries))
	return s.Serve(ctx, l)
}

func readMap(file string) (workload.Map, error) {
	if file == "" {
		return nil, errors.New("--map FILE is needed: it says which process is which workload")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the map: %w", err)
	}
	defer f.Close()
	var m struct {
		Workload workload.Map `toml:"workload"`
	}
	var unknown *toml.StrictMissingError
	if err := toml.NewDecoder(f).DisallowUnknownFields().Decode(&m); errors.As(err, &unknown) {
		return nil, fmt.Errorf("reading the map %s: unknown key:\n%s", file, unknown.String())
	} else if err != nil {
		return nil, fmt.Errorf("reading the map %s: %w", file, err)
	}
	return m.Workload, nil
}

// listen opens the socket for everybody: who gets what, the kernel's word decides.
func listen(path string) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("opening the socket: %s is not a socket", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("opening the socket: another program answers at %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening the socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the socket: %w", err)
	}
	return l, nil
}
