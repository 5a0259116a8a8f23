package tessera

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
)

// TestFsckOfOurLog has Tessera check a log of ours as it is served: entry
// bundles, full and partial tiles and the checkpoint above them.
func TestFsckOfOurLog(t *testing.T) {
	if err := check(t, fetcher{ourLog(t, 70_000), -1}); err != nil { // three levels of tiles
		t.Errorf("Tessera refuses the log: %v", err)
	}
	// Of a long log that is wrong, Tessera v1.0.4 checks no more after the
	// first error, but does not return either.
	if err := check(t, fetcher{ourLog(t, 1_000), 3}); err == nil {
		t.Error("Tessera accepts the log with a changed entry bundle")
	}
}

func ourLog(t *testing.T, entries int) *ledger.Log {
	t.Helper()
	dir := t.TempDir()
	s, err := store.OpenSQLite(t.Context(), filepath.Join(dir, "writ.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l, err := ledger.Open(t.Context(), ledger.Config{
		Store:     s,
		Origin:    origin,
		Key:       ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		GuardFile: filepath.Join(dir, "guard"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	all := make([]ledger.Entry, entries)
	for i := range all {
		all[i] = ledger.Entry{Kind: "test.counted", Data: map[string]int{"seq": i}}
	}
	_, err = l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Entries: all}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func check(t *testing.T, f fetcher) error {
	t.Helper()
	v, err := note.NewVerifier(f.log.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	return fsck.New(origin, v, f, leafHashes, fsck.Opts{N: 2}).Check(t.Context())
}

// leafHashes are those of a bundle's entries (RFC 6962 section 2.1).
func leafHashes(b []byte) ([][]byte, error) {
	var bundle api.EntryBundle
	if err := bundle.UnmarshalText(b); err != nil {
		return nil, fmt.Errorf("parsing bundle: %w", err)
	}
	var out [][]byte
	for _, e := range bundle.Entries {
		sum := sha256.Sum256(append([]byte{0}, e...))
		out = append(out, sum[:])
	}
	return out, nil
}

// fetcher reads our log as Tessera's tools read one, where a width of 0 is a
// full tile. It changes one entry bundle; -1: none.
type fetcher struct {
	log     *ledger.Log
	changed int
}

func (f fetcher) ReadCheckpoint(context.Context) ([]byte, error) { return f.log.Checkpoint(), nil }

func (f fetcher) ReadTile(ctx context.Context, level, index uint64, p uint8) ([]byte, error) {
	return f.log.Tile(ctx, int(level), index, width(p))
}

func (f fetcher) ReadEntryBundle(ctx context.Context, index uint64, p uint8) ([]byte, error) {
	b, err := f.log.EntryBundle(ctx, index, width(p))
	if err == nil && int(index) == f.changed {
		b[len(b)-1] ^= 1
	}
	return b, err
}

func width(p uint8) int {
	if p == 0 {
		return 256
	}
	return int(p)
}
