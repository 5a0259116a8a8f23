package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// Report is what [Fsck] found.
type Report struct {
	Size     uint64 // entries the head speaks of
	Root     Hash
	Entries  uint64 // entries read
	Tiles    uint64 // full tiles compared
	Guarded  uint64 // size of the checkpoint in the guard file
	Pruned   uint64 // entries whose bytes are not there
	Horizon  uint64 // those below were given up, as an entry says
	Problems []Problem
	Warnings []string // what repairs itself at the next start
}

// Problem is one thing that is not as it was written.
type Problem struct {
	Where  string // "head", "entry 17", "tile 3 of level 0", "guard file"
	Detail string
}

func (p Problem) String() string { return p.Where + ": " + p.Detail }

// maxProblems ends a check of which nothing more is to be learnt.
const maxProblems = 100

// Fsck derives everything again from the entries and compares: leaf hashes,
// tiles, the signed head, times, the form of each entry, and the guard file
// (empty: left out). vkeys are the log's keys. It reads only, and may run beside
// a log that is in use. The error says that it could not check; what it found
// is in the report.
func Fsck(ctx context.Context, r Reader, guardFile string, vkeys ...string) (Report, error) {
	return FsckBy(ctx, r, guardFile, Signers{Keys: vkeys})
}

// FsckBy is [Fsck] of a log that had other keys before.
func FsckBy(ctx context.Context, r Reader, guardFile string, by Signers) (Report, error) {
	f := fsck{store: r, edge: newEdge(), full: map[tileID]tile{}}
	// The guard first: it never is ahead of the store, so it must not be read
	// after a head that has grown meanwhile.
	if guardFile != "" {
		if err := f.readGuard(guardFile, by.all()); err != nil {
			return f.Report, err
		}
	}
	return f.run(ctx, by)
}

func (f *fsck) run(ctx context.Context, by Signers) (Report, error) {
	if err := f.readHead(ctx, by); err != nil {
		return f.Report, fmt.Errorf("reading head: %w", err)
	}
	for more := true; more && f.Entries < f.Size && len(f.Problems) < maxProblems; {
		var err error
		if more, err = f.page(ctx); err != nil {
			return f.Report, err
		}
	}
	f.lost()
	if f.Entries == f.Size {
		f.finish()
	}
	return f.Report, nil
}

type fsck struct {
	Report
	store   Reader
	at      int64 // of the head
	last    int64 // time of the entry before
	edge    edge
	full    map[tileID]tile // filled by the entries of the current page
	guarded *Checkpoint     // nil: no guard file, or an unreadable one

	hashesOnly bool // the entries themselves cannot be read

	bare [][2]uint64 // stretches of entries without bytes
}

func (f *fsck) problem(where, format string, args ...any) {
	f.Problems = append(f.Problems, Problem{where, fmt.Sprintf(format, args...)})
}

func (f *fsck) readGuard(path string, vkeys []string) error {
	file, err := os.Open(path)
	if err != nil {
		f.problem("guard file", "opening: %v", err)
		return nil
	}
	defer file.Close()
	s, err := readSlots(file, vkeys...)
	if err != nil {
		f.problem("guard file", "%v", err)
		return nil
	}
	if s.damage != nil {
		f.Warnings = append(f.Warnings, "guard file: "+s.damage.Error())
	}
	f.guarded, f.Guarded = &s.last, s.last.Size
	return nil
}

