package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
)

// dataCommand makes a command on a data directory, named by --config, or by
// --data and --domain.
func dataCommand(use, short, long, example string, run func(cmd *cobra.Command, c *config) error) *cobra.Command {
	var path, data, domain string
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: wantArgs(), RunE: runs(func(cmd *cobra.Command, _ []string) error {
		switch {
		case path != "" && data+domain != "":
			return misuse("--config FILE or --data DIR with --domain NAME, not both")
		case path == "" && data+domain != "" && (data == "" || domain == ""):
			return misuse("--data DIR and --domain NAME go together")
		case data != "":
			c := defaults()
			c.Data, c.Domain = data, domain
			return run(cmd, &c)
		}
		c, err := configured(path)
		if err != nil {
			return err
		}
		return run(cmd, c)
	})}
	cmd.Flags().StringVar(&path, "config", "", "configuration `file`")
	cmd.Flags().StringVar(&data, "data", "", "data `directory`, with --domain instead of a configuration")
	cmd.Flags().StringVar(&domain, "domain", "", "trust `domain`")
	return cmd
}

func newMigrate() *cobra.Command {
	return dataCommand("migrate", "Bring the database's schema up to date", "Bring the database's schema up to date. writd serve does so by itself; a schema\nnewer than this program is refused.", "  writd migrate --config writd.toml", func(cmd *cobra.Command, c *config) error {
		s, err := c.openDatabase(cmd.Context())
		if err != nil {
			return err
		}
		return s.Close()
	})
}

func newFsck() *cobra.Command {
	return dataCommand("fsck", "Derive the whole history again and compare", `Read every entry and derive tree, tiles, head and guard file again, then the state
of the domain (nodes and their keys, reference sets, join tokens, token keys,
approvals, governance), and compare. Of every decision that retention has not given
up its evidence is read and hashed. It only reads, and may run beside a verifier in
use.

Exit codes: 0 clean; 4 something does not hold, each named; 2 the keys that
signed the history are not there; 1 it cannot be read.`, "  writd fsck --config writd.toml", func(cmd *cobra.Command, c *config) error {
		k, err := keysOf(c, false)
		if err != nil {
			return err
		}
		s, err := c.readDatabase(cmd.Context())
		if err != nil {
			return err
		}
		defer s.Close()
		vkeys, err := c.logKeys(k)
		if err != nil {
			return err
		}
		damage, err := s.Check(cmd.Context())
		if err != nil {
			return err
		}
		by, err := verifier.Signers(cmd.Context(), s, c.Domain, vkeys, c.RetiredPeers)
		if err != nil {
			return err
		}
		r, err := ledger.FsckBy(cmd.Context(), s, filepath.Join(c.Data, guardFile), by)
		if err != nil {
			return err
		}
		state, err := verifier.CheckState(cmd.Context(), s, c.Domain)
		if err != nil {
			return err
		}
		return report(cmd.OutOrStdout(), damage, r, state)
	})
}

