package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// maxBehind is how far the wall clock may be behind the last entry.
const maxBehind = 2 * time.Second

// answer is what a request gets. Proofs are made of it by the goroutine that
// asked, not by the committer.
type answer struct {
	err     error
	first   uint64
	entries [][]byte
	tree    *hashes // of the committed batch; shared, read only
	note    []byte
}

func (a answer) receipts() ([]Receipt, error) {
	if a.err != nil {
		return nil, a.err
	}
	out := make([]Receipt, len(a.entries))
	for i, e := range a.entries {
		index := a.first + uint64(i)
		path, err := tlog.ProveRecord(int64(a.tree.edge.size), int64(index), a.tree)
		if err != nil {
			return nil, fmt.Errorf("proving entry %d, which is in the log: %w", index, err)
		}
		out[i] = Receipt{index, e, Proof{Index: index, Path: path, Note: a.note}.Marshal()}
	}
	return out, nil
}

// batch is what one transaction commits, and for whom.
type batch struct {
	Batch
	next  *head // what it makes of the head
	at    int64
	tree  *hashes
	state *rows
	blobs map[Hash]bool
	parts []part
}

// part is one request's share of a batch.
type part struct {
	*request
	first   uint64
	entries [][]byte
}

// run is the committer: one transaction at a time, each for all drafts that are
// waiting when it has the head lock. What is committed goes on to be shown while
// the next transaction runs.
func (l *Log) run(ctx context.Context, shown *showing) {
	defer close(shown.next)
	tip := l.current()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.queue.wake:
			tip = l.commit(ctx, tip, shown)
		}
	}
}

// committed is a head on its way to readers, and who waits for it.
type committed struct {
	head   *head
	batch  *batch // nil: another verifier's, or nothing new
	failed refusals
}

// showing is the way of heads from the committer to showAll.
type showing struct {
	next chan committed
	left atomic.Int64 // not yet shown; grown by the committer alone
}

// pass has a batch shown: by showAll, beside the next transaction, or here when
// nobody waits for that one. To hand it over costs more than the rest of an
// append does without its disk.
func (l *Log) pass(shown *showing, c committed) {
	if shown.left.Load() == 0 && l.queue.length() == 0 {
		l.reveal(c)
		return
	}
	shown.hand(c)
}

func (s *showing) hand(c committed) {
	s.left.Add(1)
	s.next <- c
}

// showAll is the second half of the committer.
func (l *Log) showAll(ctx context.Context, shown *showing) {
	for c := range shown.next {
		if c.batch == nil {
			l.follow(ctx, c.head, c.failed)
		} else {
			l.reveal(c)
		}
		shown.left.Add(-1)
	}
}

// reveal, in the order of the commits, guards a head, makes it the one that
// readers see, and only then answers: the guard file may be written while the
// next transaction is, but before anybody is told. A crash between leaves the
// store ahead of the guard file, which is no rollback, and nobody with an answer.
// After one that could not be guarded none is.
func (l *Log) reveal(c committed) {
	l.mu.Lock()
	l.tail.add(c.batch.Records)
	l.mu.Unlock()
	if err := l.show(c.head); err != nil {
		err = fmt.Errorf("committed, but not guarded: %w: %w", ErrUnknown, err)
		for _, p := range c.batch.parts {
			p.answer <- answer{err: err}
		}
		c.failed.sendInstead(err)
		return
	}
	c.failed.send()
	for _, p := range c.batch.parts {
		p.answer <- answer{first: p.first, entries: p.entries, tree: c.batch.tree, note: c.batch.Head.Note}
	}
}

