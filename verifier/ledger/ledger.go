// Package ledger keeps the history of a domain: a Merkle log of everything that
// was decided, committed in one transaction with the state it changed, proven
// to whoever asks.
//
// An answer of [Log.Append] stands on an entry that is durable and covered by a
// signed checkpoint, and on a guard file that would give away the loss of it.
// Hazards: an error that is [ErrUnknown] does not say that nothing happened,
// so drafts must find their own earlier success (a row by request id);
// everything that changes state must go through Append, or two writers will not
// see each other.
//
// Formats are those of C2SP: tlog-checkpoint, tlog-proof@v1, tlog-tiles over
// the SHA-256 tree of RFC 6962. The functions that check them (CheckProof,
// OpenCheckpoint, CheckConsistency, ParseLeaf) are pure.
package ledger

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Errors that callers tell apart.
var (
	// ErrUnknown: the draft may be in the log or not. Repeat it under the same
	// request id; its Build sees under the lock whether the first one won.
	ErrUnknown = errors.New("outcome unknown")

	// ErrClock: the wall clock is behind the log, or was stepped. Nothing is
	// appended until it is put right.
	ErrClock = errors.New("clock is wrong")

	// ErrRolledBack: the store holds less than, or another history than, what
	// this verifier has signed. Nothing is appended until a person has acted.
	ErrRolledBack = errors.New("log was rolled back")

	// ErrNoGuard: a log with entries has no guard file. Either the wrong
	// directory is in use, or the file was lost: then open with Adopt, once.
	ErrNoGuard = errors.New("guard file is missing")

	// ErrKey: the log was signed by another key or under another origin.
	ErrKey = errors.New("log belongs to another key")

	// ErrNotFound: there is no such row, entry, tile or blob.
	ErrNotFound = errors.New("not found")

	// ErrPruned: retention gave it up, as an entry of the log says.
	ErrPruned = errors.New("given up by retention")

	// ErrCorrupt: stored bytes are not what was written.
	ErrCorrupt = errors.New("stored data is corrupt")

	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log is closed")
)

// Key names a state row.
type Key struct{ Kind, ID string }

// Put writes a state row, or deletes it when Value is nil.
type Put struct {
	Key   Key
	Value []byte
}

// Entry is what a caller adds to the log. The ledger completes it to a leaf,
// which is the JSON object {"v":1,"kind","at","subject","actor","data"} in this
// order, at most [MaxEntry] bytes.
type Entry struct {
	Kind    string // "node.enrolled": lower-case words joined by dots and hyphens
	Subject string // whom it is about
	Actor   string // who did it, as authenticated
	Data    any    // encodes to a JSON object, always the same one; nil: {}
}

// Draft is a change that is made under the head lock, alone.
type Draft struct {
	// Keys are the rows that Build may read.
	Keys []Key
	// Urgent drafts (revocations) go before others that wait.
	Urgent bool
	// Blobs are stored with the change, by their SHA-256, once. They are packed
	// by the goroutine that calls Append, not under the lock.
	Blobs [][]byte
	// Build returns the change, given what is true under the lock. It must be
	// quick and without effects: all other drafts wait for it, and it runs
	// again if the batch is tried again. Its error drops this draft alone and
	// is what Append returns.
	Build func(Slot) (Change, error)
}

// Slot is the moment a draft is built at.
type Slot struct {
	Index uint64    // of the first entry that the draft makes
	At    time.Time // of all its entries; whole seconds

	rows *rows
	keys []Key
}

// Change is what a draft does. Puts without Entries are allowed: bookkeeping
// that history has no interest in.
type Change struct {
	Entries []Entry
	Puts    []Put
	Sweep   *Sweep // what retention gives up; an entry of the log must say so, now or before
}

// Receipt proves an entry.
type Receipt struct {
	Index uint64
	Entry []byte // the leaf
	Proof string // c2sp.org/tlog-proof@v1, with the checkpoint it was committed under
}

// Config is what a [Log] stands on.
type Config struct {
	Store     Store              // not closed by the log
	Origin    string             // names the log: "<domain>/log"
	Key       ed25519.PrivateKey // of the log; made by the caller, while the log is empty
	Peers     []string           // keys of the other verifiers that append to this store, as their VerifierKey
	Retired   []string           // keys of those that no longer do: what they signed until then is history ([Log.Retire]), no head of theirs is followed
	GuardFile string             // path; the last checkpoint signed here, kept apart from the store
	Adopt     bool               // write a missing guard file from the store: trusts the store, once
	Log       *slog.Logger       // nil: silent
	Now       func() time.Time   // nil: time.Now
}

