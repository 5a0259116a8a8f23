package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrDiverged: a log's signed checkpoints contradict each other. Keep both: they
// are the proof.
var ErrDiverged = errors.New("log contradicts itself")

// Fetch reads a resource of c2sp.org/tlog-tiles below a log's prefix, such as
// "checkpoint" or "tile/0/000.p/3". It is ErrNotFound where there is none.
type Fetch func(ctx context.Context, path string) ([]byte, error)

// Remote is a log as an outsider sees it under one checkpoint. Nothing is
// believed but what the checkpoint's signature covers.
type Remote struct {
	Checkpoint
	Note []byte // the signed checkpoint

	fetch Fetch
}

// OpenRemote reads the latest checkpoint and checks that one of vkeys has signed
// it; else it is ErrKey.
func OpenRemote(ctx context.Context, fetch Fetch, vkeys ...string) (*Remote, error) {
	note, err := fetch(ctx, "checkpoint")
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	return RemoteAt(fetch, note, vkeys...)
}

// RemoteAt is the log under a signed checkpoint that was read before: it may not
// show so much any more.
func RemoteAt(fetch Fetch, note []byte, vkeys ...string) (*Remote, error) {
	c, err := OpenCheckpoint(note, vkeys...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &Remote{Checkpoint: c, Note: note, fetch: fetch}, nil
}

// Extends checks that the log begins with what an earlier checkpoint, opened
// with the same keys, was signed for. ErrDiverged if it does not.
func (r *Remote) Extends(ctx context.Context, older Checkpoint) error {
	switch {
	case older.Origin != r.Origin:
		return fmt.Errorf("checkpoints of two logs, %q and %q, have nothing to be consistent in", older.Origin, r.Origin)
	case older.Size > r.Size:
		return fmt.Errorf("%w: size %d was signed before, now it shows size %d", ErrDiverged, older.Size, r.Size)
	}
	root := emptyRoot()
	if older.Size > 0 {
		var err error
		if root, err = tlog.TreeHash(int64(older.Size), r.hashes(ctx)); err != nil {
			return fmt.Errorf("reading the tree at size %d: %w", older.Size, err)
		}
	}
	if root != older.Root {
		return fmt.Errorf("%w: root %s was signed for its first %d entries, now they have root %s", ErrDiverged, older.Root, older.Size, root)
	}
	return nil
}

// Entries returns the leaves from index up to the end of their bundle (256), or
// of the log, checked against the checkpoint.
func (r *Remote) Entries(ctx context.Context, from uint64) ([][]byte, error) {
	if from >= r.Size {
		return nil, fmt.Errorf("reading entry %d of a log of size %d: %w", from, r.Size, ErrNotFound)
	}
	first := from - from%tileWidth
	leaves, err := r.bundle(ctx, first/tileWidth)
	if err != nil {
		return nil, err
	}
	indexes := make([]int64, len(leaves))
	for i := range leaves {
		indexes[i] = tlog.StoredHashIndex(0, int64(first)+int64(i))
	}
	want, err := r.hashes(ctx).ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("reading the hashes of entries from %d: %w", first, err)
	}
	for i, leaf := range leaves {
		if tlog.RecordHash(leaf) != want[i] {
			return nil, fmt.Errorf("reading entry %d: %w: it has another hash", first+uint64(i), ErrCorrupt)
		}
	}
	return leaves[from-first:], nil
}

// Prove returns the proof that entry index stands in the log under the checkpoint, as
// [Log.Prove] does.
func (r *Remote) Prove(ctx context.Context, index uint64) (string, error) {
	if index >= r.Size {
		return "", fmt.Errorf("proving entry %d of a log of size %d: %w", index, r.Size, ErrNotFound)
	}
	path, err := tlog.ProveRecord(int64(r.Size), int64(index), r.hashes(ctx))
	if err != nil {
		return "", fmt.Errorf("proving entry %d: %w", index, err)
	}
	return Proof{Index: index, Path: path, Note: r.Note}.Marshal(), nil
}

// Fsck is the function [Fsck] for an outsider: everything is derived again and
// compared, from the entries or, where those are not for everybody, from their
// hashes alone.
func (r *Remote) Fsck(ctx context.Context, entries bool, vkeys ...string) (Report, error) {
	f := fsck{store: &remoteReader{Remote: r, entries: entries}, edge: newEdge(), full: map[tileID]tile{}, hashesOnly: !entries}
	return f.run(ctx, Signers{Keys: vkeys})
}

