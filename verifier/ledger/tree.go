package ledger

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// The tree is kept as c2sp.org/tlog-tiles has it: tiles of height 8. Only full
// tiles are stored; the one unfinished tile of each level is the edge, held in
// memory and enough to append. Hash indexes are those of x/mod/sumdb/tlog.

const (
	tileHeight = 8
	tileBytes  = tileWidth * tlog.HashSize
	maxLevels  = 8 // of tiles: 256^8 entries
)

// tile is a subtree of height 8, growing from the left. rows[k] holds the
// complete nodes of height k; rows[0] is what tlog-tiles serves.
//
// Rows only ever grow, so a copy of a tile stays valid while the original
// grows on: both share memory, but each reads only up to its own lengths.
type tile struct {
	rows [tileHeight + 1][]Hash
}

func newTile() tile {
	var t tile
	all := make([]Hash, 2*tileWidth-1)
	for k := range t.rows {
		n := tileWidth >> k
		t.rows[k], all = all[:0:n], all[n:]
	}
	return t
}

// parseTile reads the bytes of a full tile.
func parseTile(b []byte) (tile, error) {
	if len(b) != tileBytes {
		return tile{}, fmt.Errorf("tile has %d bytes, expected %d", len(b), tileBytes)
	}
	t := newTile()
	for ; len(b) > 0; b = b[tlog.HashSize:] {
		t.push(Hash(b[:tlog.HashSize]))
	}
	return t, nil
}

// push adds a node of height 0, and those above that it completes.
func (t *tile) push(h Hash) {
	for k := range t.rows {
		t.rows[k] = append(t.rows[k], h)
		n := len(t.rows[k])
		if n%2 == 1 || k == tileHeight {
			return
		}
		h = tlog.NodeHash(t.rows[k][n-2], h)
	}
}

func (t *tile) width() int { return len(t.rows[0]) }

// bytes returns the first width hashes, concatenated.
func (t *tile) bytes(width int) []byte {
	b := make([]byte, 0, width*tlog.HashSize)
	for _, h := range t.rows[0][:width] {
		b = append(b, h[:]...)
	}
	return b
}

// tileID is a tile's place.
type tileID struct {
	level int
	index uint64
}

// edge is the right edge of a tree: at each level the unfinished tile, which
// may be empty. It is a value: a copy is a snapshot.
type edge struct {
	size  uint64
	tiles [maxLevels]tile
}

func newEdge() edge {
	var e edge
	for l := range e.tiles {
		e.tiles[l] = newTile()
	}
	return e
}

// id returns the place of the unfinished tile of a level.
func (e *edge) id(level int) tileID {
	return tileID{level, e.size >> (tileHeight * (level + 1))}
}

// clone returns a copy that may be appended to whatever becomes of e.
func (e *edge) clone() edge {
	c := edge{size: e.size}
	for l := range e.tiles {
		c.tiles[l] = newTile()
		for k, row := range e.tiles[l].rows {
			c.tiles[l].rows[k] = append(c.tiles[l].rows[k], row...)
		}
	}
	return c
}

// append adds a leaf. Tiles that it fills go to full.
//
// Of two copies of one edge only one may be appended to, unless the other is a
// clone or what was appended to it is given up: they share memory.
func (e *edge) append(leaf Hash, full map[tileID]tile) {
	h := leaf
	for l := range e.tiles {
		t := &e.tiles[l]
		t.push(h)
		if t.width() < tileWidth {
			break
		}
		full[e.id(l)] = *t
		h = t.rows[tileHeight][0]
		*t = newTile()
	}
	e.size++
}

// hashes answers tlog's reads from tiles: the edge, those in full, and those
// that load brings. It is for one goroutine; loaded tiles are kept in full.
type hashes struct {
	edge edge
	full map[tileID]tile
	load func(tileID) ([]byte, error) // of full tiles; nil: there are no others
}

// ReadHashes implements tlog.HashReader.
func (r *hashes) ReadHashes(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		k := level % tileHeight
		id := tileID{level / tileHeight, uint64(n) >> (tileHeight - k)}
		t, err := r.tile(id)
		if err != nil {
			return nil, err
		}
		at := int(n) & (tileWidth>>k - 1)
		if at >= len(t.rows[k]) {
			return nil, fmt.Errorf("tree of size %d has no node %d at height %d", r.edge.size, n, level)
		}
		out[i] = t.rows[k][at]
	}
	return out, nil
}

func (r *hashes) tile(id tileID) (tile, error) {
	if id.level >= maxLevels {
		return tile{}, fmt.Errorf("tree has no tiles of level %d", id.level)
	}
	if id == r.edge.id(id.level) {
		return r.edge.tiles[id.level], nil
	}
	if t, ok := r.full[id]; ok {
		return t, nil
	}
	if r.load == nil || id.index > r.edge.id(id.level).index {
		return tile{}, fmt.Errorf("tree of size %d has no tile %d of level %d", r.edge.size, id.index, id.level)
	}
	b, err := r.load(id)
	if err != nil {
		return tile{}, err
	}
	t, err := parseTile(b)
	if err != nil {
		return tile{}, fmt.Errorf("reading tile %d of level %d: %w", id.index, id.level, err)
	}
	r.full[id] = t
	return t, nil
}

// root returns the root of the tree at a size up to the edge's.
func (r *hashes) root(size uint64) (Hash, error) {
	h, err := tlog.TreeHash(int64(size), r)
	if err != nil {
		return Hash{}, fmt.Errorf("computing the root at size %d: %w", size, err)
	}
	return h, nil
}