// Log appends to the log of one store and reads it. Methods may be called by
// many goroutines.
type Log struct {
	store  Store
	origin string
	signer signer
	vkeys  []string // whose checkpoints are this log's: its own first, then its peers'
	guard  *guard
	log    *slog.Logger
	now    func() time.Time

	retired []string // keys of verifiers that are none any more

	queue queue
	stop  context.CancelFunc

	running sync.WaitGroup // the committer, and who listens for other verifiers

	mu      sync.Mutex
	head    *head         // what readers see: committed and guarded
	changed chan struct{} // closed when head is replaced
	frozen  error         // why nothing is appended any more
	tail    tail

	witnessed *head             // the last one that witnesses cosigned; nil: none
	ends      map[string]uint64 // entries that retired keys, by their ids
}

// head is a published state of the log. It is not changed.
type head struct {
	edge edge
	root Hash
	at   int64
	note []byte
}

// Open opens the log in cfg.Store, or starts it there when the store is new. It
// refuses a store that is not the one its guard file and key belong to.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	l := &Log{
		store:   cfg.Store,
		origin:  cfg.Origin,
		log:     cfg.Log,
		now:     cfg.Now,
		changed: make(chan struct{}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.now == nil {
		l.now = time.Now
	}
	var err error
	var own string
	if l.signer, own, err = newSigner(cfg.Origin, cfg.Key); err != nil {
		return nil, err
	}
	l.vkeys = append([]string{own}, slices.DeleteFunc(slices.Clone(cfg.Peers), func(k string) bool { return k == own })...)
	l.retired = cfg.Retired
	if l.head, err = l.load(ctx); err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	if l.guard, err = l.openGuard(ctx, cfg.GuardFile, cfg.Adopt); err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	run, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.queue.wake = make(chan struct{}, 1)
	shown := &showing{next: make(chan committed, 1)}
	l.running.Go(func() { l.run(run, shown) })
	l.running.Go(func() { l.showAll(run, shown) })
	if s, ok := l.store.(Shared); ok {
		l.running.Go(func() { s.Listen(run, l.queue.signal) })
	}
	l.log.InfoContext(ctx, "log opened", "origin", l.origin, "size", l.head.edge.size)
	return l, nil
}

// Close ends the log: drafts not yet begun are answered with ErrClosed, those
// begun are completed, which may take as long as a database waits for its
// standby. The store stays open.
func (l *Log) Close() error {
	l.queue.close()
	l.stop()
	l.running.Wait()
	return l.guard.close()
}

// Waiting returns the number of drafts that no transaction has taken yet.
func (l *Log) Waiting() int { return l.queue.length() }

// VerifierKey returns the key that relying parties pin, see [VerifierKey].
func (l *Log) VerifierKey() string { return l.vkeys[0] }

// Changed returns a channel that is closed when the log has grown beyond what
// it was at the call. Take the channel first, then read, then wait.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Append makes a draft's change and returns a receipt for each of its entries,
// once they are durable. Errors of Build come back as they are, everything else
// wrapped; nothing happened unless the error is [ErrUnknown]. A done ctx ends
// the waiting alone: a draft that is still in the queue is dropped, one that is
// being committed goes on, and its outcome is unknown to the caller.
func (l *Log) Append(ctx context.Context, d Draft) ([]Receipt, error) {
	r := &request{draft: d, answer: make(chan answer, 1)}
	for _, data := range d.Blobs {
		b, err := l.store.Pack(data)
		if err != nil {
			return nil, fmt.Errorf("packing a blob of %d bytes: %w", len(data), err)
		}
		r.blobs = append(r.blobs, b)
	}
	if err := l.queue.put(r); err != nil {
		return nil, err
	}
	select {
	case a := <-r.answer:
		return a.receipts()
	case <-ctx.Done():
	}
	if l.queue.remove(r) {
		return nil, fmt.Errorf("waiting to append: %w", ctx.Err())
	}
	select { // it may have been answered by now
	case a := <-r.answer:
		return a.receipts()
	default:
		return nil, fmt.Errorf("waiting for a commit: %w (%w)", ErrUnknown, ctx.Err())
	}
}

func (l *Log) current() *head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

func (l *Log) publish(h *head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = h
	close(l.changed)
	l.changed = make(chan struct{})
}

// freeze makes every later Append fail with err. The first reason stays.
func (l *Log) freeze(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen == nil {
		l.frozen = err
		l.log.Error("log frozen: nothing is appended any more", "error", err)
	}
	return l.frozen
}

// Frozen returns why the log takes no more entries, nil while it does. What the
// store says then may lack what was recorded.
func (l *Log) Frozen() error { return l.isFrozen() }

func (l *Log) isFrozen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen
}
