package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/internal/launch"
	"github.com/writ-attestation/writ/internal/supervised"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

func newProvision() *cobra.Command {
	var t tpmFlags
	var dev deviceFlags
	var state, joinFile string
	var verifiers []string
	var showEK bool
	cmd := &cobra.Command{
		Use:   "provision --verifier URL --join-token-file FILE",
		Short: "Enrol this node's TPM with a domain",
		Long: `Prove to a verifier that this machine's TPM holds its endorsement keys and the
domain's attestation key, and remember the domain in the state directory. The
join token (from writ join-token create) also pins the verifier's CA. It is read
from a file, - for standard input, or from WRIT_JOIN_TOKEN; it is never an
argument, which other users could read.

A TPM without a certificate of a known maker can be vouched for by the maker of the
device: its IAK and IDevID certificates are read from the TPM, or from the files of
--iak-cert and --idevid-cert, their issuers behind them.

--show-ek prints the digest of this TPM's endorsement key and enrols nothing. A
join token made for it (writ join-token create --ek) needs no approval.

Exit codes: 0 enrolled and active; 2 usage, or no join token; 3 refused; 5 no
verifier answered, or not the one that the join token is for; 7 no usable TPM; 8
enrolled, but pending until an operator approves the node.`,
		Example: `  sudo writ provision --verifier https://verifier.example.org:8443 --join-token-file join.txt
  sudo writ provision --show-ek`,
		Args: wantArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if showEK {
				return t.printEK(cmd)
			}
			if len(verifiers) == 0 {
				return usageError(cmd, "--verifier URL is needed")
			}
			token, err := readJoinToken(cmd, joinFile)
			if err != nil {
				return err
			}
			certs, err := dev.read(cmd)
			if err != nil {
				return err
			}
			d, err := t.open()
			if err != nil {
				return err
			}
			defer d.Close()
			return provision(cmd, d, verifiers, token, state, certs)
		},
	}
	t.add(cmd)
	dev.add(cmd)
	f := cmd.Flags()
	f.StringVar(&state, "state", launch.DefaultState, "state `directory` of the node")
	f.StringSliceVar(&verifiers, "verifier", nil, "`URL` of a verifier (repeatable; the first one enrols)")
	f.StringVar(&joinFile, "join-token-file", "", "`file` with the join token, - for standard input (default WRIT_JOIN_TOKEN)")
	f.BoolVar(&showEK, "show-ek", false, "print the digest of the TPM's endorsement key and exit")
	return cmd
}

// provision enrols the TPM and remembers the domain in the state directory.
func provision(cmd *cobra.Command, d *device.TPM, verifiers []string, token, state string, certs [][]byte) error {
	c, err := client.Join(cmd.Context(), verifiers[0], token)
	if err != nil && !errors.Is(err, client.ErrUnreachable) {
		return exit(exitUsage, err, "")
	}
	if err != nil {
		return remoteError(err)
	}
	defer c.Close()
	trust, err := c.Domain(cmd.Context())
	if err != nil {
		return remoteError(err)
	}
	eks, err := d.EKs()
	if err != nil {
		return tpmError(err)
	}
	if err := attestor.Prepare(state, trust.Domain, tpm.NodeID(eks[0].Public)); err != nil {
		return exit(exitUsage, err, "")
	}
	out, err := attestor.Provision(cmd.Context(), d, c, trust.Domain, 1, token, certs...)
	if err != nil {
		return remoteError(tpmError(err))
	}
	e := attestor.Enrolment{Domain: trust.Domain, Node: out.Node, Generation: 1, Verifiers: verifiers, CA: string(c.CA())}
	if err := e.Save(state, trust); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s\n", out.Node)
	fmt.Fprintf(cmd.ErrOrStderr(), "enrolled in %s as %s, class %s: %s\n", trust.Domain, out.Node, out.Class, out.Status)
	if out.Status != "active" {
		if out.Reason != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "the TPM's maker is not confirmed: %s\n", out.Reason)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "hint: an operator approves it: writ node approve %s\n", out.Node)
		return exit(exitPartial, nil, "")
	}
	return nil
}

