package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// guard is the file that holds the last checkpoint this verifier has signed and
// given out. It is not in the store, so a store that is put back to an earlier
// state is seen.
//
// The file has two slots that are written in turn, so that a write which is
// torn leaves the checkpoint before it, whose successor nobody has been given
// yet. Writing in place costs one fdatasync; a temporary file and a rename cost
// four times that, on each commit.
type guard struct {
	file *os.File
	next int // slot that is written next
}

const slotBytes = 4096

// openGuard opens the guard file and holds the store's head against it, or
// makes the file when the log is empty or adopt says so.
func (l *Log) openGuard(ctx context.Context, path string, adopt bool) (*guard, error) {
	if path == "" {
		return nil, errors.New("no guard file is configured: name one, outside the store")
	}
	h := l.head
	seen, next, err := readGuard(path, l.vkey)
	if errors.Is(err, fs.ErrNotExist) {
		if h.edge.size > 0 && !adopt {
			return nil, fmt.Errorf("%w: %s, for a log of size %d; put the file back, or adopt the store as it is if nothing can have been lost",
				ErrNoGuard, path, h.edge.size)
		}
		return createGuard(path, h.note)
	}
	if err != nil {
		return nil, fmt.Errorf("reading guard file %s: %w", path, err)
	}
	if err := l.extends(ctx, h, seen); err != nil {
		return nil, fmt.Errorf("comparing with guard file %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening guard file: %w", err)
	}
	g := &guard{file: f, next: next}
	if err := g.write(h.note); err != nil { // a head committed, but not yet guarded, at the last stop
		return nil, errors.Join(err, f.Close())
	}
	return g, nil
}

// readGuard returns the later of the checkpoints in the file, and the slot
// that does not hold it.
func readGuard(path, vkey string) (seen Checkpoint, next int, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Checkpoint{}, 0, err
	}
	if len(b) != 2*slotBytes {
		return Checkpoint{}, 0, fmt.Errorf("%w: it has %d bytes, expected %d", ErrCorrupt, len(b), 2*slotBytes)
	}
	found := false
	var bad error
	for i := range 2 {
		slot, _, _ := bytes.Cut(b[i*slotBytes:(i+1)*slotBytes], []byte{0})
		c, err := OpenCheckpoint(slot, vkey)
		if err != nil {
			bad = fmt.Errorf("slot %d: %w", i, err)
		} else if !found || c.Size >= seen.Size {
			found, seen, next = true, c, 1-i
		}
	}
	if !found {
		return Checkpoint{}, 0, fmt.Errorf("%w: no checkpoint in it is signed by %s: %w", ErrKey, vkey, bad)
	}
	return seen, next, nil
}

// createGuard makes the file, durably, with note in both slots.
func createGuard(path string, note []byte) (*guard, error) {
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making guard file: %w", err)
	}
	g := &guard{file: f}
	for range 2 {
		if err = g.write(note); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err = errors.Join(f.Sync(), os.Rename(f.Name(), path)); err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making guard file: %w", err), f.Close())
	}
	return g, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// write makes note the checkpoint last given out. It returns when that is
// durable.
func (g *guard) write(note []byte) error {
	if len(note) >= slotBytes {
		return fmt.Errorf("writing guard file: checkpoint of %d bytes does not fit", len(note))
	}
	slot := make([]byte, slotBytes)
	copy(slot, note)
	if _, err := g.file.WriteAt(slot, int64(g.next)*slotBytes); err != nil {
		return fmt.Errorf("writing guard file: %w", err)
	}
	if err := syncData(g.file); err != nil {
		return fmt.Errorf("writing guard file: %w", err)
	}
	g.next = 1 - g.next
	return nil
}

func (g *guard) close() error { return g.file.Close() }
