package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/ledger"
)

func newLogWatch() *cobra.Command {
	w := new(watch)
	cmd := &cobra.Command{
		Use:   "watch --trust FILE --seen FILE",
		Short: "Follow a log from outside, and shout when it is rewritten",
		Long: `Follow a log as an outsider. The last checkpoint seen is kept in FILE;
each new one must be signed by the log and extend it. A log that shows less, or
another history, ends this with exit code 6; the contradicting checkpoint is then
beside it, as FILE.conflict: both are signed, and together they prove it to
anybody. What is not reachable is tried again.

Where a domain has several verifiers (several log keys in the trust file), one may
be behind another. Less than was seen is then no divergence as long as it is proven
to be where the log once was, or can be when it has caught up (FILE.lag keeps what
is not proven yet), within --max-age, or a minute.

With --max-age, a log that stands still ends this too: somebody may be showing
an old state to this watcher alone. A log is as old as its newest entry or
its newest cosignature by a witness of the trust file; where neither can be read,
as the last time it was seen to grow.

Exit codes: 6 divergence; 4 a checkpoint that the log's keys have not signed, or
tiles that do not hold; 8 older than --max-age; 5 unreachable for that long; with
--once also 0 consistent and 5 unreachable.`,
		Example: "  writ log watch --trust trust.json --seen prod.checkpoint --log https://writ.example.org/log --max-age 10m",
		Args:    wantArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if w.seen == "" {
				return usageError(cmd, "--seen FILE is needed: without memory there is nothing to compare with")
			}
			if w.maxAge < 0 || w.every <= 0 {
				return usageError(cmd, "--every must be a duration above 0, --max-age not below")
			}
			var err error
			if w.fetch, w.trust, err = w.open(cmd); err != nil {
				return err
			}
			if w.policy, err = bundle.ParsePolicy(w.trust.WitnessPolicy); err != nil {
				return exit(exitUsage, err, "")
			}
			return w.follow(cmd)
		},
	}
	w.add(cmd)
	f := cmd.Flags()
	f.StringVar(&w.seen, "seen", "", "`file` that holds the last checkpoint seen")
	f.DurationVar(&w.every, "every", 10*time.Second, "how long to wait between looks")
	f.DurationVar(&w.maxAge, "max-age", 0, "how old the newest the log shows may be (0: as old as it likes)")
	f.BoolVar(&w.once, "once", false, "look once")
	return cmd
}

// watch is a monitor of one log.
type watch struct {
	logFlags
	seen          string
	every, maxAge time.Duration
	once          bool

	fetch  ledger.Fetch
	trust  *bundle.Trust
	policy *bundle.Policy
}

// looked is what one look at a log found.
type looked struct {
	Origin   string `json:"origin"`
	Result   string `json:"result"` // first, same, extends, behind, stale, diverged
	Size     uint64 `json:"size"`
	Root     string `json:"root"`
	Before   uint64 `json:"before"`           // size that was seen before
	Newest   int64  `json:"newest,omitempty"` // Unix seconds: the newest that the log shows; only with --max-age
	Conflict string `json:"conflict,omitempty"`
}

// errStale: a log has shown nothing new for too long.
var errStale = errors.New("the log stands still")

func (w *watch) follow(cmd *cobra.Command) error {
	answered := time.Now()
	for {
		err := w.look(cmd)
		switch {
		case !errors.Is(err, client.ErrUnreachable):
			answered = time.Now()
		case w.maxAge > 0 && time.Since(answered) > w.maxAge:
			return logError(fmt.Errorf("since %s: %w", answered.UTC().Format(time.RFC3339), err))
		}
		if errors.Is(err, errStale) {
			return exit(exitPartial, err, "compare with what others see: an old state may be shown to this watcher alone")
		}
		if w.once || (err != nil && !errors.Is(err, client.ErrUnreachable)) {
			return logError(err)
		}
		if err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "writ: %v\n", err)
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(w.every):
		}
	}
}

// look looks at the log once, remembers what it has seen and tells.
func (w *watch) look(cmd *cobra.Command) error {
	r, err := openRemote(cmd.Context(), w.fetch, w.trust)
	if err != nil {
		return err
	}
	found := &looked{Origin: r.Origin, Size: r.Size, Root: r.Root.String()}
	err = w.compare(cmd.Context(), r, found)
	if err == nil && w.maxAge > 0 {
		err = w.fresh(cmd.Context(), r, found)
	}
	if err != nil && found.Result == "" { // what is wrong is not with the log's history
		return err
	}
	return errors.Join(err, w.tell(cmd, found))
}

