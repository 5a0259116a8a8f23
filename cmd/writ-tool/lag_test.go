package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// replicas is a log whose latest checkpoint may come from another verifier than its
// tiles.
type replicas struct {
	note  atomic.Pointer[[]byte] // nil: that of tiles
	tiles auditedSite
}

func (r *replicas) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if note := r.note.Load(); note != nil && strings.HasSuffix(q.URL.Path, "/checkpoint") {
		_, _ = w.Write(*note)
		return
	}
	r.tiles.ServeHTTP(w, q)
}

func (r *replicas) show(note []byte, tiles *ledger.Log) {
	r.tiles.show(tiles, false)
	if r.note.Store(&note); note == nil {
		r.note.Store(nil)
	}
}

// severalTrust names the log's key and that of a second verifier.
func severalTrust(t *testing.T, l *ledger.Log) string {
	t.Helper()
	second, err := ledger.VerifierKey(auditedOrigin, testKey(2).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(path, (&bundle.Trust{V: 1, Domain: "audited.invalid", Log: []string{l.VerifierKey(), second}}).Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLaggingVerifierIsNoRollback: of several verifiers one may be behind. What it
// shows is held against the larger tree, at once or when that can be read again.
func TestLaggingVerifierIsNoRollback(t *testing.T) {
	t.Parallel()
	l, early := auditedLog(t), auditedLog(t)
	grow(t, l, "a", 300)
	grow(t, early, "a", 300)
	old := l.Checkpoint()
	grow(t, l, "a", 100)
	site := new(replicas)
	seen, args := watched(t, site, severalTrust(t, l))
	once := append(args[:len(args):len(args)], "--once")
	site.show(nil, l)
	wantExit(t, exitOK, "first seen at size 400", once...)

	site.show(old, l) // proven by the other one's tiles
	wantExit(t, exitOK, "size 300, behind size 400", once...)
	site.show(nil, early) // not proven yet
	wantExit(t, exitOK, "behind size 400", once...)
	if raw := readFile(t, seen); !bytes.Equal(raw, l.Checkpoint()) {
		t.Errorf("seen is now %q", raw)
	}
	grow(t, l, "a", 10)
	site.show(l.Checkpoint(), early) // the tiles of one that is behind
	wantExit(t, exitOK, "", once...)
	site.show(nil, l)
	wantExit(t, exitOK, "size 410 extends 400", once...)
	if _, err := os.Stat(seen + ".lag"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after catching up: %v", err)
	}

	site.show(nil, early)
	wantExit(t, exitOK, "behind", once...)
	for _, flags := range [][]string{nil, {"--max-age", "24h"}} { // less than before is not lag for ever
		long := time.Now().Add(-2 * time.Hour)
		if len(flags) > 0 {
			long = time.Now().Add(-48 * time.Hour)
		}
		var found lag
		err := json.Unmarshal(readFile(t, seen+".lag"), &found)
		found.Since = long.Unix()
		raw, err2 := json.Marshal(found)
		if err := errors.Join(err, err2, os.WriteFile(seen+".lag", raw, 0o600)); err != nil {
			t.Fatal(err)
		}
		wantExit(t, exitDiverged, "no more than size 300", append(args[:len(args):len(args)], flags...)...)
	}
}

// TestForkBehindALaggingVerifier: less than was seen is no excuse for another history.
func TestForkBehindALaggingVerifier(t *testing.T) {
	t.Parallel()
	l, fork := auditedLog(t), auditedLog(t)
	grow(t, l, "a", 400)
	grow(t, fork, "b", 300)
	site := new(replicas)
	for _, proven := range []bool{true, false} {
		seen, args := watched(t, site, severalTrust(t, l))
		args = append(args, "--once")
		site.show(nil, l)
		wantExit(t, exitOK, "first seen", args...)
		if !proven {
			site.show(nil, fork) // nothing shows it yet
			wantExit(t, exitOK, "behind", args...)
			site.show(nil, l)
		} else {
			site.show(fork.Checkpoint(), l)
		}
		wantExit(t, exitDiverged, "DIVERGED", args...)
		if kept := readFile(t, seen+".conflict"); !bytes.Equal(kept, fork.Checkpoint()) || !bytes.Equal(readFile(t, seen), l.Checkpoint()) {
			t.Errorf("kept is %q", kept)
		}
	}
}
