package ledger

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// KindPruned is the kind of the entry that says what retention gives up. It is
// the one kind that this package reads: [Fsck] takes nothing else for a reason
// why bytes of an entry are missing.
const KindPruned = "retention.pruned"

// Pruned is the data of such an entry.
type Pruned struct {
	Evidence       uint64 `json:"evidence"`        // of decisions below this index
	EvidenceBefore int64  `json:"evidence_before"` // they are older than this; Unix seconds
	Entries        uint64 `json:"entries"`         // bytes of entries below this index
	EntriesBefore  int64  `json:"entries_before"`
}

// BundleEntries is the number of entries in a full entry bundle: they go
// together.
const BundleEntries = tileWidth

// FirstAt returns the index of the first entry of a time or later, in Unix
// seconds: the size of the log if there is none.
func FirstAt(ctx context.Context, r Reader, at int64) (uint64, error) {
	h, err := r.Head(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading head: %w", err)
	}
	from, to := uint64(0), h.Size
	for from < to { // times never decrease
		i := from + (to-from)/2
		page, err := r.Records(ctx, i, i+1)
		if err != nil {
			return 0, fmt.Errorf("reading entry %d: %w", i, err)
		}
		if len(page) == 0 {
			return 0, fmt.Errorf("reading entry %d: %w: it is missing", i, ErrCorrupt)
		}
		if page[0].At < at {
			from = i + 1
		} else {
			to = i
		}
	}
	return from, nil
}

// Kept returns those leaves from index from up to, not including, to that have
// not lost their bytes, by index, and how far it looked: there may be more from
// there. [ErrPruned] when all of them have.
func (l *Log) Kept(ctx context.Context, from, to uint64) (leaves map[uint64][]byte, next uint64, err error) {
	to = min(to, l.Size())
	records, err := l.store.Records(ctx, from, to)
	if err != nil {
		return nil, from, fmt.Errorf("reading entries from %d: %w", from, err)
	}
	leaves = map[uint64][]byte{}
	for i, r := range records {
		next = from + uint64(i)
		switch {
		case r.Index == next && len(r.Data) == 0:
		case r.Index != next || tlog.RecordHash(r.Data) != r.Hash:
			return nil, from, fmt.Errorf("reading entry %d: %w: it has another hash", next, ErrCorrupt)
		default:
			leaves[next] = r.Data
		}
	}
	if len(leaves) == 0 {
		return nil, from, fmt.Errorf("reading entries %d to %d: %w", from, next, ErrPruned)
	}
	return leaves, next + 1, nil
}

// FirstAt is [FirstAt] of this log.
func (l *Log) FirstAt(ctx context.Context, at int64) (uint64, error) {
	return FirstAt(ctx, l.store, at)
}
