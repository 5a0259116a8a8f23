package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
)

func appendN(t *testing.T, l *ledger.Log, n int) {
	t.Helper()
	for range n {
		if _, err := l.Append(t.Context(), countingDraft()); err != nil {
			t.Fatal(err)
		}
	}
}

// filled makes a log of n entries in dir and closes it; it returns its key.
func filled(t *testing.T, dir string, n int) (vkey string) {
	t.Helper()
	s, l := reopen(t, dir)
	appendN(t, l, n)
	if err := errors.Join(l.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return l.VerifierKey()
}

// raw changes the database behind the store's back.
func raw(t testing.TB, dir string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "writ.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// TestRolledBackDatabase puts an older copy of the file in place.
func TestRolledBackDatabase(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 5)
	old, err := os.ReadFile(filepath.Join(dir, "writ.db"))
	if err != nil {
		t.Fatal(err)
	}
	vkey := filled(t, dir, 5)
	if err := os.WriteFile(filepath.Join(dir, "writ.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(dir, "writ.db"))
	_, err = ledger.Open(t.Context(), config(s, dir))
	if !errors.Is(err, ledger.ErrRolledBack) {
		t.Fatalf("Open = %v, want ErrRolledBack", err)
	}
	for _, want := range []string{"size 5", "size 10", "restore"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error %q does not say %q", err, want)
		}
	}
	report, err := ledger.Fsck(t.Context(), s, filepath.Join(dir, "guard"), vkey)
	wantProblem(t, report, err, "guard file")
}

// TestRewrittenDatabase puts another log of the same key and a larger size in
// place.
func TestRewrittenDatabase(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	filled(t, dir, 5)
	s, l := reopen(t, other)
	for range 9 {
		if _, err := l.Append(t.Context(), benchDraft(0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Close(), s.Close(), os.Rename(filepath.Join(other, "writ.db"), filepath.Join(dir, "writ.db"))); err != nil {
		t.Fatal(err)
	}
	s = open(t, filepath.Join(dir, "writ.db"))
	if _, err := ledger.Open(t.Context(), config(s, dir)); !errors.Is(err, ledger.ErrRolledBack) {
		t.Fatalf("Open = %v, want ErrRolledBack", err)
	}
	report, err := ledger.Fsck(t.Context(), s, filepath.Join(dir, "guard"), l.VerifierKey())
	wantProblem(t, report, err, "guard file")
}

// TestRemovedDatabase starts anew beside a guard file.
func TestRemovedDatabase(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 5)
	if err := os.Remove(filepath.Join(dir, "writ.db")); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(dir, "writ.db"))
	if _, err := ledger.Open(t.Context(), config(s, dir)); !errors.Is(err, ledger.ErrRolledBack) {
		t.Fatalf("Open = %v, want ErrRolledBack", err)
	}
}

func wantProblem(t *testing.T, report ledger.Report, err error, where string) {
	t.Helper()
	if err != nil {
		t.Fatalf("Fsck could not check: %v", err)
	}
	for _, p := range report.Problems {
		if p.Where == where {
			return
		}
	}
	t.Errorf("Fsck reports %v, nothing about %q", report.Problems, where)
}

// TestCorrupt changes one thing at a time and asks whether it is named. The
// triggers that would refuse have to go first.
func TestCorrupt(t *testing.T) {
	for name, test := range map[string]struct {
		change, where string
	}{
		"Entry":            {`UPDATE log_entries SET data = CAST(replace(data, '"seq":17', '"seq":71') AS BLOB) WHERE seq = 17`, "entry 17"},
		"EntryForm":        {`UPDATE log_entries SET data = CAST(' ' || data AS BLOB) WHERE seq = 17`, "entry 17"},
		"EntryColumn":      {`UPDATE log_entries SET kind = 'test.other' WHERE seq = 17`, "entry 17"},
		"EntryTime":        {`UPDATE log_entries SET at = at - 10 WHERE seq = 17`, "entry 17"},
		"EntryTaken":       {`DELETE FROM log_entries WHERE seq = 17`, "entry 17"},
		"LeafHash":         {`UPDATE log_entries SET leaf_hash = zeroblob(32) WHERE seq = 17`, "tile 0 of level 0"},
		"ShortLeafHash":    {`UPDATE log_entries SET leaf_hash = zeroblob(31) WHERE seq = 299`, "entries from 0"},
		"Tile":             {`UPDATE log_tiles SET data = zeroblob(8192)`, "tile 0 of level 0"},
		"TileTaken":        {`DELETE FROM log_tiles`, "tile 0 of level 0"},
		"Head":             {`UPDATE log_head SET root = zeroblob(32)`, "head"},
		"ShortHead":        {`UPDATE log_head SET root = zeroblob(3)`, "head"},
		"HeadSize":         {`UPDATE log_head SET size = 299`, "head"},
		"HeadTime":         {`UPDATE log_head SET at = at + 1`, "head"},
		"HeadNote":         {`UPDATE log_head SET note = CAST(replace(note, 'example', 'exampel') AS BLOB)`, "head"},
		"ConsistentChange": {`UPDATE log_entries SET data = (SELECT data FROM log_entries WHERE seq = 16), leaf_hash = (SELECT leaf_hash FROM log_entries WHERE seq = 16) WHERE seq = 299`, "head"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, l := reopen(t, dir)
			var d []ledger.Entry
			for i := range 300 {
				d = append(d, ledger.Entry{Kind: "test.counted", Data: benchData{Seq: i}})
			}
			_, err := l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{Entries: d}, nil }})
			if err := errors.Join(err, l.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}
			raw(t, dir, append(dropTriggers(), test.change)...)
			s, err = store.ReadSQLite(t.Context(), filepath.Join(dir, "writ.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			report, err := ledger.Fsck(t.Context(), s, filepath.Join(dir, "guard"), l.VerifierKey())
			wantProblem(t, report, err, test.where)
		})
	}
}

