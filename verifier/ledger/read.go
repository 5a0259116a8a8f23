package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Get returns a state row.
func (l *Log) Get(ctx context.Context, k Key) (value []byte, ok bool, err error) {
	rows, err := l.store.Rows(ctx, []Key{k})
	if err != nil {
		return nil, false, fmt.Errorf("reading row %s/%s: %w", k.Kind, k.ID, err)
	}
	if len(rows) == 0 {
		return nil, false, nil
	}
	return rows[0].Value, true, nil
}

// List returns up to limit rows of a kind, by id, from the first one after the
// given id.
func (l *Log) List(ctx context.Context, kind, after string, limit int) ([]Put, error) {
	rows, err := l.store.List(ctx, kind, after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing %s rows: %w", kind, err)
	}
	return rows, nil
}

// Blob returns the blob with that SHA-256, checked again. [ErrNotFound] if it
// was never put or was given up by retention.
func (l *Log) Blob(ctx context.Context, sum [32]byte) ([]byte, error) {
	b, err := l.store.Blob(ctx, sum)
	if err != nil {
		return nil, fmt.Errorf("reading blob %x: %w", sum, err)
	}
	if sha256.Sum256(b) != sum {
		return nil, fmt.Errorf("reading blob %x: %w: it has another hash", sum, ErrCorrupt)
	}
	return b, nil
}

// Checkpoint returns the latest signed checkpoint, with its cosignatures if it
// has them already.
func (l *Log) Checkpoint() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.witnessed; w != nil && w.edge.size == l.head.edge.size {
		return w.note
	}
	return l.head.note
}

// Size returns the number of entries under the latest checkpoint.
func (l *Log) Size() uint64 { return l.current().edge.size }

// Entry returns the leaf at an index, checked against the tree.
func (l *Log) Entry(ctx context.Context, index uint64) ([]byte, error) {
	leaves, err := l.Entries(ctx, index, index+1)
	if err != nil {
		return nil, err
	}
	return leaves[0], nil
}

// Entries returns the leaves from index from up to, not including, to. There
// may be fewer (at least one): ask again from there. [ErrNotFound] when the log
// has none of them, [ErrPruned] when the first was given up.
func (l *Log) Entries(ctx context.Context, from, to uint64) ([][]byte, error) {
	size := l.Size()
	to = min(to, size)
	if from >= to {
		return nil, fmt.Errorf("reading entry %d of a log of size %d: %w", from, size, ErrNotFound)
	}
	records, err := l.store.Records(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("reading entries from %d: %w", from, err)
	}
	leaves := make([][]byte, len(records))
	for i, r := range records {
		if len(r.Data) == 0 && r.Index == from+uint64(i) {
			if i > 0 {
				return leaves[:i], nil
			}
			return nil, fmt.Errorf("reading entry %d: %w", r.Index, ErrPruned)
		}
		if r.Index != from+uint64(i) || tlog.RecordHash(r.Data) != r.Hash {
			return nil, fmt.Errorf("reading entry %d: %w: it has another hash", from+uint64(i), ErrCorrupt)
		}
		leaves[i] = r.Data
	}
	if len(leaves) == 0 {
		return nil, fmt.Errorf("reading entry %d: %w: it is missing", from, ErrCorrupt)
	}
	return leaves, nil
}

// Found is an entry and its index.
type Found struct {
	Index uint64
	Leaf  Leaf
}

// pageOfFind is how many entries Find looks through at most.
const pageOfFind = 1024

// Find looks through the entries from an index on, a good many at a time, and returns
// those of some kinds, and where to go on: the log's size when there are no more.
// Entries whose bytes retention gave up are left out.
func (l *Log) Find(ctx context.Context, from uint64, kinds ...string) (out []Found, next uint64, err error) {
	size := l.Size()
	if from >= size {
		return nil, max(from, size), nil
	}
	to := min(size, from+pageOfFind)
	l.mu.Lock()
	records := l.tail.between(from, to)
	l.mu.Unlock()
	if records == nil {
		if records, err = l.store.Records(ctx, from, to); err != nil {
			return nil, from, fmt.Errorf("reading entries from %d: %w", from, err)
		}
	}
	for i, r := range records {
		if r.Index != from+uint64(i) {
			return nil, from, fmt.Errorf("reading entry %d: %w: it is missing", from+uint64(i), ErrCorrupt)
		}
		if len(r.Data) == 0 || !slices.Contains(kinds, r.Kind) {
			continue
		}
		leaf, err := ParseLeaf(r.Data)
		if err != nil || tlog.RecordHash(r.Data) != r.Hash || leaf.Kind != r.Kind {
			return nil, from, fmt.Errorf("reading entry %d: %w: it is not what it was", r.Index, ErrCorrupt)
		}
		out = append(out, Found{r.Index, leaf})
	}
	if len(records) == 0 {
		return nil, from, fmt.Errorf("reading entry %d: %w: it is missing", from, ErrCorrupt)
	}
	return out, from + uint64(len(records)), nil
}

