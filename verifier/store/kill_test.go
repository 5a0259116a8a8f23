package store_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
)

// childDir makes this test binary the writer that TestKillNine kills.
const childDir = "WRIT_TEST_APPEND_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		run := appendForEver
		if os.Getenv(childFaulty) != "" {
			run = appendDespite
		}
		fmt.Fprintln(os.Stderr, run(dir))
		os.Exit(1)
	}
	code := m.Run()
	if largeDir != "" {
		_ = os.RemoveAll(largeDir)
	}
	os.Exit(code)
}

func config(s ledger.Store, dir string) ledger.Config {
	return ledger.Config{Store: s, Origin: origin, Key: logKey(), GuardFile: filepath.Join(dir, "guard")}
}

// appendForEver writes each receipt to standard output once it has it, and
// counts in one state row beside the entries.
func appendForEver(dir string) error {
	ctx := context.Background()
	s, err := store.OpenSQLite(ctx, filepath.Join(dir, "writ.db"))
	if err != nil {
		return err
	}
	l, err := ledger.Open(ctx, config(s, dir))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	failed := make(chan error)
	for range 8 {
		go func() {
			for {
				rs, err := l.Append(ctx, countingDraft())
				if err == nil {
					mu.Lock()
					err = out.Encode(rs[0])
					mu.Unlock()
				}
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// countingDraft makes the row count/all the number of entries, each entry its
// own number, and puts a blob.
func countingDraft() ledger.Draft {
	k := ledger.Key{Kind: "count", ID: "all"}
	return ledger.Draft{Keys: []ledger.Key{k}, Blobs: [][]byte{[]byte("blob")}, Build: func(s ledger.Slot) (ledger.Change, error) {
		row, _ := s.Row(k)
		n, _ := strconv.Atoi(string(row))
		if uint64(n) != s.Index {
			return ledger.Change{}, fmt.Errorf("row says %d entries, the log has %d", n, s.Index)
		}
		return ledger.Change{
			Entries: []ledger.Entry{{Kind: "test.counted", Data: benchData{Seq: n}}},
			Puts:    []ledger.Put{{Key: k, Value: strconv.AppendInt(nil, int64(n)+1, 10)}},
		}, nil
	}}
}

// soak multiplies the rounds of tests that meet chance: `make soak`.
func soak(t *testing.T, rounds int) int {
	if s := os.Getenv("WRIT_SOAK"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("WRIT_SOAK=%s: expected a number to multiply rounds with", s)
		}
		return n * rounds
	}
	return rounds
}

// TestKillNine kills a writer at random moments under load. Whatever it has
// acknowledged proves afterwards, state and log agree, and fsck is clean.
func TestKillNine(t *testing.T) {
	t.Parallel()
	var dir string
	rounds := soak(t, 50)
	if testing.Short() {
		rounds = 3
	}
	acknowledged := 0
	for round := range rounds {
		if round%50 == 0 { // a small log is checked sooner, so more often
			dir = t.TempDir()
		}
		got := killedWriter(t, dir, time.Duration(1+rand.IntN(40))*time.Millisecond)
		if acknowledged += len(got); round%100 == 99 {
			t.Logf("%d kills, %d entries acknowledged", round+1, acknowledged)
		}
		s, l := reopen(t, dir)
		k := ledger.Key{Kind: "count", ID: "all"}
		row, _, err := l.Get(t.Context(), k)
		if err != nil || string(row) != strconv.FormatUint(l.Size(), 10) {
			t.Fatalf("round %d: row says %s entries, the log has %d (%v)", round, row, l.Size(), err)
		}
		checkAcknowledged(t, l, got)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		wantClean(t, s, dir, l.VerifierKey())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acknowledged == 0 {
		t.Error("nothing was acknowledged in any round")
	}
	t.Logf("%d rounds, %d entries acknowledged", rounds, acknowledged)
}

// killedWriter runs a writer, kills it some time after its first receipt, and
// returns the receipts it gave out.
func killedWriter(t *testing.T, dir string, after time.Duration) []ledger.Receipt {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), self(t))
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	got := receipts(t, cmd, func() { time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) })
	if len(got) == 0 {
		t.Fatal("the writer died by itself")
	}
	return got
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// receipts runs a writer to its end and returns the receipts it gave out. first
// is called with the first of them.
func receipts(t *testing.T, cmd *exec.Cmd, first func()) []ledger.Receipt {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got []ledger.Receipt
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // a half-written last line was not given out
			if err != io.EOF {
				t.Error(err)
			}
			break
		}
		var r ledger.Receipt
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if got = append(got, r); len(got) == 1 {
			first()
		}
	}
	_ = cmd.Wait() // killed, or failed as it was made to
	return got
}

func reopen(t *testing.T, dir string) (*store.SQLite, *ledger.Log) {
	t.Helper()
	s := open(t, filepath.Join(dir, "writ.db"))
	l, err := ledger.Open(t.Context(), config(s, dir))
	if err != nil {
		t.Fatal(err)
	}
	return s, l
}

func checkAcknowledged(t *testing.T, l *ledger.Log, rs []ledger.Receipt) {
	t.Helper()
	older := map[uint64]bool{}
	for i, r := range rs {
		e, err := l.Entry(t.Context(), r.Index)
		if err != nil || string(e) != string(r.Entry) {
			t.Fatalf("entry %d was acknowledged as %s, it is %s (%v)", r.Index, r.Entry, e, err)
		}
		p, err := ledger.ParseProof(r.Proof)
		if err != nil {
			t.Fatal(err)
		}
		if i%50 > 0 && i != len(rs)-1 {
			continue // signatures are slow under the race detector
		}
		if _, _, err := ledger.CheckProof(r.Proof, r.Entry, l.VerifierKey()); err != nil {
			t.Fatalf("entry %d: %v", r.Index, err)
		}
		c, err := ledger.OpenCheckpoint(p.Note, l.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		if older[c.Size] {
			continue
		}
		older[c.Size] = true
		if err := l.Confront(t.Context(), p.Note); err != nil {
			t.Fatalf("the checkpoint of size %d that was given out: %v", c.Size, err)
		}
	}
}

func wantClean(t *testing.T, s *store.SQLite, dir, vkey string) {
	t.Helper()
	report, err := ledger.Fsck(t.Context(), s, filepath.Join(dir, "guard"), vkey)
	if err != nil || len(report.Problems) > 0 || len(report.Warnings) > 0 {
		t.Fatalf("Fsck = %+v, %v", report, err)
	}
	problems, err := s.Check(t.Context())
	if err != nil || len(problems) > 0 {
		t.Fatalf("Check = %v, %v", problems, err)
	}
}