func dropTriggers() []string {
	var out []string
	for _, name := range []string{"log_head_grows", "log_head_stays", "log_entries_fixed", "log_entries_stay", "log_tiles_fixed", "log_tiles_stay", "blobs_fixed"} {
		out = append(out, "DROP TRIGGER "+name)
	}
	return out
}

// TestCorruptEdge: what the head is not signed for is not appended to.
func TestCorruptEdge(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 5)
	raw(t, dir, append(dropTriggers(), `UPDATE log_entries SET leaf_hash = zeroblob(32) WHERE seq = 3`)...)
	s := open(t, filepath.Join(dir, "writ.db"))
	if _, err := ledger.Open(t.Context(), config(s, dir)); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("Open = %v, want ErrCorrupt", err)
	}
}

func TestCorruptBlob(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 1)
	raw(t, dir, append(dropTriggers(), `UPDATE blobs SET sum = zeroblob(32)`,
		`INSERT INTO blobs (sum, size, data) VALUES (x'01', 1000000000000, x'00'), (x'02', 5, x'0102030405')`)...)
	s, l := reopen(t, dir)
	defer l.Close()
	if _, err := l.Blob(t.Context(), [32]byte{}); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("Blob = %v, want ErrCorrupt", err)
	}
	problems, err := s.Check(t.Context())
	if err != nil || len(problems) != 3 {
		t.Errorf("Check = %q, %v, want three blobs", problems, err)
	}
}

