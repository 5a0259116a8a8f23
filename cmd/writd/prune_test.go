package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestPruneCommand gives up the entries of a stopped verifier: first it is only
// told what would go, then it goes, once, and the history still holds.
func TestPruneCommand(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	url, stop := s.start()
	s.entries(s.as(s.path("operator.pem"), url), 300)
	now := time.Now().UTC().Add(time.Second)
	for time.Now().Before(now.Add(time.Second)) {
		time.Sleep(100 * time.Millisecond) // entries have whole seconds
	}
	args := []string{"prune", "--before", now.Format(time.RFC3339), "--entries"}
	out, _ := s.run(0, append(args, "--dry-run")...)
	if !strings.Contains(out, "would give up 0 decisions") || !strings.Contains(out, "256 entries below 256") {
		t.Errorf("writd prune --dry-run says %s", out)
	}
	if _, errs := s.run(1, args...); !strings.Contains(errs, "in use") {
		t.Errorf("writd prune beside a verifier says %s", errs)
	}
	stop()
	out, _ = s.run(0, args...)
	if !strings.Contains(out, "gave up 0 decisions") || !strings.Contains(out, "256 entries below 256") {
		t.Errorf("writd prune says %s", out)
	}
	if out, _ := s.run(0, "fsck"); !strings.Contains(out, "gave up those below 256") || !strings.HasSuffix(out, "clean\n") {
		t.Errorf("writd fsck of a pruned history says\n%s", out)
	}
	c := s.as(s.path("operator.pem"), s.serve())
	_, err := c.Audit(t.Context(), 3, 4)
	if r := (*protocol.Refusal)(nil); !errors.As(err, &r) || r.Code != protocol.Pruned {
		t.Errorf("an entry that was given up: %v", err)
	}
	a, err := c.Audit(t.Context(), 250, 260)
	if err != nil || len(a.Entries) != 4 || a.Entries[0].Index != 256 {
		t.Errorf("entries on both sides of the limit: %+v, %v", a, err)
	}
	if _, err := c.Proof(t.Context(), 3); err != nil {
		t.Errorf("the proof of an entry that was given up: %v", err)
	}
}