// width is that of a tile or bundle of level 0 under the checkpoint.
func (r *Remote) width(index uint64) int { return int(min(tileWidth, r.Size-index*tileWidth)) }

func (r *Remote) bundle(ctx context.Context, index uint64) ([][]byte, error) {
	path := TilePath{Entries, index, r.width(index)}.String()
	b, err := r.fetch(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	leaves, err := parseBundle(b, r.width(index))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return leaves, nil
}

// parseBundle reads the bytes of an entry bundle of n entries.
func parseBundle(b []byte, n int) ([][]byte, error) {
	var leaves [][]byte
	for len(leaves) < n {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, fmt.Errorf("%w: entry bundle ends within entry %d of %d", ErrCorrupt, len(leaves), n)
		}
		end := 2 + int(binary.BigEndian.Uint16(b))
		leaves, b = append(leaves, b[2:end]), b[end:]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: entry bundle has %d bytes after its %d entries", ErrCorrupt, len(b), n)
	}
	return leaves, nil
}

// hashes reads hashes that are proven to be under the checkpoint's root.
func (r *Remote) hashes(ctx context.Context) tlog.HashReader {
	tiles := &tileReader{ctx: ctx, fetch: r.fetch}
	return provenReader{tlog.TileHashReader(tlog.Tree{N: int64(r.Size), Hash: r.Root}, tiles), tiles}
}

// provenReader tells tiles that do not hold ([ErrCorrupt]) from tiles that were
// not to be had.
type provenReader struct {
	tlog.HashReader
	tiles *tileReader
}

func (p provenReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes, err := p.HashReader.ReadHashes(indexes)
	if err != nil && p.tiles.failed == nil {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return hashes, err
}

// tileReader lives for one call, so it may hold its context.
type tileReader struct {
	ctx    context.Context
	fetch  Fetch
	failed error // of a fetch
}

func (*tileReader) Height() int                     { return tileHeight }
func (*tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (t *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, x := range tiles {
		path := TilePath{x.L, uint64(x.N), x.W}.String()
		var err error
		if out[i], err = t.fetch(t.ctx, path); err != nil {
			t.failed = fmt.Errorf("reading %s: %w", path, err)
			return nil, t.failed
		}
	}
	return out, nil
}

// remoteReader shows fsck a remote log as it shows a store: unchecked.
type remoteReader struct {
	*Remote
	entries bool
}

var errNotRemote = errors.New("a remote log shows no state")

func (r *remoteReader) Rows(context.Context, []Key) ([]Put, error) { return nil, errNotRemote }
func (r *remoteReader) List(context.Context, string, string, int) ([]Put, error) {
	return nil, errNotRemote
}
func (r *remoteReader) Blob(context.Context, Hash) ([]byte, error) { return nil, errNotRemote }

// Head takes its time from the last entry, as no checkpoint has one.
func (r *remoteReader) Head(ctx context.Context) (Head, error) {
	h := Head{Size: r.Size, Root: r.Root, Note: r.Note}
	if !r.entries || r.Size == 0 {
		return h, nil
	}
	leaves, err := r.bundle(ctx, (r.Size-1)/tileWidth)
	if err != nil {
		return h, err
	}
	if leaf, err := ParseLeaf(leaves[len(leaves)-1]); err == nil {
		h.At = leaf.At
	}
	return h, nil
}

func (r *remoteReader) Tile(ctx context.Context, level int, index uint64) ([]byte, error) {
	return r.fetch(ctx, TilePath{level, index, tileWidth}.String())
}

func (r *remoteReader) Records(ctx context.Context, from, _ uint64) ([]Record, error) {
	index := from / tileWidth
	path := TilePath{0, index, r.width(index)}.String()
	hashes, err := r.fetch(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(hashes) != r.width(index)*tlog.HashSize {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrCorrupt, path, len(hashes))
	}
	out := make([]Record, r.width(index))
	for i := range out {
		out[i] = Record{Index: index*tileWidth + uint64(i), Hash: Hash(hashes[i*tlog.HashSize:])}
	}
	if !r.entries {
		return out[from%tileWidth:], nil
	}
	leaves, err := r.bundle(ctx, index)
	if errors.Is(err, ErrPruned) {
		return out[from%tileWidth:], nil
	}
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Data = leaves[i]
		if leaf, err := ParseLeaf(leaves[i]); err == nil {
			out[i].At, out[i].Kind, out[i].Subject = leaf.At, leaf.Kind, leaf.Subject
		}
	}
	return out[from%tileWidth:], nil
}
