package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/verifier"
)

// retention is how long is kept what was recorded.
type retention struct {
	Evidence age `toml:"evidence"`
	Entries  age `toml:"entries"`
}

// age is a time in days, "90d", or in Go's notation.
type age time.Duration

func (a *age) UnmarshalText(b []byte) error {
	if days, ok := strings.CutSuffix(string(b), "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is not a number of days; write \"90d\"", b)
		}
		*a = age(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	d, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a time; write \"90d\" or \"36h\"", b)
	}
	*a = age(d)
	return nil
}

// minRetention keeps what is being decided and answered out of reach.
const minRetention = time.Hour

func (r retention) check() error {
	for key, v := range map[string]age{"evidence": r.Evidence, "entries": r.Entries} {
		if d := time.Duration(v); d != 0 && d < minRetention {
			return fmt.Errorf("retention.%s %s: expected \"0\" (for ever) or at least %s", key, d, minRetention)
		}
	}
	if r.Entries != 0 && (r.Evidence == 0 || r.Entries < r.Evidence) {
		return fmt.Errorf("retention.entries %s: evidence is proven by its entry, so entries are kept at least as long; set retention.evidence, or a longer time", time.Duration(r.Entries))
	}
	return nil
}

func (r retention) service() verifier.Retention {
	return verifier.Retention{Evidence: time.Duration(r.Evidence), Entries: time.Duration(r.Entries)}
}

// cut is what a prune at a moment gives up.
func (r retention) cut(now time.Time) (c verifier.Cut) {
	if r.Evidence != 0 {
		c.Evidence = now.Add(-time.Duration(r.Evidence)).Unix()
	}
	if r.Entries != 0 {
		c.Entries = now.Add(-time.Duration(r.Entries)).Unix()
	}
	return c
}

func newPrune() *cobra.Command {
	var before string
	var entries, dryRun bool
	cmd := dataCommand("prune", "Give up evidence, and entries, that are older than is kept", `Give up what [retention] in the configuration no longer keeps, or with --before
the evidence of all decisions before a day; with --entries the bytes of log
entries too. Leaf hashes, tiles, checkpoints and proofs stay, and so does what a
node, a reference set or an enrolment rests on. The history says what went.

A verifier that runs prunes by itself; this is for one that is stopped.
--dry-run only looks, also beside one that runs.

Exit codes: 0 pruned, or nothing was old enough; 2 usage; 1 anything else.`,
		"  writd prune --config writd.toml --dry-run\n  writd prune --config writd.toml --before 2026-01-01", func(cmd *cobra.Command, c *config) error {
			now := time.Now()
			cut := c.Retention.cut(now)
			if before != "" {
				at, err := parseDay(before)
				if err != nil {
					return unusable(err)
				}
				if at.After(now) {
					return unusable(fmt.Errorf("--before %s is in the future", before))
				}
				if cut = (verifier.Cut{Evidence: at.Unix()}); entries {
					cut.Entries = at.Unix()
				}
			}
			if cut == (verifier.Cut{}) {
				return unusable(errors.New("nothing says what is old: set [retention] in the configuration, or --before DATE"))
			}
			p, err := prune(cmd, c, cut, dryRun)
			if err != nil {
				return err
			}
			did := "gave up"
			if dryRun {
				did = "would give up"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %d decisions below entry %d, %d blobs, and the bytes of %d entries below %d\n", did, p.Decisions, p.Evidence, p.Blobs, p.Leaves, p.Entries)
			return err
		})
	cmd.Flags().StringVar(&before, "before", "", "instead of what is configured: before this `date` (2026-01-31, or with a time as in RFC 3339)")
	cmd.Flags().BoolVar(&entries, "entries", false, "with --before: the bytes of entries too")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would go")
	return cmd
}

// parseDay reads a day (in UTC) or a moment.
func parseDay(s string) (time.Time, error) {
	if at, err := time.Parse(time.DateOnly, s); err == nil {
		return at, nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return at, fmt.Errorf("--before %q: a date such as 2026-01-31 is needed, or 2026-01-31T12:00:00Z", s)
	}
	return at, nil
}

func prune(cmd *cobra.Command, c *config, cut verifier.Cut, dryRun bool) (p verifier.Pruned, err error) {
	ctx := cmd.Context()
	if dryRun {
		db, err := c.readDatabase(ctx)
		if err != nil {
			return p, err
		}
		defer db.Close()
		return verifier.PlanPrune(ctx, db, cut)
	}
	// The guard file keeps a second verifier off the same directory.
	v, err := open(context.WithoutCancel(ctx), c, newLogger(cmd.ErrOrStderr(), c), onOpen{})
	if err != nil {
		return p, err
	}
	p, err = v.svc.Prune(ctx, cut)
	return p, cmp.Or(err, v.Close())
}
