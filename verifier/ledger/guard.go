package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// guard is the file that holds the last checkpoint this verifier has signed and
// given out. It is not in the store, so a store that is put back to an earlier
// state is seen.
//
// The file has two slots that are written in turn, so that a torn write leaves
// the checkpoint before it, whose successor nobody has been given yet. Writing
// in place costs one fdatasync; a temporary file and a rename cost four times
// that, at each commit.
type guard struct {
	path string

	mu   sync.Mutex
	file *os.File
	last Checkpoint
	next int // slot that is written next
}

const slotBytes = 4096

// openGuard opens the guard file and holds the store's head against it, or
// makes the file when the log is empty or adopt says so.
func (l *Log) openGuard(ctx context.Context, path string, adopt bool) (*guard, error) {
	if path == "" {
		return nil, errors.New("no guard file is configured: name one, outside the store")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if size := l.head.edge.size; size > 0 && !adopt {
			return nil, fmt.Errorf("%w: %s, for a log of size %d; put the file back, or adopt the store as it is if nothing can have been lost",
				ErrNoGuard, path, size)
		}
		return createGuard(path, l.head)
	}
	if err != nil {
		return nil, fmt.Errorf("opening guard file: %w", err)
	}
	g := &guard{path: path, file: f}
	if err := l.compare(ctx, g); err != nil {
		return nil, errors.Join(fmt.Errorf("comparing with guard file %s: %w", path, err), f.Close())
	}
	return g, nil
}

// compare reads a guard file, holds the head of the store against it and
// against what a client may have shown before (see [Log.Confront]), and brings
// it up to the head: the last commit may not have been guarded any more.
func (l *Log) compare(ctx context.Context, g *guard) error {
	if err := claim(g.file); err != nil {
		return err
	}
	seen, err := readSlots(g.file, l.signers().all()...)
	if err != nil {
		return err
	}
	if seen.damage != nil {
		l.log.WarnContext(ctx, "one slot of the guard file is damaged, the other one counts", "error", seen.damage)
	}
	if err := l.extends(ctx, l.head, seen.last); err != nil {
		return err
	}
	if err := l.recallConflict(ctx, g.path); err != nil {
		return err
	}
	g.last, g.next = seen.last, seen.next
	return g.write(l.head)
}

// createGuard makes the file, durably, with the head in both slots.
func createGuard(path string, h *head) (*guard, error) {
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making guard file: %w", err)
	}
	g := &guard{path: path, file: f}
	err = errors.Join(claim(f), g.write(h), g.write(h), f.Sync())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making guard file: %w", err), f.Close())
	}
	return g, nil
}

// write makes h the checkpoint last given out. It returns when that is durable.
func (g *guard) write(h *head) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(h.note) >= slotBytes {
		return fmt.Errorf("writing guard file: checkpoint of %d bytes does not fit", len(h.note))
	}
	if h.edge.size < g.last.Size {
		return fmt.Errorf("writing guard file: size %d comes after %d: %w", h.edge.size, g.last.Size, ErrRolledBack)
	}
	slot := make([]byte, slotBytes)
	copy(slot, h.note)
	if _, err := g.file.WriteAt(slot, int64(g.next)*slotBytes); err != nil {
		return fmt.Errorf("writing guard file: %w", err)
	}
	if err := syncData(g.file); err != nil {
		return fmt.Errorf("writing guard file: %w", err)
	}
	g.last = Checkpoint{Size: h.edge.size, Root: h.root}
	g.next = 1 - g.next
	return nil
}

func (g *guard) close() error { return g.file.Close() }

// slots is what a guard file says.
type slots struct {
	last   Checkpoint // the later one
	next   int        // the slot that does not hold it
	damage error      // of the other slot, if it is not a checkpoint of ours
}

func readSlots(f *os.File, vkeys ...string) (slots, error) {
	b := make([]byte, 2*slotBytes+1)
	n, err := f.ReadAt(b, 0)
	if n != 2*slotBytes {
		return slots{}, fmt.Errorf("%w: guard file has %d bytes, expected %d (%w)", ErrCorrupt, n, 2*slotBytes, err)
	}
	var s slots
	found := false
	for i := range 2 {
		text, _, _ := bytes.Cut(b[i*slotBytes:(i+1)*slotBytes], []byte{0})
		c, err := OpenCheckpoint(text, vkeys...)
		if err != nil {
			s.damage = errors.Join(s.damage, fmt.Errorf("reading slot %d: %w", i, err))
		} else if !found || c.Size >= s.last.Size {
			found, s.last, s.next = true, c, 1-i
		}
	}
	if !found {
		return slots{}, fmt.Errorf("%w: guard file holds no checkpoint signed by it: %w", ErrKey, s.damage)
	}
	return s, nil
}

// Confront holds against the log a checkpoint that a client kept: of a store
// and a guard file that were put back together, it is the only witness left.
// A checkpoint signed with this log's key that the log does not extend freezes
// the log, across restarts, and is ErrRolledBack. One that is not signed by the
// key, or by a retired one after its end, is ErrKey and has no effect: anybody can
// write those.
func (l *Log) Confront(ctx context.Context, checkpoint []byte) error {
	seen, err := OpenCheckpoint(checkpoint, l.signers().Of(checkpoint)...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	h := l.current()
	if seen.Size > h.edge.size { // by another verifier of the same store?
		found, err := l.store.Head(ctx)
		if err != nil {
			return fmt.Errorf("reading head: %w", err)
		}
		if h, err = l.catchUp(ctx, h, found); err != nil {
			return err
		}
	}
	err = l.extends(ctx, h, seen)
	if errors.Is(err, ErrRolledBack) {
		err = l.freeze(fmt.Errorf("a client holds a checkpoint: %w", err))
		return errors.Join(err, l.keepConflict(checkpoint))
	}
	return err
}

// keepConflict saves the proof that the log was rolled back, for later starts
// and for people.
func (l *Log) keepConflict(checkpoint []byte) error {
	path := l.guard.path + ".conflict"
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keeping the conflicting checkpoint: %w", err)
	}
	_, err = f.Write(checkpoint)
	err = errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path)))
	if err != nil {
		return fmt.Errorf("keeping the conflicting checkpoint: %w", err)
	}
	return nil
}

// recallConflict refuses a log that still contradicts a kept checkpoint.
func (l *Log) recallConflict(ctx context.Context, guardFile string) error {
	b, err := os.ReadFile(guardFile + ".conflict")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	seen, err := OpenCheckpoint(b, l.signers().Of(b)...)
	if err != nil {
		return fmt.Errorf("reading %s.conflict: %w", guardFile, err)
	}
	return l.extends(ctx, l.head, seen)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
