// Package fleet keeps in memory what a domain's log says of every node, so that a
// list of any number of them is counted and searched without asking the store.
//
// It reads the nodes once and follows the log from there, whichever verifier writes
// it: what it shows is behind by a moment, and nothing may be granted on it. Nodes
// go by their pseudonym in the log; ids, devices and what findings say are for
// operators, and callers must leave them out for anybody else.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// Config is what a Fleet needs.
type Config struct {
	Service *verifier.Service
	Slog    *slog.Logger
	Now     func() time.Time
}

// Fleet is the nodes of a domain. Its methods may be called by many goroutines; it
// is empty until Run has read the nodes.
type Fleet struct {
	svc *verifier.Service
	log *slog.Logger
	now func() time.Time

	mu      sync.RWMutex
	nodes   map[string]*node // by subject
	order   []*node          // by subject
	size    uint64           // entries below this index are in
	at      int64            // of the last of them
	ready   bool
	refs    map[string]verifier.Reference // in force, by name
	peers   []verifier.Peer
	seen    map[string]uint64 // index of the last entry about a peer's log key
	denied  []*Denial         // the last one of a node, oldest first
	acts    []Act             // what was not a decision, oldest first
	minutes []Minute          // oldest first
	samples []Sample          // oldest first
	alive   map[int64]int     // tokens that count, by when they expire
	changed chan struct{}     // closed when anything of this changes

	counted *counts // what was last counted
}

// node is what is kept of a node.
type node struct {
	subject, id, class, device string
	status, state              string
	deadline                   int64
	seq                        uint64
	enrolled                   int64
	entry                      uint64 // of the enrolment
	decided                    uint64 // index of the last decision
	decidedAt                  int64
	decision, tier             string
	references                 string // digest of the set of the last decision
	findings                   []appraisal.Finding
	tokens                     []int64 // when those that count expire
}

// How much is remembered.
const (
	backlog    = 20_000 // entries that are read again at start
	mostDenied = 100
	mostActs   = 100
	mostMinute = 60
	mostSample = 720
	sampling   = 5 * time.Second
	calm       = 200 * time.Millisecond // between two looks at the log
)

// New returns a Fleet that knows nothing yet.
func New(cfg Config) *Fleet {
	return &Fleet{svc: cfg.Service, log: cfg.Slog, now: cfg.Now, nodes: map[string]*node{}, seen: map[string]uint64{}, alive: map[int64]int{}, changed: make(chan struct{})}
}

// Run reads the nodes and then follows the log until ctx is done.
func (f *Fleet) Run(ctx context.Context) {
	f.patiently(ctx, f.load)
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	for ctx.Err() == nil {
		grown := f.svc.Log().Changed()
		f.patiently(ctx, f.follow)
		f.sample()
		select {
		case <-ctx.Done():
		case <-time.After(calm):
		}
		select {
		case <-ctx.Done():
		case <-grown:
		case <-tick.C:
		}
	}
}