// Prove returns the proof (c2sp.org/tlog-proof@v1) that the entry at an index
// is under the latest checkpoint, or under the latest cosigned one that has it.
func (l *Log) Prove(ctx context.Context, index uint64) (string, error) {
	h := l.provable(index)
	if index >= h.edge.size {
		return "", fmt.Errorf("proving entry %d of a log of size %d: %w", index, h.edge.size, ErrNotFound)
	}
	tree := l.tree(ctx, h)
	path, err := tlog.ProveRecord(int64(h.edge.size), int64(index), tree)
	if err != nil {
		return "", fmt.Errorf("proving entry %d: %w", index, err)
	}
	leaf, err := tree.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(index))})
	if err == nil { // a tile that a disk has changed proves nothing
		err = tlog.CheckRecord(path, int64(h.edge.size), h.root, int64(index), leaf[0])
	}
	if err != nil {
		return "", fmt.Errorf("proving entry %d: %w: %w", index, ErrCorrupt, err)
	}
	return Proof{Index: index, Path: path, Note: h.note}.Marshal(), nil
}

// Consistency returns the proof that the log of size newer extends the one of
// size older, for [CheckConsistency].
func (l *Log) Consistency(ctx context.Context, older, newer uint64) ([]Hash, error) {
	h := l.current()
	if older > newer || newer > h.edge.size {
		return nil, fmt.Errorf("proving that size %d extends %d in a log of size %d: %w", newer, older, h.edge.size, ErrNotFound)
	}
	if older == 0 || older == newer {
		return nil, nil
	}
	proof, err := tlog.ProveTree(int64(newer), int64(older), l.tree(ctx, h))
	if err != nil {
		return nil, fmt.Errorf("proving that size %d extends %d: %w", newer, older, err)
	}
	return proof, nil
}

// Tile returns the bytes of a hash tile, full (width 256) or partial.
func (l *Log) Tile(ctx context.Context, level int, index uint64, width int) ([]byte, error) {
	h := l.current()
	if !h.has(TilePath{level, index, width}) {
		return nil, fmt.Errorf("reading tile %d of level %d, width %d, of a log of size %d: %w", index, level, width, h.edge.size, ErrNotFound)
	}
	t, err := l.tree(ctx, h).tile(tileID{level, index})
	if err != nil {
		return nil, err
	}
	return t.bytes(width), nil
}

// EntryBundle returns the bytes of an entry bundle, full (width 256) or
// partial: each leaf after its length as a big-endian uint16.
func (l *Log) EntryBundle(ctx context.Context, index uint64, width int) ([]byte, error) {
	h := l.current()
	if !h.has(TilePath{0, index, width}) {
		return nil, fmt.Errorf("reading entry bundle %d, width %d, of a log of size %d: %w", index, width, h.edge.size, ErrNotFound)
	}
	var out []byte
	from := index * tileWidth
	for to := from + uint64(width); from < to; {
		leaves, err := l.Entries(ctx, from, to)
		if err != nil {
			return nil, err
		}
		for _, leaf := range leaves {
			out = append(binary.BigEndian.AppendUint16(out, uint16(len(leaf))), leaf...)
		}
		from += uint64(len(leaves))
	}
	return out, nil
}

// has reports whether the log has all hashes of a tile.
func (h *head) has(p TilePath) bool {
	if p.Level < 0 || p.Level >= maxLevels || p.Width < 1 || p.Width > tileWidth {
		return false
	}
	last := h.edge.id(p.Level).index
	if p.Index == last {
		return p.Width <= h.edge.tiles[p.Level].width()
	}
	return p.Index < last
}

// tree returns a reader of the hashes below a head.
func (l *Log) tree(ctx context.Context, h *head) *hashes {
	return &hashes{edge: h.edge, full: map[tileID]tile{}, load: func(id tileID) ([]byte, error) {
		b, err := l.store.Tile(ctx, id.level, id.index)
		if err != nil {
			return nil, fmt.Errorf("reading tile %d of level %d: %w", id.index, id.level, err)
		}
		return b, nil
	}}
}
