package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/durable"
)

// devReady is the one line `writd dev` prints once it serves; `writ dev` reads it.
type devReady struct {
	Domain   string `json:"domain"`
	Verifier string `json:"verifier"` // https URL
	Admin    string `json:"admin"`    // http URL
	Operator string `json:"operator"` // file
}

// newDev runs the verifier of `writ dev`: a domain that ends in .invalid, on
// loopback only, in a marked directory. None of it can be had by configuration.
func newDev() *cobra.Command {
	var dir, listen, refKey, demo string
	var roots, set []string
	var life time.Duration
	var only bool
	cmd := &cobra.Command{Use: "dev --data DIR", Short: "Run the verifier of `writ dev`: loopback, for play only", Example: "  writ dev   # runs it", Args: wantArgs(),
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return misuse("--data DIR is needed; writ dev gives it")
			}
			host, _, err := net.SplitHostPort(listen)
			if err != nil || !loopback(host) {
				return unusable(fmt.Errorf("listening on %q: writd dev serves loopback only", listen))
			}
			c, err := decodeConfig([]byte(strings.Join(set, "\n")))
			if err != nil {
				return unusable(fmt.Errorf("reading --set: %w", err))
			}
			if !strings.HasSuffix(c.Domain, ".invalid") { // RFC 6761: nobody's, ever
				c.Domain = "dev.invalid"
			}
			c.Data, c.Listen, c.Admin = dir, listen, "127.0.0.1:0"
			c.Addresses, c.MinLevel, c.Approvals = []string{"localhost", "127.0.0.1"}, "E0", 1
			c.EKRoots, c.TokenLife, c.PublicEntries, c.LogLevel, c.LogFormat = roots, duration(life), true, "warn", "text"
			c.Public = opened{Pages: slices.Clone(openable), Evidence: true}
			if refKey != "" {
				pem, err := os.ReadFile(refKey)
				if err != nil {
					return unusable(err)
				}
				c.ReferenceKeys = []string{string(pem)}
			}
			if err := c.check(); err != nil || only {
				return unusable(err)
			}
			if demo != "" { // no configuration opens it
				c.Public.Pages = append(c.Public.Pages, "demo")
			}
			if err := mark(dir); err != nil {
				return err
			}
			v, err := open(cmd.Context(), c, newLogger(cmd.ErrOrStderr(), c), onOpen{})
			if err != nil {
				return err
			}
			defer v.Close()
			v.demo = demonstration(demo)
			return v.serve(cmd.Context(), c.Listen, c.Admin, func(public, admin net.Addr) error {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(devReady{Domain: c.Domain, Verifier: "https://" + public.String(), Admin: "http://" + admin.String(), Operator: filepath.Join(dir, "operator.pem")})
			})
		})}
	f := cmd.Flags()
	f.StringVar(&dir, "data", "", "data `directory`; it is marked, and refused by writd serve")
	f.StringVar(&listen, "listen", "127.0.0.1:0", "loopback `address`")
	f.StringVar(&refKey, "reference-key", "", "public key `file` that reference sets are signed with")
	f.StringSliceVar(&roots, "ek-root", nil, "`file` with the root of the software TPMs' maker")
	f.StringArrayVar(&set, "set", nil, "`line` of writd.toml, for what is not set by this command itself")
	f.BoolVar(&only, "check", false, "only see whether this could be served")
	f.StringVar(&demo, "demo", "", "unix `socket` of writ dev, which plays what the page /demo asks for; empty: there is no such page")
	f.DurationVar(&life, "token-life", time.Minute, "how long tokens live")
	return cmd
}

// mark claims a directory for play. One that a real verifier has used is left
// alone.
func mark(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	path := filepath.Join(dir, devMark)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the data directory: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			return unusable(fmt.Errorf("%s holds files that writd dev did not make; use an empty directory", dir))
		}
	}
	return durable.WriteFile(path, []byte("Made by writ dev: keys and TPM maker are for play. writd serve refuses this directory.\n"), 0o644)
}

// demonstration hands what the page /demo asks for on to writ dev; nil without it.
func demonstration(socket string) http.Handler {
	if socket == "" {
		return nil
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "demo"})
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
		FlushInterval: -1, // events, as they come
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { // it ends before we do
			w.WriteHeader(http.StatusBadGateway)
		},
	}
}
