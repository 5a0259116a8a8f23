package ledger

import (
	"context"
	"fmt"
	"strings"
)

// load reads the head of the store and rebuilds the edge of its tree, or
// starts the log when the store is new.
func (l *Log) load(ctx context.Context) (*head, error) {
	stored, err := l.store.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading head: %w", err)
	}
	if stored.Note == nil {
		if stored, err = l.start(ctx); err != nil {
			return nil, fmt.Errorf("starting an empty log: %w", err)
		}
	}
	c, err := l.openNote(stored, l.signers().all()) // the last one a retired verifier signed, until somebody else appends
	if err != nil {
		return nil, err
	}
	e, err := loadEdge(ctx, l.store, stored.Size)
	if err != nil {
		return nil, err
	}
	root, err := (&hashes{edge: e}).root(e.size)
	if err != nil {
		return nil, err
	}
	if root != c.Root {
		return nil, fmt.Errorf("%w: the tiles at size %d have root %s, the head was signed with %s", ErrCorrupt, e.size, root, c.Root)
	}
	return &head{e, root, stored.At, stored.Note}, nil
}

// start writes the head of the empty log. Its signature is what ties the store
// to origin and key from then on.
func (l *Log) start(ctx context.Context) (Head, error) {
	tx, err := l.store.Begin(ctx)
	if err != nil {
		return Head{}, err
	}
	defer tx.Rollback()
	if h := tx.Head(); h.Note != nil {
		return h, nil // another process was first
	}
	note, err := signCheckpoint(Checkpoint{l.origin, 0, emptyRoot()}, l.signer)
	if err != nil {
		return Head{}, err
	}
	h := Head{Root: emptyRoot(), Note: note}
	return h, tx.Commit(Batch{Head: h})
}

// openNote checks that a head was signed for this log and is the one signed.
func (l *Log) openNote(h Head, vkeys []string) (Checkpoint, error) {
	c, err := OpenCheckpoint(h.Note, vkeys...)
	if err != nil {
		return c, fmt.Errorf("%w: the head at size %d is not signed by %s: %w", ErrKey, h.Size, strings.Join(vkeys, " or "), err)
	}
	if c.Size != h.Size || c.Root != h.Root {
		return c, fmt.Errorf("%w: head row has size %d, its checkpoint %d", ErrCorrupt, h.Size, c.Size)
	}
	return c, nil
}

// loadEdge rebuilds the unfinished tile of each level: from the last leaf
// hashes at level 0, from the roots of the last full tiles below elsewhere.
func loadEdge(ctx context.Context, r Reader, size uint64) (edge, error) {
	e := newEdge()
	e.size = size
	records, err := allRecords(ctx, r, size-size%tileWidth, size)
	if err != nil {
		return edge{}, err
	}
	for _, rec := range records {
		e.tiles[0].push(rec.Hash)
	}
	for level := 1; level < maxLevels; level++ {
		to := size >> (tileHeight * level) // full tiles of the level below
		for i := to - to%tileWidth; i < to; i++ {
			b, err := r.Tile(ctx, level-1, i)
			if err != nil {
				return edge{}, fmt.Errorf("reading tile %d of level %d: %w", i, level-1, err)
			}
			t, err := parseTile(b)
			if err != nil {
				return edge{}, fmt.Errorf("reading tile %d of level %d: %w", i, level-1, err)
			}
			e.tiles[level].push(t.rows[tileHeight][0])
		}
	}
	return e, nil
}

// allRecords reads a range completely.
func allRecords(ctx context.Context, r Reader, from, to uint64) ([]Record, error) {
	var out []Record
	for from < to {
		page, err := r.Records(ctx, from, to)
		if err != nil {
			return nil, fmt.Errorf("reading entries from %d: %w", from, err)
		}
		for i, rec := range page {
			if rec.Index != from+uint64(i) {
				return nil, fmt.Errorf("%w: entry %d is missing", ErrCorrupt, from+uint64(i))
			}
		}
		if len(page) == 0 {
			return nil, fmt.Errorf("%w: entry %d is missing", ErrCorrupt, from)
		}
		out = append(out, page...)
		from += uint64(len(page))
	}
	return out, nil
}

// catchUp moves tip to the head found under the lock. They differ when another
// verifier of the store has appended, or when a commit whose outcome was
// unknown did happen. A head that does not extend tip freezes the log.
func (l *Log) catchUp(ctx context.Context, tip *head, found Head) (*head, error) {
	if found.Size == tip.edge.size && found.Root == tip.root {
		return tip, nil
	}
	if found.Size <= tip.edge.size {
		return tip, l.freeze(fmt.Errorf("%w: this verifier has committed size %d with root %s, the store is at size %d with root %s; restore the right store and restart",
			ErrRolledBack, tip.edge.size, tip.root, found.Size, found.Root))
	}
	if _, err := l.openNote(found, l.vkeys); err != nil {
		return tip, l.freeze(err)
	}
	e, full := tip.edge.clone(), map[tileID]tile{}
	for from := e.size; from < found.Size; {
		page, err := allRecords(ctx, l.store, from, min(from+4*tileWidth, found.Size))
		if err != nil {
			return tip, fmt.Errorf("catching up with the head: %w", err)
		}
		for _, rec := range page {
			e.append(rec.Hash, full)
		}
		from += uint64(len(page))
		clear(full)
	}
	root, err := (&hashes{edge: e, full: full}).root(e.size)
	if err != nil {
		return tip, err
	}
	if root != found.Root {
		return tip, l.freeze(fmt.Errorf("%w: the store's head at size %d does not extend size %d, which this verifier has committed",
			ErrRolledBack, found.Size, tip.edge.size))
	}
	return &head{e, root, found.At, found.Note}, nil
}

// extends checks that the tree below h begins with the one that seen was
// signed for.
func (l *Log) extends(ctx context.Context, h *head, seen Checkpoint) error {
	if seen.Size > h.edge.size {
		return fmt.Errorf("%w: the store is at size %d, but size %d was signed and given out; restore the newer store, or close this log and go on under a new origin",
			ErrRolledBack, h.edge.size, seen.Size)
	}
	root, err := l.tree(ctx, h).root(seen.Size)
	if err != nil {
		return err
	}
	if root != seen.Root {
		return fmt.Errorf("%w: the store at size %d has another history than the size %d that was signed and given out; restore the right store, or close this log and go on under a new origin",
			ErrRolledBack, h.edge.size, seen.Size)
	}
	return nil
}