// printEK prints what `writ join-token create --ek` takes.
func (t *tpmFlags) printEK(cmd *cobra.Command) error {
	d, err := t.open()
	if err != nil {
		return err
	}
	defer d.Close()
	eks, err := d.EKs()
	if err != nil {
		return tpmError(fmt.Errorf("reading the TPM's endorsement keys: %w", err))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%x\n", sha256.Sum256(eks[0].Public.Marshal()))
	return err
}

// turning waits for the next beat of the agent's loop.
func turning(beats *atomic.Int64) func(context.Context) bool {
	return func(ctx context.Context) bool {
		before := beats.Load()
		for beats.Load() == before {
			select {
			case <-ctx.Done():
				return false
			case <-time.After(100 * time.Millisecond):
			}
		}
		return true
	}
}

// readJoinToken reads a join token and checks its form, before a TPM or anybody
// is asked.
func readJoinToken(cmd *cobra.Command, path string) (string, error) {
	text := os.Getenv("WRIT_JOIN_TOKEN")
	if path != "" {
		raw, err := readInput(cmd, path, 4096)
		if err != nil {
			return "", err
		}
		text = string(raw)
	} else if text == "" {
		return "", usageError(cmd, "--join-token-file FILE or WRIT_JOIN_TOKEN is needed")
	}
	text = strings.TrimSpace(text)
	if _, err := keys.ParseJoinToken(text); err != nil {
		return "", exit(exitUsage, err, "an operator makes one: writ join-token create --class CLASS")
	}
	return text, nil
}

// remoteError gives errors of talking to a verifier their exit code: its no is
// 3, a fork of its history 6, its silence 5.
func remoteError(err error) error {
	var e *exitError
	var r *protocol.Refusal
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case errors.As(err, &r) && r.Code == protocol.DomainFrozen:
		return exit(exitDiverged, err, "operators must decide; a freeze is lifted by: writ unfreeze")
	case errors.As(err, &r) && r.Code == protocol.NotFound:
		return exit(exitFailed, err, "")
	case errors.As(err, &r):
		return exit(exitDenied, err, "")
	case errors.Is(err, client.ErrUnreachable):
		return exit(exitUnreached, err, "check the address, and that writd runs there")
	}
	return err
}

func newAgent() *cobra.Command {
	var t tpmFlags
	var state, level, logFormat, pop string
	var verifiers []string
	var socket attestor.Socket
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Keep this node's token fresh and serve it locally",
		Long: `Attest this node to its domain's verifiers, renew its token at a third of its
life, and serve it to local keepers on a socket. The agent holds no kill switch:
if it dies, work runs to the deadline of its last token and not longer.

Root, the agent's own user and the users of --allow-uid may use the socket.`,
		Example: `  sudo writ agent
  writ agent --tpm swtpm:tpm.sock --state state --socket agent.sock`,
		Args: wantArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := attestor.LoadEnrolment(state)
			if err != nil {
				return tpmError(err)
			}
			trust, err := attestor.LoadTrust(state)
			if err != nil {
				return err
			}
			if len(verifiers) > 0 {
				e.Verifiers = verifiers
			}
			if pop != "lease" && pop != "tpm" {
				return usageError(cmd, "--pop takes lease or tpm, found %q", pop)
			}
			if level == "" {
				level = enclave.Detect().Level.String()
			}
			d, err := t.open()
			if err != nil {
				return err
			}
			defer d.Close()
			cfg := attestor.Config{Enrolment: *e, Trust: trust, Dir: state, TPM: d, Logs: t.logs(), Level: level, KeyInTPM: pop == "tpm", Log: newLogger(cmd.ErrOrStderr(), logFormat)}
			for _, address := range e.Verifiers {
				c, err := client.New(client.Config{URL: address, CA: []byte(e.CA), Domain: e.Domain})
				if err != nil {
					return exit(exitUsage, err, "")
				}
				defer c.Close()
				cfg.Verifiers = append(cfg.Verifiers, c)
			}
			return runAgent(cmd.Context(), cfg, socket)
		},
	}
	t.add(cmd)
	f := cmd.Flags()
	f.StringVar(&state, "state", launch.DefaultState, "state `directory` of the node")
	f.StringSliceVar(&verifiers, "verifier", nil, "use these verifier `URL`s instead of those from provisioning")
	f.StringVar(&socket.Path, "socket", attestor.SocketPath(), "`path` of the socket")
	f.UintSliceVar(new([]uint), "allow-uid", nil, "let this `user id` use the socket (repeatable)")
	f.StringVar(&level, "level", "", "highest enforcement `level` of this node (default: detected)")
	f.StringVar(&pop, "pop", "lease", "where the key that tokens are bound to lives: lease (in the agent) or `tpm`")
	f.StringVar(&logFormat, "log-format", "text", "log as text or json")
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		uids, err := cmd.Flags().GetUintSlice("allow-uid")
		for _, u := range uids {
			socket.UIDs = append(socket.UIDs, uint32(u))
		}
		return err
	}
	return cmd
}

