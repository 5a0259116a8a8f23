package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// branch marks entries of the history that was told instead.
const branch = "b"

// split puts the verifier's machine back to an earlier state, guard file included, as
// the restored snapshot of a virtual machine is, and lets it tell another history.
// The node holds a checkpoint of the first one and shows it with its next challenge.
func (s *stage) split(ctx context.Context) (chapter, error) {
	c := chapter{Title: "The history was split: the log froze and the job stopped"}
	d := s.dev
	if err := s.snapshot(ctx); err != nil {
		return c, err
	}
	began := time.Now()
	s.say("telling another history from the snapshot, where the node does not see it")
	s.watch.stop()
	if err := s.retell(ctx); err != nil {
		return c, err
	}
	s.say("putting it in the place of the first")
	if err := d.runVerifier(ctx, s.watch.address); err != nil {
		return c, err
	}
	s.update(func(v *view) { v.Verifier = "runs" })
	c2, err := s.dies(ctx, began, 4*demoLife)
	c.Stop = c2.Stop
	if err != nil {
		return c, err
	}
	s.say("waiting for the verifier to say that it signs nothing more")
	if err := d.wait(ctx, 30*time.Second, "the log to freeze", "verifier", func() (bool, error) { return s.frozen(ctx) }); err != nil {
		return c, err
	}
	s.update(func(v *view) { v.Verifier = "frozen" })
	s.look(ctx, d.operator, d.nodes[0])
	c.Proof = s.forks()
	c.Text = "The verifier's disk was put back to a snapshot and told another history. The node showed the checkpoint it held; the log found its own signature on it, and signs nothing more, also after a restart. The receipts of both histories verify with the same key, for different entries at the same index: that is the proof."
	return c, nil
}

// snapshot copies the verifier's data while it is stopped, lets history go on until
// the node holds a newer checkpoint, kills the verifier, and puts the copy back.
func (s *stage) snapshot(ctx context.Context) error {
	d := s.dev
	data, kept := filepath.Join(d.dir, "verifier"), filepath.Join(d.dir, "snapshot")
	s.say("taking a snapshot of the verifier's machine")
	d.verifier.stop(syscall.SIGTERM)
	if err := copyData(kept, data); err != nil {
		return fmt.Errorf("taking a snapshot: %w", err)
	}
	if err := d.runVerifier(ctx, s.watch.address); err != nil {
		return err
	}
	head, err := s.head(ctx)
	if err != nil {
		return err
	}
	s.say("letting the history go on until the node holds a newer checkpoint")
	err = d.wait(ctx, 4*demoLife, "the node to renew", "node-1-agent", func() (bool, error) {
		raw, err := os.ReadFile(filepath.Join(d.nodes[0].state(), "checkpoint"))
		if err != nil {
			return false, nil // being replaced
		}
		held, err := headOf(raw)
		return err == nil && held.Size > head && s.size() >= held.Size, nil
	})
	if err != nil {
		return err
	}
	d.verifier.stop(syscall.SIGKILL)
	s.update(func(v *view) { v.Verifier = "stopped" })
	if err := copyData(data, kept); err != nil {
		return fmt.Errorf("restoring the snapshot: %w", err)
	}
	return nil
}

// copyData copies what changes of a stopped verifier's data, the database and the
// guard file, in place of what is there of them.
func copyData(to, from string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	old, err := changing(to)
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	files, err := changing(from)
	if err != nil {
		return err
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(name)), raw, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func changing(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "writ.db*"))
	guard, err2 := filepath.Glob(filepath.Join(dir, "log.guard"))
	return append(files, guard...), errors.Join(err, err2)
}

// retell runs the restored verifier at an address that the node does not know, until
// its log is longer than the one that the node knows.
func (s *stage) retell(ctx context.Context) error {
	d := s.dev
	if err := d.runVerifier(ctx, "127.0.0.1:0"); err != nil {
		return err
	}
	for until := s.size() + 1; ; {
		size, err := s.head(ctx)
		if err != nil {
			return err
		}
		if size >= until {
			break
		}
		if _, err := d.operate(ctx, "join-token", "create", "--class", d.nodes[0].class); err != nil {
			return err
		}
	}
	if err := s.keep(ctx, d.operator, 0, branch); err != nil {
		return err
	}
	d.verifier.stop(syscall.SIGTERM)
	return nil
}

// forks are the first entries at one index that differ, of either history.
func (s *stage) forks() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := uint64(0); i < uint64(len(s.kept)); i++ {
		_, a := s.kept[entryID(i, "")]
		if _, b := s.kept[entryID(i, branch)]; a && b {
			return []string{entryID(i, ""), entryID(i, branch)}
		}
	}
	return nil
}

// frozen asks the verifier's own readiness.
func (s *stage) frozen(ctx context.Context) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.dev.ready.Admin+"/readyz?verbose", nil)
	if err != nil {
		return false, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil // asked again
	}
	defer r.Body.Close()
	_, _ = io.Copy(io.Discard, r.Body)
	return r.StatusCode == http.StatusServiceUnavailable, nil
}

// head is the size of the log that the verifier shows now.
func (s *stage) head(ctx context.Context) (uint64, error) {
	note, err := s.dev.operator.Checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	h, err := headOf(note)
	return h.Size, err
}

func hostOf(url string) string { return strings.TrimPrefix(url, "https://") }

// told says in a sentence what an entry records.
func told(kind string, data json.RawMessage) string {
	var d struct {
		Status, To, Cause, Class, Name string
		LatencyUS                      int64 `json:"latency_us"`
		Token                          *struct{ Exec string }
	}
	_ = json.Unmarshal(data, &d) // for people; what is missing is left out
	switch kind {
	case "verifier.started":
		return "the verifier started"
	case "join-token.created":
		return "a join token for class " + d.Class
	case "node.enrolled":
		return "a TPM enrolled: its keys are of one chip"
	case "node.status":
		return "an operator made the node " + d.To
	case "reference.added", "reference.activated":
		return "reference set " + d.Name
	case "legitimacy.issued":
		return "evidence judged good: the first token"
	case "legitimacy.expired":
		return "nobody renewed the token in time"
	case "legitimacy.renewed":
		return "evidence judged good again: the next token"
	case "execution.admitted":
		return "a token for the job"
	case "appraisal.decided":
		return "evidence denied"
	case "legitimacy.revoked":
		return "every token of the node is dead"
	case "execution.terminated":
		return fmt.Sprintf("the keeper's record: the job stopped, cause %s, %.1f ms after order or deadline", d.Cause, float64(d.LatencyUS)/1000)
	}
	return ""
}
