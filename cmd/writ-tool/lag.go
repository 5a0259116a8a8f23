package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/writ-attestation/writ/internal/durable"
	"github.com/writ-attestation/writ/verifier/ledger"
)

const (
	maxLag      = time.Minute // how long a verifier may be behind where --max-age says nothing
	maxUnproven = 256         // checkpoints that wait for a proof
)

// lag is kept while a log with several verifiers shows less than was seen of it.
type lag struct {
	Since    int64    `json:"since"`    // Unix seconds
	Unproven []string `json:"unproven"` // signed checkpoints that nothing shows yet to be of the same history
}

// several reports whether more than one verifier signs the log's checkpoints.
func (w *watch) several() bool { return len(w.trust.Log) > 1 }

// behind holds a checkpoint that is smaller than the one seen before against the
// tree of that one. The log is behind if it is the beginning of it, or if nobody
// can show the tree yet; then it is looked at again by caughtUp.
func (w *watch) behind(ctx context.Context, seen []byte, r *ledger.Remote, found *looked) error {
	before, err := ledger.RemoteAt(w.fetch, seen, w.trust.LogKeys(seen)...)
	if err != nil {
		return err
	}
	switch err := before.Extends(ctx, r.Checkpoint); {
	case err == nil:
		return w.lags(r.Note, true, found)
	case errors.Is(err, ledger.ErrNotFound):
		return w.lags(r.Note, false, found)
	default:
		return w.diverged(err, r.Note, found)
	}
}

// lags notes that the log is behind, and, if it is still to be proven, under which
// checkpoint. It ends in a divergence where that goes on for too long.
func (w *watch) lags(note []byte, proven bool, found *looked) error {
	l, err := w.readLag()
	if err != nil {
		return err
	}
	if !proven && !slices.Contains(l.Unproven, string(note)) {
		l.Unproven = append(l.Unproven, string(note))
	}
	bound := w.maxAge
	if bound == 0 {
		bound = maxLag
	}
	since := time.Unix(l.Since, 0)
	if l.Since == 0 {
		since = time.Now()
		l.Since = since.Unix()
	}
	if time.Since(since) > bound || len(l.Unproven) > maxUnproven {
		err := fmt.Errorf("%w: size %d was signed, and since %s it shows no more than size %d", ledger.ErrDiverged, found.Before, since.UTC().Format(time.RFC3339), found.Size)
		return w.diverged(err, note, found)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	found.Result = "behind"
	return durable.WriteFile(w.lagFile(), b, 0o644)
}

// caughtUp proves what was not proven while the log was behind.
func (w *watch) caughtUp(ctx context.Context, r *ledger.Remote, found *looked) error {
	l, err := w.readLag()
	if err != nil || l.Since == 0 {
		return err
	}
	for _, note := range l.Unproven {
		c, err := w.trust.OpenCheckpoint([]byte(note))
		if err != nil {
			return fmt.Errorf("reading %s: %w", w.lagFile(), err)
		}
		if c.Size > r.Size {
			continue // the one that its own tiles did not show; it is seen again
		}
		if err := r.Extends(ctx, c); err != nil {
			return w.diverged(err, []byte(note), found)
		}
	}
	return os.Remove(w.lagFile())
}

// diverged keeps the checkpoint that contradicts the one seen, if that is what err
// says.
func (w *watch) diverged(err error, note []byte, found *looked) error {
	if !errors.Is(err, ledger.ErrDiverged) {
		return err
	}
	found.Result, found.Conflict = "diverged", w.seen+".conflict"
	return errors.Join(err, durable.WriteFile(found.Conflict, note, 0o644))
}

func (w *watch) lagFile() string { return w.seen + ".lag" }

func (w *watch) readLag() (l lag, err error) {
	raw, err := os.ReadFile(w.lagFile())
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &l)
	}
	if err != nil {
		return l, fmt.Errorf("reading %s: %w", w.lagFile(), err)
	}
	return l, nil
}
