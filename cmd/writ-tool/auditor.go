package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// logFlags say which log is read from outside, and whose keys it must have.
type logFlags struct {
	operatorFlags
	log, ca, trust string
}

func (o *logFlags) add(cmd *cobra.Command) {
	o.operatorFlags.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.log, "log", "", "`URL` of the log (https://host/log), or of a copy of it; else the verifier's, as an operator")
	f.StringVar(&o.ca, "ca", "", "certificate authority of that URL, PEM `file` (default the system's)")
	f.StringVar(&o.trust, "trust", "", "trust `file` of the domain: the log's keys")
}

// open returns the log as a source of resources. What comes from it is believed
// by the trust file's keys alone, whatever the connection.
func (o *logFlags) open(cmd *cobra.Command) (ledger.Fetch, *bundle.Trust, error) {
	if o.trust == "" {
		return nil, nil, usageError(cmd, "--trust FILE is needed: a log's own keys vouch for nothing")
	}
	t, err := readTrust(cmd, o.trust)
	if err != nil {
		return nil, nil, err
	}
	if o.log != "" {
		fetch, err := fetchHTTP(cmd, o.log, o.ca)
		return fetch, t, err
	}
	c, err := o.dial(cmd)
	if err != nil {
		return nil, nil, err
	}
	return fetchFrom(c), t, nil
}

// errForbidden: a resource is not for whoever asks.
var errForbidden = errors.New("not readable with this access")

func fetchFrom(c *client.Client) ledger.Fetch {
	return func(ctx context.Context, path string) ([]byte, error) {
		if path == "checkpoint" {
			return c.Checkpoint(ctx)
		}
		b, err := c.Tile(ctx, path)
		if r := (*protocol.Refusal)(nil); errors.As(err, &r) {
			if r.Code == protocol.Pruned {
				return nil, ledger.ErrPruned
			}
			if r.Code == protocol.NotFound {
				return nil, ledger.ErrNotFound
			}
			return nil, fmt.Errorf("%w: %w", errForbidden, err)
		}
		return b, err
	}
}

// maxResource bounds what is read of a log at once: a full bundle of the longest
// entries.
const maxResource = 256 * (2 + ledger.MaxEntry)

func fetchHTTP(cmd *cobra.Command, url, ca string) (ledger.Fetch, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS13}
	if ca != "" {
		raw, err := readInput(cmd, ca, 1<<20)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(raw) {
			return nil, exit(exitUsage, fmt.Errorf("%s: no certificate in PEM", ca), "")
		}
	}
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	return func(ctx context.Context, path string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/"+path, nil)
		if err != nil {
			return nil, err
		}
		resp, err := c.Do(req)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", client.ErrUnreachable, err)
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
		case http.StatusGone:
			return nil, ledger.ErrPruned
		case http.StatusNotFound:
			return nil, ledger.ErrNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			return nil, errForbidden
		default:
			return nil, fmt.Errorf("%w: %s answered %s", client.ErrUnreachable, url, resp.Status)
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxResource+1))
		if err == nil && len(b) > maxResource {
			err = fmt.Errorf("more than %d bytes", maxResource)
		}
		return b, err
	}, nil
}

// logError gives what an outsider finds its exit code.
func logError(err error) error {
	switch {
	case errors.Is(err, ledger.ErrDiverged):
		return exit(exitDiverged, err, "keep both checkpoints: together they prove it to anybody; stop trusting the log")
	case errors.Is(err, ledger.ErrKey), errors.Is(err, ledger.ErrCorrupt), errors.Is(err, ledger.ErrNotFound):
		return exit(exitInvalid, err, "")
	case errors.Is(err, errForbidden):
		return exit(exitDenied, err, "entries need an operator with the auditor role, or public_entries")
	}
	return remoteError(err)
}

func newLogFsck() *cobra.Command {
	o := new(logFlags)
	cmd := &cobra.Command{
		Use:   "fsck --trust FILE",
		Short: "Derive a log's tree again from outside",
		Long: `Read every entry and tile of a log over HTTP, as anybody could, and derive the
tree again: each entry has the form and the hash it must have, times never go
back, tiles hold the hashes below them, and all of it has the root that was
signed. Where entries are not for everybody (and no auditor asks), their hashes
are checked alone, and the exit code is 8.

Exit codes: 0 clean; 4 something does not hold, each named; 8 hashes alone;
5 unreachable.`,
		Example: "  writ log fsck --trust trust.json --log https://writ.example.org/log\n  writ log fsck --trust trust.json --verifier https://localhost:8443 --operator auditor.pem",
		Args:    wantArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fetch, t, err := o.open(cmd)
			if err != nil {
				return err
			}
			return fsckLog(cmd, o, fetch, t)
		},
	}
	o.add(cmd)
	return cmd
}

// openRemote is [ledger.OpenRemote] by a trust file's keys: the head may be the last one
// that a verifier signed which has been retired since.
func openRemote(ctx context.Context, fetch ledger.Fetch, t *bundle.Trust) (*ledger.Remote, error) {
	note, err := fetch(ctx, "checkpoint")
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	return ledger.RemoteAt(fetch, note, t.LogKeys(note)...)
}

func fsckLog(cmd *cobra.Command, o *logFlags, fetch ledger.Fetch, t *bundle.Trust) error {
	r, err := openRemote(cmd.Context(), fetch, t)
	if err != nil {
		return logError(err)
	}
	entries, vkeys := true, t.LogKeys(r.Note)
	report, err := r.Fsck(cmd.Context(), true, vkeys...)
	if errors.Is(err, errForbidden) {
		entries = false
		report, err = r.Fsck(cmd.Context(), false, vkeys...)
	}
	if err != nil {
		return logError(err)
	}
	w := cmd.OutOrStdout()
	if o.json {
		problems := []string{}
		for _, p := range report.Problems {
			problems = append(problems, p.String())
		}
		err = writeJSON(w, map[string]any{"origin": r.Origin, "size": r.Size, "root": r.Root.String(), "entries": entries, "tiles": report.Tiles, "problems": problems})
	} else {
		for _, p := range report.Problems {
			fmt.Fprintf(w, "problem: %s\n", p)
		}
		_, err = fmt.Fprintf(w, "%s: %d entries, root %s, %d full tiles, %d problems\n", r.Origin, report.Entries, r.Root, report.Tiles, len(report.Problems))
	}
	switch {
	case err != nil:
		return err
	case len(report.Problems) > 0:
		return exit(exitInvalid, fmt.Errorf("%d problems", len(report.Problems)), "")
	case !entries:
		return exit(exitPartial, errors.New("the entries themselves cannot be read with this access: hashes, tiles and root were checked"), "use an operator with the auditor role")
	}
	return nil
}