func newLogger(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

func runAgent(ctx context.Context, cfg attestor.Config, socket attestor.Socket) error {
	var beats atomic.Int64
	cfg.Beat = func() { beats.Add(1) }
	a, err := attestor.New(cfg)
	if err != nil {
		return err
	}
	defer a.Close()
	l, err := socket.Listen()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- a.Serve(ctx, l, socket)
		cancel()
	}()
	supervised.Ready(cfg.Log)
	go supervised.Watch(ctx, cfg.Log, turning(&beats))
	err = tpmError(a.Run(ctx))
	supervised.Stopping(cfg.Log)
	cancel()
	return errors.Join(err, <-served)
}

// agentClient asks the agent on its socket.
func agentClient(socket string) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
}

// askAgent fetches a path of the agent; its refusals are problems.
func askAgent(ctx context.Context, socket, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	res, err := agentClient(socket).Do(req)
	if err != nil {
		hint := "start it: writ agent"
		if errors.Is(err, fs.ErrPermission) {
			hint = "run as root, or as a user who may open that socket"
		}
		return exit(exitUnreached, fmt.Errorf("asking the agent at %s: %w", socket, unwrapURL(err)), hint)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return exit(exitUnreached, fmt.Errorf("asking the agent: %w", err), "")
	}
	if res.StatusCode == http.StatusOK {
		return json.NewDecoder(bytes.NewReader(body)).Decode(v)
	}
	var p struct{ Title, Detail string }
	if err := json.Unmarshal(body, &p); err != nil {
		return fmt.Errorf("asking the agent: %s", res.Status)
	}
	code := exitUnreached
	if res.StatusCode == http.StatusForbidden {
		code = exitDenied
	}
	return exit(code, fmt.Errorf("%s: %s", p.Title, p.Detail), "")
}