// TestHistoryIsRefusedToChange tries what only an attacker inside the program,
// or a mistake, would.
func TestHistoryIsRefusedToChange(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 300)
	db, err := sql.Open("sqlite", filepath.Join(dir, "writ.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range []string{
		`UPDATE log_entries SET data = x'00' WHERE seq = 1`,
		`DELETE FROM log_entries WHERE seq = 299`,
		`UPDATE log_tiles SET data = x'00'`,
		`DELETE FROM log_tiles`,
		`UPDATE log_head SET size = size - 1`,
		`UPDATE log_head SET at = at - 1`,
		`UPDATE log_head SET root = x'00'`,
		`DELETE FROM log_head`,
		`UPDATE log_entries SET data = x'', subject = '' WHERE seq = 1`,
		`UPDATE log_sweep SET open = 1; DELETE FROM log_entries WHERE seq = 1`,
		`UPDATE log_sweep SET open = 1; UPDATE log_entries SET data = x'', subject = '', leaf_hash = zeroblob(32) WHERE seq = 1`,
		`UPDATE log_sweep SET open = 1; UPDATE log_entries SET data = x'00', subject = '' WHERE seq = 1`,
		`UPDATE log_sweep SET open = 1; UPDATE blobs SET data = x'00'`,
		`UPDATE log_sweep SET open = 0; DELETE FROM blobs`,
	} {
		if _, err := db.ExecContext(t.Context(), s); err == nil {
			t.Errorf("%s: done", s)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 1)
	raw(t, dir, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	if s, err := store.OpenSQLite(t.Context(), filepath.Join(dir, "writ.db")); err == nil || !strings.Contains(err.Error(), "9999") {
		t.Errorf("OpenSQLite = %v, %v", s, err)
	}
	if s, err := store.ReadSQLite(t.Context(), filepath.Join(dir, "writ.db")); err == nil {
		t.Errorf("ReadSQLite = %v", s)
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir, 1)
	db, err := sql.Open("sqlite", filepath.Join(dir, "writ.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for pragma, want := range map[string]string{"page_size": "8192", "journal_mode": "wal"} {
		var got string
		if err := db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", pragma, got, err, want)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "writ.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("database has mode %v, %v", info.Mode(), err)
	}
}

func TestReadOnlyBesideAWriter(t *testing.T) {
	dir := t.TempDir()
	_, l := reopen(t, dir)
	defer l.Close()
	appendN(t, l, 3)
	r, err := store.ReadSQLite(t.Context(), filepath.Join(dir, "writ.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	wantClean(t, r, dir, l.VerifierKey())
	if _, err := r.Begin(t.Context()); err == nil {
		t.Error("a store open for reading begins a transaction")
	}
	appendN(t, l, 1)
	if h, err := r.Head(t.Context()); err != nil || h.Size != 4 {
		t.Errorf("head = %+v, %v", h, err)
	}
	if _, err := store.ReadSQLite(t.Context(), filepath.Join(dir, "none.db")); err == nil {
		t.Error("a database that does not exist is read")
	}
}

// TestBackup copies a log in use. The copy is whole, and too old as soon as the
// log has grown.
func TestBackup(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	s, l := reopen(t, dir)
	appendN(t, l, 30)
	path := filepath.Join(copied, "writ.db")
	if err := s.Backup(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(t.Context(), path); err == nil {
		t.Error("a backup overwrites the one before")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("backup has mode %v, %v", info.Mode(), err)
	}
	appendN(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := open(t, path)
	report, err := ledger.Fsck(t.Context(), c, "", l.VerifierKey())
	if err != nil || len(report.Problems) > 0 || report.Size != 30 {
		t.Errorf("Fsck of the backup = %+v, %v", report, err)
	}
	if problems, err := c.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("Check of the backup = %v, %v", problems, err)
	}
	if _, err := ledger.Open(t.Context(), config(c, dir)); !errors.Is(err, ledger.ErrRolledBack) {
		t.Errorf("Open of the backup = %v, want ErrRolledBack", err)
	}
}

// TestTwoProcesses has two stores on one file, as two processes would.
func TestTwoProcesses(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	_, a := reopen(t, dir)
	defer a.Close()
	b, err := ledger.Open(t.Context(), config(open(t, filepath.Join(dir, "writ.db")), other))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for i := range 20 {
		l := a
		if i%2 == 1 {
			l = b
		}
		appendN(t, l, 1)
	}
	if a.Size()+b.Size() != 39 {
		t.Errorf("the logs see sizes %d and %d", a.Size(), b.Size())
	}
}

func TestNotADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "writ.db")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(f, strings.Repeat("this is not a database\n", 1000))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenSQLite(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("OpenSQLite = %v", err)
	}
	if _, err := store.OpenSQLite(t.Context(), fmt.Sprintf("%s/none/writ.db", t.TempDir())); err == nil {
		t.Error("a database in no directory is made")
	}
}
