package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// TestRoomInTheWriteAheadLog lengthens the write-ahead log of a writer that goes
// on, while a reader and a second writer are at it, and loses nothing by that;
// nor does a process that finds the log as one that was killed has left it.
func TestRoomInTheWriteAheadLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "writ.db")
	wal := func() int64 {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	var logs []*ledger.Log
	for _, guard := range []string{dir, t.TempDir()} { // both while the log is empty
		l, err := ledger.Open(t.Context(), config(open(t, path), guard))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		logs = append(logs, l)
	}
	l, other := logs[0], logs[1]
	appendN(t, l, 10)
	short := wal()
	for range 40 {
		appendN(t, l, 1)
		appendN(t, other, 1)
	}
	if long := wal(); short > 2<<20 || long < 8<<20 {
		t.Errorf("the write-ahead log had %d bytes at first, then %d", short, long)
	}
	left := filepath.Join(t.TempDir(), "writ.db")
	for _, suffix := range []string{"", "-wal"} { // as it stands when the process is killed
		b, err := os.ReadFile(path + suffix)
		if err == nil {
			err = os.WriteFile(left+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, left)
	head, err := s.Head(t.Context())
	if err != nil || head.Size != 90 {
		t.Errorf("what was left has size %d, want 90 (%v)", head.Size, err)
	}
	if problems, err := s.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("what was left: %v, %v", problems, err)
	}
}