func unwrapURL(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// exitNoCondition is the exit code of a condition that could not be looked at: to
// systemd everything from 1 to 254 means that it does not hold, and 255 that it failed
// (systemd.service(5), ExecCondition=).
const exitNoCondition = 255

func newStatus() *cobra.Command {
	var socket string
	var asJSON, condition bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether this node is legitimate now",
		Long: `Ask the agent whether this node has a valid token and, if not, why.

Exit codes: 0 legitimate; 3 not legitimate; 5 the agent does not answer.

With --condition they are for ExecCondition= of a systemd unit: 0 legitimate; 3 not
legitimate by the word of a verifier, so that the unit is skipped; 255 neither
agent nor verifier answers, so that it fails, and Restart= tries again.`,
		Example: `  writ status
  writ status --json | jq .expires`,
		Args: wantArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s attestor.Status
			if err := askAgent(cmd.Context(), socket, "/v1/status", &s); condition && err != nil {
				return exit(exitNoCondition, err, "start it: writ agent")
			} else if err != nil {
				return err
			}
			if asJSON {
				if err := writeJSON(cmd.OutOrStdout(), s); err != nil {
					return err
				}
			} else {
				printStatus(cmd.OutOrStdout(), &s)
			}
			if condition && !s.Legitimate && s.Unheard {
				return exit(exitNoCondition, nil, "")
			}
			if !s.Legitimate {
				return exit(exitDenied, nil, "")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&condition, "condition", false, "exit as ExecCondition= of systemd wants it")
	cmd.Flags().StringVar(&socket, "socket", attestor.SocketPath(), "`path` of the agent's socket")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func printStatus(w io.Writer, s *attestor.Status) {
	word := "not legitimate"
	if s.Legitimate {
		word = "legitimate"
	}
	fmt.Fprintf(w, "node    %s\ndomain  %s\nstate   %s\n", s.Node, s.Domain, word)
	if s.Legitimate {
		left := time.Until(time.Unix(s.Expires, 0)).Round(time.Second)
		fmt.Fprintf(w, "token   seq %d, %s left\n", s.Seq, left)
	}
	if s.Problem != "" {
		fmt.Fprintf(w, "problem %s\n", s.Problem)
	}
	var v struct {
		Findings []struct{ Code, Found, Next string }
	}
	if json.Unmarshal(s.Verdict, &v) == nil {
		for _, f := range v.Findings {
			fmt.Fprintf(w, "  %s\n    found %s\n    next  %s\n", f.Code, f.Found, f.Next)
		}
	}
}

func newToken() *cobra.Command {
	var socket, audience, proof string
	var certificate string
	var bearer bool
	cmd := &cobra.Command{
		Use:   "token [--audience A [--proof 'METHOD URL' | --client-cert FILE | --bearer]]",
		Short: "Print a token of this node",
		Long: `Print a fresh legitimacy token for an audience. It is bound to the agent's key:
whoever presents it must also prove possession. With --proof the agent proves it
for one request, and the two header lines of that request are printed.

With --client-cert it is bound to a client certificate instead (RFC 8705), which is
made for it and written to FILE with its key: it is a bearer token for connections
with that certificate.

With --bearer the token is exchanged for one that is bound to no key, for audiences
that the domain lists in exchange_audiences; only root and the agent's user get it.

Exit codes: 0 printed; 3 refused; 5 agent or verifier do not answer.`,
		Example: `  writ token
  writ token --audience https://api.example.org
  writ token --audience https://api.example.org --proof 'GET https://api.example.org/things' | curl -H @- https://api.example.org/things`,
		Args: wantArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"audience": {audience}}
			if certificate != "" {
				if audience == "" || proof != "" || bearer {
					return usageError(cmd, "--client-cert needs --audience, and neither --proof nor --bearer goes with it")
				}
				var got attestor.Bound
				if err := askAgent(cmd.Context(), socket, "/v1/bound?"+query.Encode(), &got); err != nil {
					return err
				}
				if err := durable.WriteFile(certificate, []byte(got.Certificate), 0o600); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), got.Token)
				return err
			}
			if bearer {
				if audience == "" || proof != "" {
					return usageError(cmd, "--bearer needs --audience, and no proof goes with it")
				}
				var got protocol.Exchanged
				if err := askAgent(cmd.Context(), socket, "/v1/bearer?"+query.Encode(), &got); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), got.Token)
				return err
			}
			if proof != "" {
				method, target, _ := strings.Cut(proof, " ")
				if u, err := url.Parse(target); err != nil || u.Host == "" || method != strings.ToUpper(method) || audience == "" {
					return usageError(cmd, "--proof takes 'METHOD URL', like 'GET https://api.example.org/things', and needs --audience")
				}
				query.Set("htm", method)
				query.Set("htu", target)
			}
			var g struct {
				protocol.Grant
				Proof string `json:"proof"`
			}
			if err := askAgent(cmd.Context(), socket, "/v1/token?"+query.Encode(), &g); err != nil {
				return err
			}
			if proof != "" {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "Authorization: DPoP %s\nDPoP: %s\n", g.Token, g.Proof)
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), g.Token)
			return err
		},
	}
	cmd.Flags().StringVar(&socket, "socket", attestor.SocketPath(), "`path` of the agent's socket")
	cmd.Flags().StringVar(&audience, "audience", "", "`audience` of the token (default the domain's enclave)")
	cmd.Flags().StringVar(&certificate, "client-cert", "", "bind it to a client certificate, written to this `file`")
	cmd.Flags().BoolVar(&bearer, "bearer", false, "exchange it for a bearer token")
	cmd.Flags().StringVar(&proof, "proof", "", "print the headers of this `request` instead")
	return cmd
}
