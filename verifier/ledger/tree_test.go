package ledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// plainTree is a tree kept the plain way, by x/mod alone.
type plainTree []Hash

func (p *plainTree) ReadHashes(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	for i, x := range indexes {
		out[i] = (*p)[x]
	}
	return out, nil
}

// fakeStore has leaf hashes and full tiles.
type fakeStore struct {
	Reader
	leaves []Hash
	tiles  map[tileID]tile
}

func (f *fakeStore) Records(_ context.Context, from, to uint64) ([]Record, error) {
	var out []Record
	for ; from < to; from++ {
		out = append(out, Record{Index: from, Hash: f.leaves[from]})
	}
	return out, nil
}

func (f *fakeStore) Tile(_ context.Context, level int, index uint64) ([]byte, error) {
	t, ok := f.tiles[tileID{level, index}]
	if !ok {
		return nil, ErrNotFound
	}
	return t.bytes(tileWidth), nil
}

// TestEdgeAgainstPlainTree grows a tree past two levels of full tiles and
// compares roots, proofs and tiles with x/mod's own arithmetic, also after the
// edge was rebuilt from the store.
func TestEdgeAgainstPlainTree(t *testing.T) {
	t.Parallel()
	var plain plainTree
	store := &fakeStore{tiles: map[tileID]tile{}}
	grown := newEdge()
	for n := range int64(66_000) {
		leaf := tlog.RecordHash(binary.BigEndian.AppendUint64(nil, uint64(n)))
		hs, err := tlog.StoredHashesForRecordHash(n, leaf, &plain)
		if err != nil {
			t.Fatal(err)
		}
		plain = append(plain, hs...)
		store.leaves = append(store.leaves, leaf)
		grown.append(leaf, store.tiles)
		switch n + 1 {
		case 1, 2, 255, 256, 257, 511, 512, 1000, 65535, 65536, 65537, 65792, 66_000:
			loaded, err := loadEdge(t.Context(), store, uint64(n+1))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range []edge{grown, grown.clone(), loaded} {
				compareTree(t, &hashes{edge: e, full: map[tileID]tile{}, load: func(id tileID) ([]byte, error) {
					return store.Tile(t.Context(), id.level, id.index)
				}}, &plain)
			}
		}
	}
	for _, tl := range tlog.NewTiles(tileHeight, 0, 66_000) {
		if tl.W < tileWidth {
			continue
		}
		want, err := tlog.ReadTileData(tl, &plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := store.Tile(t.Context(), tl.L, uint64(tl.N))
		if err != nil || string(got) != string(want) {
			t.Fatalf("%s differs (%v)", tl.Path(), err)
		}
	}
}

func compareTree(t *testing.T, got *hashes, want *plainTree) {
	t.Helper()
	size := int64(got.edge.size)
	for _, n := range []int64{0, 1, size / 3, size/256*256 - 1, size - 2, size - 1} {
		if n < 0 || n >= size {
			continue
		}
		p, err := tlog.ProveRecord(size, n, got)
		q, err2 := tlog.ProveRecord(size, n, want)
		if err != nil || err2 != nil || fmt.Sprint(p) != fmt.Sprint(q) {
			t.Fatalf("proofs of %d of %d differ (%v)", n, size, err)
		}
		root, err := got.root(uint64(n + 1))
		wantRoot, err2 := tlog.TreeHash(n+1, want)
		if err != nil || err2 != nil || root != wantRoot {
			t.Fatalf("roots at %d of %d differ (%v)", n+1, size, err)
		}
	}
}

// TestEdgeCopies appends to a copy that is given up, as a failed commit does,
// and reads an older copy meanwhile.
func TestEdgeCopies(t *testing.T) {
	t.Parallel()
	e, full := newEdge(), map[tileID]tile{}
	for i := range 300 {
		before, want := e, mustRoot(t, e)
		failed := e
		for range i % 7 {
			failed.append(Hash{1}, map[tileID]tile{})
		}
		e.append(tlog.RecordHash([]byte{byte(i)}), full)
		if got := mustRoot(t, before); got != want {
			t.Fatalf("at size %d an older copy has changed", i)
		}
	}
	if e.size != 300 || len(full) != 1 {
		t.Errorf("edge has size %d, %d tiles were filled", e.size, len(full))
	}
}

func mustRoot(t *testing.T, e edge) Hash {
	t.Helper()
	h, err := (&hashes{edge: e}).root(e.size)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
