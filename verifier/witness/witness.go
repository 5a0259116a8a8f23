// Package witness has a log's checkpoints cosigned: the client's side of
// c2sp.org/tlog-witness, add-checkpoint.
//
// A witness that refuses is reported and never believed. It is asked what it has
// cosigned last instead: a checkpoint that this log has signed and contradicts
// freezes the log, which no other word of a witness does (security rule 25). What it
// does not cosign lacks its cosignature, which those who demand one see: readers of
// proofs, and the verifier itself, which issues nothing while the quorum is missing.
package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// ErrSplit: a witness has cosigned another history of this log, or says so.
var ErrSplit = errors.New("the witness does not find this history to extend what it has cosigned")

const (
	callTime  = 10 * time.Second
	maxAnswer = 64 << 10 // bytes
)

// Config says whose checkpoints are shown to whom.
type Config struct {
	Log    *ledger.Log
	Policy *bundle.Policy
	Every  time.Duration                                // between rounds
	Again  time.Duration                                // after which a checkpoint is shown once more though the log has not grown; 0: never
	Keep   func(ctx context.Context, note []byte) error // stores a cosigned checkpoint
	Slog   *slog.Logger
}

// Round asks witnesses in turn. It is for one goroutine.
type Round struct {
	cfg  Config
	http *http.Client
	size map[string]uint64 // cosigned last, by witness
	last uint64            // size that all have cosigned
	at   time.Time         // when they did
}

// New makes a round. Nothing is sent.
func New(cfg Config) *Round {
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Round{cfg: cfg, http: &http.Client{Timeout: callTime, CheckRedirect: refuse}, size: map[string]uint64{}}
}

// Run has the latest checkpoint cosigned again and again until ctx is done.
func (r *Round) Run(ctx context.Context) {
	for {
		if err := r.Once(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Slog.ErrorContext(ctx, "checkpoint lacks cosignatures", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(r.cfg.Every):
		}
	}
}

// Once shows every witness the latest checkpoint and keeps what they cosigned,
// when that is what the policy demands. The errors are those of single witnesses.
func (r *Round) Once(ctx context.Context) error {
	note, vkeys := r.cfg.Log.Signed(), r.cfg.Log.VerifierKeys()
	c, err := ledger.OpenCheckpoint(note, vkeys...)
	if err != nil {
		return err
	}
	if c.Size == r.last && (r.cfg.Again == 0 || time.Since(r.at) < r.cfg.Again) {
		return nil
	}
	cosigned := bytes.Clone(note)
	var errs []error
	for _, w := range r.cfg.Policy.Witnesses {
		if w.URL == "" {
			continue
		}
		line, err := r.ask(ctx, w, note, c)
		if err == nil {
			_, _, err = ledger.OpenCosigned(append(bytes.Clone(note), line...), w.Key, vkeys...)
		}
		if errors.Is(err, ErrSplit) {
			err = errors.Join(err, r.confront(ctx, w))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("asking witness %s about size %d: %w", w.Name, c.Size, err))
			continue
		}
		r.size[w.Name] = c.Size
		cosigned = append(cosigned, line...)
	}
	if by, ok := r.cfg.Policy.Cosigned(cosigned, vkeys...); ok && len(by) > 0 {
		if err := r.cfg.Keep(ctx, cosigned); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	if len(errs) == 0 {
		r.last, r.at = c.Size, time.Now()
	}
	return errors.Join(errs...)
}

// ask submits a checkpoint, a second time when the witness has cosigned another
// size than was thought.
func (r *Round) ask(ctx context.Context, w bundle.PolicyWitness, note []byte, c ledger.Checkpoint) ([]byte, error) {
	old := r.size[w.Name]
	for range 2 {
		proof, err := r.cfg.Log.Consistency(ctx, old, c.Size)
		if err != nil {
			return nil, err
		}
		status, answer, err := r.post(ctx, w.URL, ledger.Submission{Old: old, Proof: proof, Note: note}.Marshal())
		if err != nil {
			return nil, err
		}
		switch status {
		case http.StatusOK:
			return answer, nil
		case http.StatusUnprocessableEntity:
			return nil, fmt.Errorf("%w: it refuses the proof from size %d", ErrSplit, old)
		case http.StatusConflict:
			size, err := strconv.ParseUint(strings.TrimSpace(string(answer)), 10, 62)
			if err != nil {
				return nil, fmt.Errorf("reading the size it cosigned last: %w", err)
			}
			if size > c.Size || size == old {
				return nil, fmt.Errorf("%w: it has cosigned size %d, this log is at size %d", ErrSplit, size, c.Size)
			}
			old = size
		default:
			return nil, fmt.Errorf("it answered with status %d", status)
		}
	}
	return nil, errors.New("its size changes from answer to answer: is it asked by another verifier too?")
}

// confront holds what a witness has cosigned last against the log. Nothing comes of
// what the log's keys have not signed, nor of a witness that does not show it.
func (r *Round) confront(ctx context.Context, w bundle.PolicyWitness) error {
	origin, _, _ := strings.Cut(string(r.cfg.Log.Signed()), "\n")
	note, err := r.get(ctx, fmt.Sprintf("%s/checkpoint/%x", strings.TrimSuffix(w.URL, "/"), sha256.Sum256([]byte(origin))))
	if err != nil {
		return fmt.Errorf("asking what it has cosigned: %w", err)
	}
	return r.cfg.Log.Confront(ctx, note)
}

func (r *Round) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered with status %d", resp.StatusCode)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

func (r *Round) post(ctx context.Context, url string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(url, "/")+"/add-checkpoint", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, answer, err
}