// commit runs one transaction. Everybody whose draft it took is answered by it, or
// when what it committed is shown. tip is the head as this process last committed
// or read it; the new one is returned.
func (l *Log) commit(ctx context.Context, tip *head, shown *showing) *head {
	var likely []Key
	known := 0
	if _, ok := l.store.(Shared); ok { // rows are a round trip away
		likely, known = l.queue.keys()
	}
	tx, err := l.store.Begin(ctx, likely...)
	// The queue is taken under the lock, not before: what came during the wait
	// goes along, and a draft that was taken always gets its answer from here.
	requests := l.queue.take(known)
	if err != nil {
		refuse(requests, fmt.Errorf("locking the head: %w", err))
		return tip
	}
	defer tx.Rollback()
	if len(requests) == 0 && tx.Head().Size == tip.edge.size {
		return tip
	}
	if tip, err = l.catchUp(ctx, tip, tx.Head()); err != nil {
		refuse(requests, err)
		return tip
	}
	b, err := l.prepare(tip, tx, requests)
	if err != nil {
		refuse(requests, err)
		return tip
	}
	built, refused := b.build(requests)
	if len(built) == 0 {
		tx.Rollback()
		shown.hand(committed{head: tip, failed: refused})
		return tip
	}
	if err := l.seal(b, tip); err != nil {
		refuse(requests, err)
		return tip
	}
	if err := tx.Commit(b.Batch); err != nil {
		refuse(requests, fmt.Errorf("committing: %w", err))
		return tip
	}
	l.pass(shown, committed{b.next, b, refused})
	return b.next
}

// follow makes readers see a head that another verifier has committed, and
// answers drafts that have failed: both rest on what was read, which is no more
// than the store can promise only once it has settled.
func (l *Log) follow(ctx context.Context, tip *head, failed refusals) {
	if s, ok := l.store.(Shared); ok {
		if err := s.Settle(ctx); err != nil {
			failed.sendInstead(fmt.Errorf("waiting for the store to settle: %w", err))
			return
		}
	}
	if err := l.show(tip); err != nil {
		failed.sendInstead(fmt.Errorf("following the head: %w", err))
		return
	}
	failed.send()
}

// refusals are the answers to drafts whose Build has failed. Their errors say
// what was read in the transaction, so they are sent when it has ended well.
type refusals []refusal

type refusal struct {
	*request
	err error
}

func (rs refusals) send() {
	for _, r := range rs {
		r.answer <- answer{err: r.err}
	}
}

func (rs refusals) sendInstead(err error) {
	for _, r := range rs {
		r.answer <- answer{err: err}
	}
}

// refuse answers requests that have come to nothing.
func refuse(rs []*request, err error) {
	for _, r := range rs {
		r.answer <- answer{err: err}
	}
}

// show makes h, which is committed, the head that readers see.
func (l *Log) show(h *head) error {
	if h == l.current() { // state alone has changed
		return nil
	}
	if err := l.isFrozen(); err != nil {
		return err
	}
	if err := l.guard.write(h); err != nil {
		return l.freeze(err)
	}
	l.publish(h)
	return nil
}

// prepare begins a batch on top of tip: its time, and the rows that its drafts
// have declared.
func (l *Log) prepare(tip *head, tx Tx, requests []*request) (*batch, error) {
	if err := l.isFrozen(); err != nil {
		return nil, err
	}
	now := l.now()
	if last := time.Unix(tip.at, 0); now.Before(last.Add(-maxBehind)) {
		return nil, fmt.Errorf("%w: it says %s, the last entry is of %s; set the clock, then try again",
			ErrClock, now.UTC().Format(time.RFC3339), last.UTC().Format(time.RFC3339))
	}
	b := &batch{
		at:    max(now.Unix(), tip.at),
		tree:  &hashes{edge: tip.edge, full: map[tileID]tile{}},
		blobs: map[Hash]bool{},
	}
	var err error
	if b.state, err = readRows(tx, requests); err != nil {
		return nil, fmt.Errorf("reading rows: %w", err)
	}
	return b, nil
}

// build adds the drafts. Those that fail are left out.
func (b *batch) build(requests []*request) (built []*request, failed refusals) {
	for _, r := range requests {
		if err := b.add(r); err != nil {
			failed = append(failed, refusal{r, err})
		} else {
			built = append(built, r)
		}
	}
	return built, failed
}