// compare holds a checkpoint against the one seen before and takes its place. It
// sets what came out, or else the log could not be read.
func (w *watch) compare(ctx context.Context, r *ledger.Remote, found *looked) error {
	raw, err := os.ReadFile(w.seen)
	if errors.Is(err, fs.ErrNotExist) {
		found.Result = "first"
		return durable.WriteFile(w.seen, r.Note, 0o644)
	}
	if err != nil {
		return fmt.Errorf("reading what was seen: %w", err)
	}
	last, err := w.trust.OpenCheckpoint(raw)
	if err != nil {
		return exit(exitInvalid, fmt.Errorf("reading %s: %w", w.seen, err), "it is not what this trust file's log has signed; give each log a file of its own")
	}
	found.Before = last.Size
	if r.Size < last.Size && w.several() {
		return w.behind(ctx, raw, r, found)
	}
	switch err := r.Extends(ctx, last); {
	case errors.Is(err, ledger.ErrNotFound) && w.several():
		return w.lags(r.Note, false, found) // its tiles are those of another verifier, which is behind
	case err != nil:
		return w.diverged(err, r.Note, found)
	}
	if err := w.caughtUp(ctx, r, found); err != nil {
		return err
	}
	if found.Result = "same"; r.Size == last.Size {
		return nil
	}
	found.Result = "extends"
	return durable.WriteFile(w.seen, r.Note, 0o644)
}

// fresh tells whether what the log shows is older than it may be.
func (w *watch) fresh(ctx context.Context, r *ledger.Remote, found *looked) error {
	newest, err := w.newest(ctx, r)
	if err != nil {
		return err
	}
	found.Newest = newest.Unix()
	if age := time.Since(newest); age > w.maxAge {
		found.Result = "stale"
		return fmt.Errorf("%w: the newest it shows is of %s, %s ago, with %d entries; at most %s are allowed", errStale, newest.UTC().Format(time.RFC3339), age.Round(time.Second), r.Size, w.maxAge)
	}
	return nil
}

// newest is the latest time at which the log is known to have had nothing newer.
func (w *watch) newest(ctx context.Context, r *ledger.Remote) (at time.Time, err error) {
	for _, witness := range w.policy.Witnesses {
		if _, when, err := ledger.OpenCosigned(r.Note, witness.Key, w.trust.LogKeys(r.Note)...); err == nil && when.After(at) {
			at = when
		}
	}
	if r.Size > 0 {
		leaves, err := r.Entries(ctx, r.Size-1)
		if err != nil && !errors.Is(err, errForbidden) {
			return at, err
		}
		if err == nil {
			leaf, err := ledger.ParseLeaf(leaves[0])
			if err != nil {
				return at, fmt.Errorf("%w: entry %d: %w", ledger.ErrCorrupt, r.Size-1, err)
			}
			if when := time.Unix(leaf.At, 0); when.After(at) {
				at = when
			}
		}
	}
	if !at.IsZero() {
		return at, nil
	}
	info, err := os.Stat(w.seen) // written when the log grew
	if err != nil {
		return at, fmt.Errorf("looking when the log grew: %w", err)
	}
	return info.ModTime(), nil
}

func (w *watch) tell(cmd *cobra.Command, l *looked) (err error) {
	out := cmd.OutOrStdout()
	switch {
	case w.json && (w.once || l.Result != "same"):
		return writeJSON(out, l)
	case w.json:
	case l.Result == "first":
		_, err = fmt.Fprintf(out, "%s: first seen at size %d, root %s\n", l.Origin, l.Size, l.Root)
	case l.Result == "extends":
		_, err = fmt.Fprintf(out, "%s: size %d extends %d, root %s\n", l.Origin, l.Size, l.Before, l.Root)
	case l.Result == "behind":
		_, err = fmt.Fprintf(out, "%s: size %d, behind size %d, which another verifier has shown\n", l.Origin, l.Size, l.Before)
	case l.Result == "diverged":
		_, err = fmt.Fprintf(out, "%s: DIVERGED: %s (size %d) and %s (size %d) are both signed by the log\n", l.Origin, w.seen, l.Before, l.Conflict, l.Size)
	}
	return err
}
