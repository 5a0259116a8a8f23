package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/enclave/gate"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/rotation"
)

// gateFlags are those of writ gate.
type gateFlags struct {
	remote                                       operatorFlags
	trust, audience, origin, proxy, listen, logs string
	upstream                                     string
	status                                       string
	noFeed, certificates                         bool
	peers                                        []string
}

func newGate() *cobra.Command {
	g := new(gateFlags)
	cmd := &cobra.Command{
		Use:   "gate --trust FILE --audience A --origin URL (--proxy NAME | --upstream URL)",
		Short: "Let requests through only with a live legitimacy token",
		Long: `Answer a proxy that asks about each request at /v1/authz (nginx auth_request,
Caddy forward_auth, Traefik ForwardAuth, Envoy ext_authz over HTTP), or forward
requests to a service itself.

A request passes with a token for the gate's audience and a proof of possession
made for this very request (DPoP, RFC 9449): 204 with the time left, else 401
or 503. Only the token's signature is remembered between requests. What the gate
forwards is cut off when its token ends.

The gate follows the verifier's feed of revocations (--verifier, --operator with
the role relying-party) and lets nothing through while it is silent. With --no-feed
it does without. It also looks each token up in the status list that the token
names, fetched from the verifier every 10 seconds: where it cannot be had any more,
nothing passes, unless --status is optional. With --no-feed and --status off, or no
--verifier, a revoked token passes until it expires.

Tokens of another domain pass where --peer names it, for the same audience and with
the same proof, as long as the gate's own verifier says of each that it counts: it
is asked at least every 3 seconds while one is used. What it says ends when the
domain is removed there, diverges or falls silent (writ peer).

Let only the proxy reach --listen: what it says of a request is believed.`,
		Example: `  writ gate --trust trust.json --audience https://api.example.org --origin https://api.example.org \
    --proxy caddy --verifier https://verifier.example.org:8443 --operator gate.pem
  writ gate --trust trust.json --audience https://api.example.org --origin https://api.example.org \
    --upstream http://127.0.0.1:8080 --no-feed`,
		Args: wantArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return g.run(cmd) },
	}
	g.remote.add(cmd)
	f := cmd.Flags()
	_ = f.MarkHidden("json")
	f.StringVar(&g.trust, "trust", "", "trust `file` of the domain")
	f.StringVar(&g.audience, "audience", "", "`audience` that tokens must be for")
	f.StringVar(&g.origin, "origin", "", "scheme and host that clients use, a `URL`")
	f.StringVar(&g.proxy, "proxy", "", "the proxy that asks: "+gate.Proxies())
	f.BoolVar(&g.certificates, "client-certificates", false, "let tokens pass that are bound to client certificates, which the proxy names: see docs/operations.md")
	f.StringVar(&g.listen, "listen", "127.0.0.1:8480", "`address` to listen on, or unix:PATH")
	f.StringVar(&g.upstream, "upstream", "", "forward to this `URL` what passes")
	f.BoolVar(&g.noFeed, "no-feed", false, "do without the feed of revocations")
	f.StringVar(&g.status, "status", "", "status lists: required, optional or off (default required, off without a verifier)")
	f.StringArrayVar(&g.peers, "peer", nil, "let tokens of this `domain` pass, which the verifier has recognised (repeatable)")
	f.StringVar(&g.logs, "log-format", "text", "log as text or json")
	return cmd
}

func (g *gateFlags) run(cmd *cobra.Command) error {
	if g.trust == "" {
		return usageError(cmd, "--trust FILE is needed: provisioning writes one, or get it from the domain: GET /v1/domain")
	}
	trust, err := readTrust(cmd, g.trust)
	if err != nil {
		return err
	}
	log := newLogger(cmd.ErrOrStderr(), g.logs)
	cfg := gate.Config{
		Issuer: trust.IssuerURL(), Domain: trust.Domain, Keys: trust.TokenKeys, LogKeys: trust.Log, Root: trust.Root, Audience: g.audience,
		Origin: g.origin, Proxy: gate.Proxy(g.proxy), Certificates: g.certificates, Feed: !g.noFeed, Now: time.Now, Log: log,
	}
	if g.upstream != "" {
		if cfg.Upstream, err = url.Parse(g.upstream); err != nil || cfg.Upstream.Host == "" {
			return usageError(cmd, "--upstream takes a URL, like http://127.0.0.1:8080, found %q", g.upstream)
		}
	}
	remote, err := g.connect(cmd, &cfg)
	if err != nil {
		return err
	}
	if remote != nil {
		defer remote.Close()
	}
	guard, err := gate.New(cfg)
	if err != nil {
		return exit(exitUsage, err, "see writ gate --help")
	}
	l, err := listenOn(g.listen)
	if err != nil {
		return exit(exitUsage, err, "")
	}
	log.Info("gate listens", "address", l.Addr().String(), "audience", g.audience, "feed", cfg.Feed)
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if cfg.Feed {
		go feed(ctx, remote, guard, log)
	}
	go guard.KeepStatuses(ctx)
	go guard.KeepPeers(ctx)
	srv := guard.Server()
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the gate: %w", err)
	}
	return nil
}

// connect makes the client that feed and status lists come by, nil if neither does.
func (g *gateFlags) connect(cmd *cobra.Command, cfg *gate.Config) (*client.Client, error) {
	status := g.status
	if status == "" {
		status = "required"
		if g.noFeed && g.remote.verifier == "" {
			status = "off"
		}
	}
	if status != "required" && status != "optional" && status != "off" {
		return nil, usageError(cmd, "--status takes required, optional or off, found %q", status)
	}
	cfg.Statuses.Ignored = status == "off"
	if !cfg.Feed && status == "off" && len(g.peers) == 0 {
		return nil, nil
	}
	remote, err := g.remote.dial(cmd)
	if err == nil && status != "off" {
		cfg.Statuses = gate.Statuses{Optional: status == "optional", Fetch: func(ctx context.Context, uri string) (string, error) {
			return remote.StatusList(ctx, strings.TrimPrefix(uri, cfg.Issuer))
		}}
	}
	if err == nil && len(g.peers) > 0 {
		cfg.Peers = gate.Peers{Domains: g.peers, Ask: func(ctx context.Context, tok string) (bool, error) {
			said, err := remote.Introspect(ctx, tok)
			return err == nil && said.Active, err
		}}
	}
	return remote, err
}

// feed follows the verifier's events until ctx ends, connecting again with
// scattered pauses. While it does not succeed the gate lets nothing through.
func feed(ctx context.Context, c *client.Client, g *gate.Gate, log *slog.Logger) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	for ctx.Err() == nil {
		err := c.Feed(ctx, g.Alive, func(kind, data string) {
			pause.Reset()
			switch kind {
			case "revocation":
				if err := g.Event(data); err != nil {
					log.Warn("following revocations", "error", err)
				}
			case "keys":
				var entries []rotation.Entry
				err := json.Unmarshal([]byte(data), &entries)
				if err == nil {
					err = g.Learn(entries)
				}
				if err != nil {
					log.Warn("following token keys", "error", err)
				}
			case "since":
				if s, err := strconv.ParseInt(data, 10, 64); err == nil {
					g.Since(time.Unix(s, 0))
				}
			}
		})
		if ctx.Err() != nil {
			return
		}
		log.Warn("the feed of revocations ended; nothing passes until it is back", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// listenOn listens on host:port or unix:PATH.
func listenOn(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSocket {
			_ = os.Remove(path) // an earlier gate's; if that one lives, it is asked no more
		}
		return net.Listen("unix", path)
	}
	return net.Listen("tcp", address)
}