func (f *fsck) readHead(ctx context.Context, by Signers) error {
	h, err := f.store.Head(ctx)
	if errors.Is(err, ErrCorrupt) {
		f.problem("head", "%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	f.Size, f.Root, f.at = h.Size, h.Root, h.At
	if h.Note == nil {
		f.problem("head", "there is none: the log was never started")
		return nil
	}
	c, err := OpenCheckpoint(h.Note, by.Of(h.Note)...)
	if err != nil {
		f.problem("head", "%v", err)
	} else if c.Size != h.Size || c.Root != h.Root {
		f.problem("head", "row says size %d, root %s; its checkpoint says size %d, root %s", h.Size, h.Root, c.Size, c.Root)
	}
	if f.guarded != nil && f.guarded.Size > h.Size {
		f.problem("guard file", "size %d was signed and given out, the store is at size %d: it was rolled back", f.guarded.Size, h.Size)
	}
	return nil
}

// page checks the next entries, and the tiles that they fill. It reports whether
// the check can go on from there.
func (f *fsck) page(ctx context.Context) (more bool, err error) {
	from := f.edge.size
	records, err := f.store.Records(ctx, from, f.Size)
	if errors.Is(err, ErrCorrupt) {
		f.problem(fmt.Sprintf("entries from %d", from), "%v", err)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading entries from %d: %w", from, err)
	}
	for i, rec := range records {
		if rec.Index != from+uint64(i) {
			records = records[:i]
			break
		}
		f.record(rec)
	}
	if len(records) == 0 {
		f.problem(fmt.Sprintf("entry %d", from), "missing")
		return false, nil
	}
	for id, t := range f.full {
		if err := f.tile(ctx, id, t); err != nil {
			return false, err
		}
	}
	clear(f.full)
	return true, nil
}

func (f *fsck) record(rec Record) {
	if !f.hashesOnly {
		f.entry(rec)
	}
	f.edge.append(rec.Hash, f.full)
	f.Entries++
	if f.guarded != nil && f.guarded.Size == f.edge.size {
		f.compareRoot("guard file", f.guarded.Root)
	}
}

func (f *fsck) entry(rec Record) {
	where := fmt.Sprintf("entry %d", rec.Index)
	if len(rec.Data) == 0 {
		f.withoutBytes(rec)
		return
	}
	if tlog.RecordHash(rec.Data) != rec.Hash {
		f.problem(where, "its bytes have another hash than the one stored beside them")
	}
	switch leaf, err := ParseLeaf(rec.Data); {
	case err != nil:
		f.problem(where, "%v", err)
	case leaf.At != rec.At || leaf.Kind != rec.Kind || leaf.Subject != rec.Subject:
		f.problem(where, "time, kind or subject beside the leaf are not the leaf's")
	case leaf.Kind == KindPruned:
		var p Pruned
		if err := json.Unmarshal(leaf.Data, &p); err != nil || p.Entries > rec.Index {
			f.problem(where, "it gives up entries below %d (%v)", p.Entries, err)
		} else {
			f.Horizon = max(f.Horizon, p.Entries)
		}
	}
	if rec.At < f.last {
		f.problem(where, "its time %d is before that of the entry before, %d", rec.At, f.last)
	}
	f.last = max(f.last, rec.At)
}

// withoutBytes notes an entry of which its hash alone is there. Of a remote log
// its time is not known either.
func (f *fsck) withoutBytes(rec Record) {
	f.Pruned++
	if n := len(f.bare); n > 0 && f.bare[n-1][1] == rec.Index {
		f.bare[n-1][1]++
	} else {
		f.bare = append(f.bare, [2]uint64{rec.Index, rec.Index + 1})
	}
	if rec.At != 0 && rec.At < f.last {
		f.problem(fmt.Sprintf("entry %d", rec.Index), "its time %d is before that of the entry before, %d", rec.At, f.last)
	}
	f.last = max(f.last, rec.At)
}

// lost names the entries whose bytes are missing for no reason that the log gives.
func (f *fsck) lost() {
	for _, b := range f.bare {
		for i := max(b[0], f.Horizon); i < b[1] && len(f.Problems) < maxProblems; i++ {
			f.problem(fmt.Sprintf("entry %d", i), "its bytes are missing, and no entry says that retention gave them up")
		}
	}
}

func (f *fsck) tile(ctx context.Context, id tileID, want tile) error {
	where := fmt.Sprintf("tile %d of level %d", id.index, id.level)
	got, err := f.store.Tile(ctx, id.level, id.index)
	switch {
	case errors.Is(err, ErrNotFound):
		f.problem(where, "missing")
	case err != nil:
		return fmt.Errorf("reading %s: %w", where, err)
	case !bytes.Equal(got, want.bytes(tileWidth)):
		f.problem(where, "it does not hold the hashes below it")
	}
	f.Tiles++
	return nil
}

func (f *fsck) compareRoot(where string, want Hash) {
	got, err := (&hashes{edge: f.edge, full: f.full}).root(f.edge.size)
	if err != nil {
		f.problem(where, "%v", err)
	} else if got != want {
		f.problem(where, "the entries up to size %d have root %s, it says %s", f.edge.size, got, want)
	}
}

func (f *fsck) finish() {
	f.compareRoot("head", f.Root)
	if f.at != f.last {
		f.problem("head", "its time is %d, that of the last entry %d", f.at, f.last)
	}
}