func report(w io.Writer, damage []string, r ledger.Report, state verifier.StateReport) error {
	fmt.Fprintf(w, "%d entries, root %s, %d full tiles, guard file at %d\n", r.Size, r.Root, r.Tiles, r.Guarded)
	fmt.Fprintf(w, "state derived again: %d nodes, %d decisions, %d blobs of evidence\n", state.Nodes, state.Decisions, state.Blobs)
	if state.Underived > 0 {
		fmt.Fprintf(w, "state that only entries below %d speak of was not derived: they are not all known\n", state.Underived)
	}
	if r.Pruned > 0 {
		fmt.Fprintf(w, "%d entries without their bytes, of which retention gave up those below %d\n", r.Pruned, r.Horizon)
	}
	for _, d := range damage {
		fmt.Fprintf(w, "problem: database: %s\n", d)
	}
	for _, p := range append(r.Problems, state.Problems...) {
		fmt.Fprintf(w, "problem: %s\n", p)
	}
	for _, n := range r.Warnings {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	if n := len(damage) + len(r.Problems) + len(state.Problems); n > 0 {
		return failure{code: exitInvalid, error: fmt.Errorf("%d problems", n)}
	}
	fmt.Fprintln(w, "clean")
	return nil
}

func newBackup() *cobra.Command {
	var out string
	cmd := dataCommand("backup -o FILE", "Copy the database while it is in use", "Write a consistent copy of the database. Keys and guard file are not in it: back\nup the data directory's keys folder once, apart.", "  writd backup --config writd.toml -o writ-$(date +%F).db", func(cmd *cobra.Command, c *config) error {
		if out == "" {
			return misuse("-o FILE is needed")
		}
		if err := c.onlySQLite(); err != nil {
			return err
		}
		s, err := store.ReadSQLite(cmd.Context(), c.file())
		if err != nil {
			return err
		}
		defer s.Close()
		return s.Backup(cmd.Context(), out)
	})
	cmd.Flags().StringVarP(&out, "output", "o", "", "`file` to write; it must not exist")
	return cmd
}

func newRestore() *cobra.Command {
	var from string
	cmd := dataCommand("restore --from FILE", "Put a backup in place of a lost database", `Put a backup where the database was. It refuses to replace one that is there.

A backup older than the guard file is a rollback: writd serve then refuses, for
revocations may be missing from it. Only the newest backup of a database whose
last commits were never answered can be served again.`, "  writd restore --config writd.toml --from writ-2026-07-01.db", func(cmd *cobra.Command, c *config) error {
		if from == "" {
			return misuse("--from FILE is needed")
		}
		if err := c.onlySQLite(); err != nil {
			return err
		}
		return restore(cmd.Context(), from, c.file())
	})
	cmd.Flags().StringVar(&from, "from", "", "the backup `file`")
	return cmd
}

func restore(ctx context.Context, from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return unusable(fmt.Errorf("%s exists; move it away first, and keep it", to))
	}
	if wal, err := os.Stat(to + "-wal"); err == nil && wal.Size() > 0 { // it would be replayed into whatever database is beside it
		return unusable(fmt.Errorf("%s-wal exists and belongs to the database that was there; move it away with that one", to))
	}
	s, err := store.ReadSQLite(ctx, from)
	if err != nil {
		return failure{code: exitInvalid, error: err}
	}
	defer s.Close()
	problems, err := s.Check(ctx)
	if err != nil {
		return failure{code: exitInvalid, error: err}
	}
	if len(problems) > 0 {
		return failure{code: exitInvalid, error: fmt.Errorf("%s is damaged: %s", from, problems[0])}
	}
	part := to + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restoring: %w", err)
	}
	// A copy by the database, so that what its own write-ahead log still holds
	// comes along.
	if err := s.Backup(ctx, part); err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	return durable.Rename(part, to)
}

// keysOf opens the keys of a data directory. What is wrong with them is for
// whoever configured it.
func keysOf(c *config, empty bool) (*keys.Keys, error) {
	k, err := keys.Open(c.Data, c.Domain, empty, time.Now())
	if err != nil {
		return nil, unusable(err)
	}
	return k, nil
}

func newIssueOperator() *cobra.Command {
	var name, out string
	var roles []string
	var life time.Duration
	cmd := dataCommand("operator --name NAME -o FILE", "Issue an operator's certificate", `Issue a certificate and key for a further operator, into a file for --operator.
It needs the domain's operator CA, so it runs beside the verifier's data.

Roles: viewer, auditor, operator, approver, and relying-party for a gate. None
contains another. A name whose certificates were revoked (writ operator revoke) can
be given another one.`, "  writd operator --config writd.toml --name alice --role operator --role viewer -o alice.pem", func(cmd *cobra.Command, c *config) error {
		if name == "" || out == "" {
			return misuse("--name and -o are needed")
		}
		k, err := keysOf(c, false)
		if err != nil {
			return err
		}
		op := keys.Operator{Name: name}
		for _, r := range roles {
			op.Roles = append(op.Roles, keys.Role(r))
		}
		raw, err := c.issue(cmd.Context(), k, op, life)
		if err != nil {
			return unusable(err)
		}
		return durable.WriteFile(out, raw, 0o600)
	})
	cmd.Flags().StringVar(&name, "name", "", "`name` of the operator, as the history shows it")
	cmd.Flags().StringVarP(&out, "output", "o", "", "`file` to write, mode 0600")
	cmd.Flags().StringSliceVar(&roles, "role", []string{"viewer"}, "`role` (repeatable)")
	cmd.Flags().DurationVar(&life, "life", 90*24*time.Hour, "how long the certificate is good")
	return cmd
}

// issue makes an operator's certificate. One of a name that was revoked has to begin
// after that, so the database is asked, if there is one yet.
func (c *config) issue(ctx context.Context, k *keys.Keys, op keys.Operator, life time.Duration) ([]byte, error) {
	db, err := c.readDatabase(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	revoked, ok, err := verifier.RevokedAt(ctx, db, op.Name)
	if err != nil {
		return nil, err
	}
	if ok {
		return k.ReissueOperator(op, life, time.Now(), revoked)
	}
	return k.IssueOperator(op, life, time.Now())
}