// patiently does something until it succeeds.
func (f *Fleet) patiently(ctx context.Context, do func(context.Context) error) {
	for ctx.Err() == nil {
		err := do(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			f.log.WarnContext(ctx, "reading what the console shows", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// load reads every node, and then the last part of the log once more for what was
// decided lately. Entries that the rows have already seen change nothing: the last
// one about a node is what counts.
func (f *Fleet) load(ctx context.Context) error {
	size := f.svc.Log().Size()
	hour, err := f.svc.Log().FirstAt(ctx, f.now().Add(-time.Hour).Unix())
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.size = max(min(hour, size), size-min(size, backlog))
	f.mu.Unlock()
	names := map[string]string{}
	for after := ""; ; {
		page, err := f.svc.Nodes(ctx, after, 1000)
		if err != nil {
			return err
		}
		f.mu.Lock()
		for i := range page {
			f.put(&page[i], names)
		}
		f.mu.Unlock()
		if len(page) < 1000 {
			break
		}
		after = page[len(page)-1].ID
	}
	if err := f.refresh(ctx); err != nil {
		return err
	}
	if err := f.follow(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortFunc(f.order, func(a, b *node) int { return strings.Compare(a.subject, b.subject) })
	f.ready = true
	f.touch()
	return nil
}

// put takes a node's row. names are strings that many nodes share.
func (f *Fleet) put(row *verifier.Node, names map[string]string) *node {
	if n, ok := names[row.Class]; ok {
		row.Class = n
	} else if names != nil {
		names[row.Class] = row.Class
	}
	subject := f.svc.Subject(row.ID)
	n := f.nodes[subject]
	if n == nil {
		n = &node{subject: subject, id: row.ID}
		f.nodes[subject] = n
		at := len(f.order) // while all are read, they are put in order at the end
		if f.ready {
			at = sort.Search(len(f.order), func(i int) bool { return f.order[i].subject >= subject })
		}
		f.order = slices.Insert(f.order, at, n)
	}
	n.class, n.status, n.state, n.deadline, n.seq, n.enrolled, n.entry = row.Class, row.Status, row.State, row.Deadline, row.Seq, row.Enrolled, row.Entry
	if row.Device != nil {
		n.device = row.Device.Maker + " " + row.Device.Serial
	}
	if l := row.Last; l != nil {
		n.decided, n.decidedAt, n.decision, n.tier, n.references, n.findings = l.Index, l.At, l.Decision, l.Tier, l.References, l.Findings
	}
	switch {
	case row.Ended >= row.Seq:
		f.end(n)
	case !f.ready && row.Base < f.size && len(n.tokens) == 0: // else its entry is still to come
		f.token(n, row.Deadline)
	}
	return n
}

// token counts one more token of a node.
func (f *Fleet) token(n *node, expires int64) {
	now := f.now().Unix()
	n.tokens = slices.DeleteFunc(n.tokens, func(t int64) bool { return t <= now })
	if expires > now {
		n.tokens = append(n.tokens, expires)
		f.alive[expires]++
	}
}

// end counts the tokens of a node no more.
func (f *Fleet) end(n *node) {
	for _, t := range n.tokens {
		if f.alive[t]--; f.alive[t] <= 0 {
			delete(f.alive, t)
		}
	}
	n.tokens = nil
}

// touch tells whoever waits. The lock must be held.
func (f *Fleet) touch() {
	f.counted = nil
	close(f.changed)
	f.changed = make(chan struct{})
}

// Changed returns a channel that is closed when something changes.
func (f *Fleet) Changed() <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.changed
}

// Ready reports whether every node was read.
func (f *Fleet) Ready() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.ready
}

// refresh reads what few rows hold.
func (f *Fleet) refresh(ctx context.Context) error {
	refs, err := f.svc.InForce(ctx)
	if err != nil {
		return fmt.Errorf("reading the reference sets: %w", err)
	}
	peers, err := f.svc.Peers(ctx)
	if err != nil {
		return fmt.Errorf("reading the verifiers: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers, f.refs = peers, map[string]verifier.Reference{}
	for _, r := range refs {
		f.refs[r.Name] = r
	}
	return nil
}

// follow takes the entries that are new.
func (f *Fleet) follow(ctx context.Context) error {
	log := f.svc.Log()
	for size := log.Size(); ; {
		f.mu.RLock()
		from := f.size
		f.mu.RUnlock()
		if from >= size {
			return nil
		}
		to := min(from+256, size)
		leaves, next, err := log.Kept(ctx, from, to)
		if errors.Is(err, ledger.ErrPruned) {
			leaves, next, err = nil, to, nil
		}
		if err != nil {
			return err
		}
		b, err := f.read(ctx, leaves)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.apply(b)
		f.size = next
		if next >= size {
			f.touch()
		}
		f.mu.Unlock()
		if b.domain {
			if err := f.refresh(ctx); err != nil {
				return err
			}
		}
	}
}
