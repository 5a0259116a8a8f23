package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

const auditedOrigin = "audited.invalid/log"

// auditedNow is the time of every entry: two logs of the same entries are one history.
var auditedNow = time.Now()

// auditedLog opens a log in memory; two of them are a fork.
func auditedLog(t *testing.T) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(t.Context(), ledger.Config{
		Store: storetest.NewMemory(), Origin: auditedOrigin, Key: testKey(1), GuardFile: filepath.Join(t.TempDir(), "guard"),
		Now: func() time.Time { return auditedNow },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func grow(t *testing.T, l *ledger.Log, what string, n int) {
	t.Helper()
	_, err := l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (c ledger.Change, err error) {
		for range n {
			c.Entries = append(c.Entries, ledger.Entry{Kind: "test.made", Subject: what})
		}
		return c, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// auditedSite serves one log at a time, entries too if public.
type auditedSite struct {
	mu     sync.Mutex
	log    *ledger.Log
	public bool
}

func (s *auditedSite) show(l *ledger.Log, public bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.public = l, public
}

func (s *auditedSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	l, public := s.log, s.public
	s.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/log/")
	if path == "checkpoint" {
		_, _ = w.Write(l.Checkpoint())
		return
	}
	p, err := ledger.ParseTilePath(path)
	var b []byte
	switch {
	case err != nil:
	case p.Level != ledger.Entries:
		b, err = l.Tile(r.Context(), p.Level, p.Index, p.Width)
	case !public:
		w.WriteHeader(http.StatusForbidden)
		return
	default:
		b, err = l.EntryBundle(r.Context(), p.Index, p.Width)
	}
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write(b)
}

func auditedTrust(t *testing.T, l *ledger.Log) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(path, (&bundle.Trust{V: 1, Domain: "audited.invalid", Log: []string{l.VerifierKey()}}).Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// runWrit runs a command line in this process.
func runWrit(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func wantExit(t *testing.T, want int, text string, args ...string) {
	t.Helper()
	code, stdout, stderr := runWrit(t, args...)
	if code != want || !strings.Contains(stdout+stderr, text) {
		t.Errorf("%v: exit code %d, expected %d and %q:\n%s%s", args, code, want, text, stdout, stderr)
	}
}

// TestRewrittenLogIsNoticed follows a log that is replaced by a fork.
func TestRewrittenLogIsNoticed(t *testing.T) {
	honest, fork := auditedLog(t), auditedLog(t)
	site := new(auditedSite)
	server := httptest.NewServer(site)
	defer server.Close()
	trust, seen := auditedTrust(t, honest), filepath.Join(t.TempDir(), "seen")
	watch := []string{"log", "watch", "--trust", trust, "--log", server.URL + "/log", "--seen", seen, "--once"}
	fsck := []string{"log", "fsck", "--trust", trust, "--log", server.URL + "/log"}

	grow(t, honest, "a", 300)
	site.show(honest, true)
	wantExit(t, exitOK, "first seen at size 300", watch...)
	wantExit(t, exitOK, "", watch...)
	grow(t, honest, "a", 300)
	wantExit(t, exitOK, "size 600 extends 300", watch...)
	wantExit(t, exitOK, "600 entries", fsck...)
	site.show(honest, false)
	wantExit(t, exitPartial, "cannot be read", fsck...)

	before, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	grow(t, fork, "b", 400)
	site.show(fork, true)
	wantExit(t, exitDiverged, "size 600 was signed before", watch...)
	grow(t, fork, "b", 400)
	wantExit(t, exitDiverged, "was signed for its first 600 entries", watch...)
	wantExit(t, exitOK, "800 entries", fsck...) // by itself a fork is a fine log
	after, err := os.ReadFile(seen)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("what was seen was replaced by the fork (%v)", err)
	}
	conflict, err := os.ReadFile(seen + ".conflict")
	if err != nil || !bytes.Equal(conflict, fork.Checkpoint()) {
		t.Errorf("the fork's checkpoint was not kept: %v", err)
	}
}

func TestWitnessOverHTTP(t *testing.T) {
	l, fork := auditedLog(t), auditedLog(t)
	dir := t.TempDir()
	start := func() (*witness, *httptest.Server) {
		w, err := ledger.NewWitness("witness.invalid", testKey(9))
		if err != nil {
			t.Fatal(err)
		}
		s := &witness{Witness: w, dir: dir, logs: witnessed(l), now: time.Now}
		server := httptest.NewServer(s.handler())
		t.Cleanup(server.Close)
		return s, server
	}
	w, server := start()
	submit := func(l *ledger.Log, old uint64) (int, string) {
		t.Helper()
		proof, err := l.Consistency(t.Context(), min(old, l.Size()), l.Size())
		if err != nil {
			t.Fatal(err)
		}
		return post(t, server.URL, ledger.Submission{Old: old, Proof: proof, Note: l.Checkpoint()}.Marshal())
	}
	grow(t, l, "a", 10)
	code, line := submit(l, 0)
	if _, _, err := ledger.OpenCosigned(append(bytes.Clone(l.Checkpoint()), line...), w.VerifierKey(), l.VerifierKey()); code != 200 || err != nil {
		t.Fatalf("the first checkpoint: %d %s, %v", code, line, err)
	}
	if code, _ := submit(l, 10); code != 200 {
		t.Errorf("the same again: %d", code)
	}
	if code, size := submit(l, 0); code != 409 || size != "10\n" {
		t.Errorf("an old size that is not the last: %d %q", code, size)
	}
	grow(t, fork, "b", 20)
	for range 2 { // also after a restart
		if code, _ := submit(fork, 10); code != 422 {
			t.Errorf("a fork: %d", code)
		}
		w, server = start()
	}
	if code, _ := submit(fork, 21); code != 400 {
		t.Errorf("an old size beyond the checkpoint: %d", code)
	}
	note := bytes.Replace(l.Checkpoint(), []byte(auditedOrigin+"\n"), []byte("other.invalid/log\n"), 1)
	if code, _ := post(t, server.URL, ledger.Submission{Note: note}.Marshal()); code != 404 {
		t.Errorf("an unknown log: %d", code)
	}
	note = bytes.Replace(l.Checkpoint(), []byte("\n10\n"), []byte("\n11\n"), 1)
	if code, _ := post(t, server.URL, ledger.Submission{Old: 10, Note: note}.Marshal()); code != 403 {
		t.Errorf("a checkpoint with a wrong signature: %d", code)
	}
	if code, _ := post(t, server.URL, []byte("old x\n\n")); code != 400 {
		t.Errorf("a malformed submission: %d", code)
	}
}

// TestWitnessSplitView races a log and its fork: one of them is cosigned.
func TestWitnessSplitView(t *testing.T) {
	l, fork := auditedLog(t), auditedLog(t)
	grow(t, l, "a", 5)
	grow(t, fork, "b", 5)
	w, err := ledger.NewWitness("witness.invalid", testKey(9))
	if err != nil {
		t.Fatal(err)
	}
	s := &witness{Witness: w, dir: t.TempDir(), logs: witnessed(l), now: time.Now}
	var mu sync.Mutex
	cosigned := map[*ledger.Log]int{}
	var wg sync.WaitGroup
	for range 20 {
		for _, x := range []*ledger.Log{l, fork} {
			wg.Go(func() {
				_, err := s.add(ledger.Submission{Note: x.Checkpoint()}.Marshal())
				if stale := (*staleError)(nil); err != nil && !errors.As(err, &stale) {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					cosigned[x]++
				}
			})
		}
	}
	wg.Wait()
	if len(cosigned) != 1 {
		t.Errorf("%d histories of one log were cosigned", len(cosigned))
	}
}

func post(t *testing.T, url string, body []byte) (int, string) {
	t.Helper()
	resp, err := http.Post(url+"/add-checkpoint", "text/plain", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b.String()
}

// TestWitnessCommand starts the command, and a second one on its directory.
func TestWitnessCommand(t *testing.T) {
	l := auditedLog(t)
	dir := t.TempDir()
	args := []string{"log", "witness", "--trust", auditedTrust(t, l), "--name", "w.invalid", "--key", filepath.Join(dir, "key"), "--create-key", "--dir", filepath.Join(dir, "seen"), "--listen", "127.0.0.1:0"}
	ctx, cancel := context.WithCancel(t.Context())
	out, ended := newLines(), make(chan int)
	go func() { ended <- run(ctx, args, strings.NewReader(""), out, out) }()
	url := out.wait(t, "http://")
	grow(t, l, "a", 1)
	if code, _ := post(t, url, ledger.Submission{Note: l.Checkpoint()}.Marshal()); code != 200 {
		t.Errorf("the witness answered %d", code)
	}
	wantExit(t, exitUsage, "in use by another witness", args...)
	wantExit(t, exitUsage, "loopback is needed", append(args[:len(args)-1:len(args)-1], "0.0.0.0:0")...)
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("stopped, the witness ended with %d", code)
	}
}

// lines collects output that a test waits for.
type lines struct{ c chan string }

func newLines() *lines { return &lines{make(chan string, 100)} }

func (l *lines) Write(b []byte) (int, error) {
	for s := range strings.Lines(string(b)) {
		l.c <- strings.TrimSpace(s)
	}
	return len(b), nil
}

func (l *lines) wait(t *testing.T, prefix string) string {
	t.Helper()
	for {
		select {
		case s := <-l.c:
			if strings.HasPrefix(s, prefix) {
				return s
			}
		case <-time.After(20 * time.Second):
			t.Fatal(fmt.Errorf("no line that begins with %q", prefix))
		}
	}
}
