package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// watched is a site and the arguments that watch it.
func watched(t *testing.T, handler http.Handler, trust string) (seen string, args []string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	seen = filepath.Join(t.TempDir(), "seen")
	return seen, []string{"log", "watch", "--trust", trust, "--log", server.URL + "/log", "--seen", seen}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLogShownSmallerOrForked: a log that shows a state it had before, or another
// history of the same or a greater size, ends the watch, and both signed
// checkpoints are kept.
func TestLogShownSmallerOrForked(t *testing.T) {
	t.Parallel()
	honest, fork := auditedLog(t), auditedLog(t)
	grow(t, honest, "a", 300)
	old := honest.Checkpoint()
	grow(t, honest, "a", 100)
	for _, what := range []string{"rollback", "fork of the same", "fork that grew on", "tiles of another root"} {
		site := &auditedSite{log: honest}
		var note []byte
		seen, args := watched(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if note != nil && r.URL.Path == "/log/checkpoint" {
				_, _ = w.Write(note)
				return
			}
			site.ServeHTTP(w, r)
		}), auditedTrust(t, honest))
		wantExit(t, exitOK, "first seen at size 400", append(args, "--once")...)
		switch what {
		case "rollback":
			note = old
		case "fork of the same":
			grow(t, fork, "b", int(400-fork.Size()))
			site.show(fork, false)
		case "fork that grew on":
			grow(t, fork, "b", 500-int(fork.Size()))
			site.show(fork, false)
		default: // the honest tiles do not make the fork's root
			grow(t, fork, "b", 1000-int(fork.Size()))
			note = fork.Checkpoint()
			grow(t, honest, "a", 1000-int(honest.Size()))
			wantExit(t, exitInvalid, "", append(args, "--once")...)
			continue
		}
		code, out, errs := runWrit(t, append(args, "--json")...) // and it does not go on
		var found looked
		if err := json.Unmarshal([]byte(out), &found); err != nil || code != exitDiverged || found.Result != "diverged" || found.Before != 400 {
			t.Errorf("%s: exit code %d, %+v, %v\n%s", what, code, found, err, errs)
		}
		first, second := readFile(t, seen), readFile(t, found.Conflict)
		a, err := ledger.OpenCheckpoint(first, honest.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		b, err := ledger.OpenCheckpoint(second, honest.VerifierKey())
		if err != nil || a.Size != 400 || b.Size != found.Size || a == b {
			t.Errorf("%s: kept %+v and %+v, %v", what, a, b, err)
		}
		if code, out, _ := runWrit(t, append(args, "--once")...); code != exitDiverged || !strings.Contains(out, "DIVERGED") {
			t.Errorf("%s, again: exit code %d, %s", what, code, out)
		}
	}
}

// TestTilesWithheldOrChanged: what the log does not prove is not taken for
// consistent, and what was seen stays.
func TestTilesWithheldOrChanged(t *testing.T) {
	t.Parallel()
	l := auditedLog(t)
	site := &auditedSite{log: l}
	var answer func(w http.ResponseWriter, b []byte)
	seen, args := watched(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer == nil || r.URL.Path == "/log/checkpoint" {
			site.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		site.ServeHTTP(rec, r)
		answer(w, rec.Body.Bytes())
	}), auditedTrust(t, l))
	args = append(args, "--once")
	grow(t, l, "a", 300)
	wantExit(t, exitOK, "first seen", args...)
	before := readFile(t, seen)
	grow(t, l, "a", 300)
	answer = func(w http.ResponseWriter, b []byte) { b[len(b)-1] ^= 1; _, _ = w.Write(b) }
	wantExit(t, exitInvalid, "", args...)
	answer = func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusNotFound) }
	wantExit(t, exitInvalid, "", args...)
	answer = func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusInternalServerError) }
	wantExit(t, exitUnreached, "500", args...)
	if !bytes.Equal(before, readFile(t, seen)) {
		t.Error("what was seen was replaced by what is not proven to extend it")
	}
	fsck := []string{"log", "fsck", "--trust", args[3], "--log", args[5]}
	site.show(l, true)
	answer = func(w http.ResponseWriter, b []byte) { b[len(b)-2] ^= 1; _, _ = w.Write(b) }
	wantExit(t, exitInvalid, "problem: ", fsck...)
	wantExit(t, exitInvalid, `"problems":["`, append(fsck, "--json")...)
	answer = nil
	wantExit(t, exitOK, `"problems":[]`, append(fsck, "--json")...)
	wantExit(t, exitOK, "size 600 extends 300", args...)
	if err := os.WriteFile(seen, []byte("not a checkpoint"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantExit(t, exitInvalid, "give each log a file of its own", args...)
}

// TestOldStateShownForever: a watcher who is shown the same old state again and
// again hears nothing wrong of it but its age.
func TestOldStateShownForever(t *testing.T) {
	t.Parallel()
	past := time.Now().Add(-2 * time.Hour)
	l, err := ledger.Open(t.Context(), ledger.Config{
		Store: storetest.NewMemory(), Origin: auditedOrigin, Key: testKey(1), GuardFile: filepath.Join(t.TempDir(), "guard"), Now: func() time.Time { return past },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	grow(t, l, "a", 10)
	w, err := ledger.NewWitness("witness.invalid", testKey(9))
	if err != nil {
		t.Fatal(err)
	}
	trust := filepath.Join(t.TempDir(), "trust.json")
	tr := &bundle.Trust{V: 1, Domain: "audited.invalid", Log: []string{l.VerifierKey()}, WitnessPolicy: fmt.Sprintf("witness w %s\nquorum w\n", w.VerifierKey())}
	if err := os.WriteFile(trust, tr.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	site := &auditedSite{log: l, public: true}
	seen, args := watched(t, site, trust)
	with := func(more ...string) []string { return append(args[:len(args):len(args)], more...) }
	wantExit(t, exitOK, "first seen", with("--once")...)
	wantExit(t, exitOK, "", with("--once", "--max-age", "3h")...)
	wantExit(t, exitPartial, "stands still", with("--max-age", "1h")...) // by its newest entry; and it does not go on
	code, out, _ := runWrit(t, with("--once", "--max-age", "1h", "--json")...)
	var found looked
	if err := json.Unmarshal([]byte(out), &found); err != nil || code != exitPartial || found.Result != "stale" || found.Newest != past.Unix() {
		t.Errorf("exit code %d, %+v, %v", code, found, err)
	}

	site.show(l, false) // nobody may read entries: by when it was seen to grow
	wantExit(t, exitOK, "", with("--once", "--max-age", "1h")...)
	if err := os.Chtimes(seen, past, past); err != nil {
		t.Fatal(err)
	}
	wantExit(t, exitPartial, "stands still", with("--once", "--max-age", "1h")...)

	note := l.Checkpoint()
	for _, c := range []struct {
		at   time.Time
		want int
	}{{past, exitPartial}, {time.Now(), exitOK}} { // by its witness, who saw nothing newer
		line, err := w.Cosign(note, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Witnessed(t.Context(), append(bytes.Clone(note), line...)); err != nil {
			t.Fatal(err)
		}
		wantExit(t, c.want, "", with("--once", "--max-age", "1h")...)
	}
	args[5] = "http://127.0.0.1:1/log"
	wantExit(t, exitUnreached, "since 20", with("--every", "10ms", "--max-age", "50ms")...)
	wantExit(t, exitUsage, "above 0", with("--every", "0s")...)
}
