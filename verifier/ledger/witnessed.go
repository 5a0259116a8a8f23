package ledger

import (
	"context"
	"fmt"
)

// Witnessed takes a checkpoint of this log that witnesses have cosigned: from
// then on it is what proofs of the entries under it carry. Whose cosignatures
// count is for the caller; that the log extends the checkpoint is checked.
func (l *Log) Witnessed(ctx context.Context, note []byte) error {
	c, err := OpenCheckpoint(note, l.signers().Of(note)...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	if len(note) > maxProof/2 {
		return fmt.Errorf("cosigned checkpoint has %d bytes, at most %d fit a proof", len(note), maxProof/2)
	}
	if err := l.extends(ctx, l.current(), c); err != nil {
		return fmt.Errorf("taking a cosigned checkpoint: %w", err)
	}
	e, err := loadEdge(ctx, l.store, c.Size)
	if err != nil {
		return fmt.Errorf("taking a cosigned checkpoint: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.witnessed == nil || l.witnessed.edge.size <= c.Size {
		l.witnessed = &head{edge: e, root: c.Root, note: note}
	}
	return nil
}

// Signed returns the latest signed checkpoint without cosignatures: what is shown to
// witnesses, for of two cosignatures by one of them the first counts.
func (l *Log) Signed() []byte { return l.current().note }

// Cosigned returns the latest checkpoint that witnesses have cosigned, with their
// signatures; nil when there is none.
func (l *Log) Cosigned() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.witnessed == nil {
		return nil
	}
	return l.witnessed.note
}

// provable is the head that an entry is proven under: the cosigned one when it
// has the entry.
func (l *Log) provable(index uint64) *head {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.witnessed; w != nil && index < w.edge.size {
		return w
	}
	return l.head
}
