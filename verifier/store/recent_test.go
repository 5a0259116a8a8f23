package store_test

import (
	"crypto/sha256"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// TestRowsOfAnotherProcess changes, removes and makes a row through a second
// store on the same file: what the first one has kept of it counts no more. Nor
// does what a failed commit would have made of it.
func TestRowsOfAnotherProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "writ.db")
	ours, theirs := open(t, path), open(t, path)
	k := ledger.Key{Kind: "node", ID: "a"}
	begin := func(s ledger.Store) (tx ledger.Tx, value string) {
		t.Helper()
		tx, err := s.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found, err := tx.Rows([]ledger.Key{k})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			value = string(p.Value)
			clear(p.Value) // it is the caller's
		}
		return tx, value
	}
	put := func(s ledger.Store, value []byte, records ...ledger.Record) error {
		t.Helper()
		tx, _ := begin(s)
		return tx.Commit(ledger.Batch{
			Head:    ledger.Head{Root: sha256.Sum256(nil), Note: []byte("note")},
			Puts:    []ledger.Put{{Key: k, Value: value}},
			Records: records,
		})
	}
	for i, step := range []struct {
		by    ledger.Store
		value string // "": the row is removed
	}{
		{ours, "one"}, {theirs, "two"}, {theirs, ""},
		{theirs, "three"}, {ours, ""}, {ours, "four"},
	} {
		var value []byte
		if step.value != "" {
			value = []byte(step.value)
		}
		if err := put(step.by, value); err != nil {
			t.Fatal(err)
		}
		r := ledger.Record{Index: 7, Kind: "test.kind", Data: []byte("{}")}
		if err := put(ours, []byte("never"), r, r); err == nil { // one index twice
			t.Fatal("a commit of two entries with one index succeeded")
		}
		for range 2 { // as read, and as kept
			tx, got := begin(ours)
			tx.Rollback()
			if got != step.value {
				t.Errorf("after step %d the row is %q, want %q", i, got, step.value)
			}
		}
	}
}