// seal completes the batch with what follows from its drafts.
func (l *Log) seal(b *batch, tip *head) error {
	for id, t := range b.tree.full {
		b.Tiles = append(b.Tiles, Tile{id.level, id.index, t.bytes(tileWidth)})
	}
	slices.SortFunc(b.Tiles, func(a, b Tile) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.Index, b.Index))
	})
	b.Puts = b.state.changed()
	b.Head, b.next = Head{tip.edge.size, tip.root, tip.at, tip.note}, tip
	if len(b.Records) == 0 {
		return nil
	}
	root, err := b.tree.root(b.tree.edge.size)
	if err != nil {
		return err
	}
	note, err := signCheckpoint(Checkpoint{l.origin, b.tree.edge.size, root}, l.signer)
	if err != nil {
		return err
	}
	b.Head = Head{b.tree.edge.size, root, b.at, note}
	b.next = &head{b.tree.edge, root, b.at, note}
	return nil
}

// add builds one draft on top of those before it. After an error the batch is
// as it was.
func (b *batch) add(r *request) error {
	first := b.tree.edge.size
	change, err := r.draft.Build(Slot{first, time.Unix(b.at, 0).UTC(), b.state, r.draft.Keys})
	if err != nil {
		return err
	}
	if k := b.state.undeclared; k != nil {
		b.state.undeclared = nil
		return fmt.Errorf("building draft: row %s/%s was read but is not among the draft's keys", k.Kind, k.ID)
	}
	leaves := make([][]byte, len(change.Entries))
	for i, e := range change.Entries {
		if leaves[i], err = marshalLeaf(e, b.at); err != nil {
			return fmt.Errorf("building draft: %w", err)
		}
	}
	for i, leaf := range leaves {
		h := tlog.RecordHash(leaf)
		e := change.Entries[i]
		b.Records = append(b.Records, Record{b.tree.edge.size, b.at, e.Kind, e.Subject, h, leaf})
		b.tree.edge.append(h, b.tree.full)
	}
	for _, p := range change.Puts {
		b.state.put(p)
	}
	if change.Sweep != nil {
		b.Sweeps = append(b.Sweeps, *change.Sweep)
	}
	for _, bl := range r.blobs {
		if !b.blobs[bl.Sum] {
			b.blobs[bl.Sum] = true
			b.Blobs = append(b.Blobs, bl)
		}
	}
	b.parts = append(b.parts, part{r, first, leaves})
	return nil
}

// rows are the state rows that a batch reads, with the changes of its drafts so
// far on top.
type rows struct {
	stored     map[Key][]byte
	puts       map[Key][]byte // nil: deleted
	undeclared *Key           // a draft's mistake, picked up after its Build
}

func readRows(tx Tx, requests []*request) (*rows, error) {
	r := &rows{stored: map[Key][]byte{}, puts: map[Key][]byte{}}
	var keys []Key
	for _, q := range requests {
		for _, k := range q.draft.Keys {
			if _, ok := r.stored[k]; !ok {
				r.stored[k] = nil
				keys = append(keys, k)
			}
		}
	}
	if len(keys) == 0 {
		return r, nil
	}
	found, err := tx.Rows(keys)
	if err != nil {
		return nil, err
	}
	for _, p := range found {
		r.stored[p.Key] = p.Value
	}
	return r, nil
}

// Row returns the state row of one of the draft's keys, as drafts before it in
// the same transaction left it. The value must not be modified.
func (s Slot) Row(k Key) (value []byte, ok bool) {
	if !slices.Contains(s.keys, k) {
		s.rows.undeclared = &k
		return nil, false
	}
	if v, ok := s.rows.puts[k]; ok {
		return v, v != nil
	}
	v := s.rows.stored[k]
	return v, v != nil
}

func (r *rows) put(p Put) { r.puts[p.Key] = p.Value }

func (r *rows) changed() []Put {
	var out []Put
	for k, v := range r.puts {
		out = append(out, Put{k, v})
	}
	slices.SortFunc(out, func(a, b Put) int {
		return cmp.Or(cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(a.Key.ID, b.Key.ID))
	})
	return out
}
