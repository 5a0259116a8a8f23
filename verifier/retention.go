package verifier

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Retention is how long is kept what was recorded. 0: for ever.
type Retention struct {
	Evidence time.Duration // of decisions: what was judged, and the verdict
	Entries  time.Duration // the bytes of log entries; their hashes stay
}

// Cut is when the oldest of what is kept was recorded, in Unix seconds. 0: all
// is kept.
type Cut struct{ Evidence, Entries int64 }

// Pruned says what retention gave up, or would.
type Pruned struct {
	Evidence, Entries        uint64 // of decisions and entries below these indexes
	Decisions, Blobs, Leaves int
}

// retained is the state row of what retention has given up. It is written with
// the entry that says so, before anything goes.
type retained struct {
	ledger.Pruned
	Entry uint64 `json:"entry"` // of the log, that says so
	Bare  uint64 `json:"bare"`  // entries below have lost their bytes
}

// Evidence that decisions share (boot logs, pieces of IMA lists) has a row that
// says when one named it last. To save writing, a node's rows are renewed once
// in markEvery, so retention keeps what they name for that much longer.
const markEvery = 24 * time.Hour

// sweepStep is how many rows or entries go in one transaction, which others
// wait for.
const sweepStep = 128

var retainedKey = ledger.Key{Kind: kindDomain, ID: "retention"}

// mark notes that evidence was named at a moment: what this decision has stored,
// or, once in markEvery, all that it and the node's row rest on.
func mark(slot ledger.Slot, n *Node, in *storedInput, stored []string) (puts []ledger.Put) {
	at := slot.At.Unix()
	if at-n.Marked >= int64(markEvery.Seconds()) {
		n.Marked = at
		stored = append(append([]string{in.UEFILog}, in.IMALog...), n.IMAChunks...)
		if n.Boot != nil {
			stored = append(stored, n.Boot.BootLog)
		}
	}
	for _, sum := range stored {
		if sum != "" {
			puts = append(puts, put(kindEvidence, sum, at))
		}
	}
	return puts
}

// history is what planning reads: a log, or a store that nobody writes.
type history interface {
	List(ctx context.Context, kind, after string, limit int) ([]ledger.Put, error)
	FirstAt(ctx context.Context, at int64) (uint64, error)
}

type stored struct{ ledger.Reader }

func (s stored) FirstAt(ctx context.Context, at int64) (uint64, error) {
	return ledger.FirstAt(ctx, s.Reader, at)
}

// PlanPrune tells what Prune would give up, and changes nothing.
func PlanPrune(ctx context.Context, r ledger.Reader, cut Cut) (Pruned, error) {
	p := pruning{from: stored{r}, cut: cut}
	rows, err := r.Rows(ctx, []ledger.Key{retainedKey})
	if err == nil && len(rows) > 0 {
		err = decode(rows[0].Value, &p.now)
	}
	if err != nil {
		return p.done, fmt.Errorf("planning to prune: %w", err)
	}
	return p.done, p.run(ctx)
}

// Prune gives up what is older than cut: of decisions the evidence and the
// verdict, of entries the bytes. Whatever the state of a node, a reference set
// or an enrolment rests on stays, and so do leaf hashes, tiles, checkpoints and
// every proof. An entry of the log says what goes before it does; what is
// interrupted is completed by the next call.
func (s *Service) Prune(ctx context.Context, cut Cut) (Pruned, error) {
	if err := s.ClockSound(); err != nil {
		return Pruned{}, err // it would not know how old things are
	}
	if now := s.cfg.Now().Unix(); cut.Evidence > now || cut.Entries > now {
		return Pruned{}, protocol.Refuse(protocol.IllegalAct, "only what was recorded before now can be given up")
	}
	now, _, err := row[retained](ctx, s, retainedKey)
	if err != nil {
		return Pruned{}, err
	}
	p := pruning{from: s.log, cut: cut, now: now, svc: s}
	return p.done, p.run(ctx)
}

type pruning struct {
	from history
	svc  *Service // nil: only look
	cut  Cut
	now  retained
	done Pruned
}

func (p *pruning) run(ctx context.Context) error {
	if err := p.announce(ctx); err != nil {
		return fmt.Errorf("recording what is given up: %w", err)
	}
	p.done.Evidence, p.done.Entries = p.now.Evidence, p.now.Entries
	if p.now.Evidence > 0 {
		if err := p.decisions(ctx); err != nil {
			return fmt.Errorf("giving up decisions below entry %d: %w", p.now.Evidence, err)
		}
		if err := p.evidence(ctx); err != nil {
			return fmt.Errorf("giving up evidence of decisions below entry %d: %w", p.now.Evidence, err)
		}
	}
	if err := p.entries(ctx); err != nil {
		return fmt.Errorf("giving up entries below %d: %w", p.now.Entries, err)
	}
	return nil
}

// announce moves the limits, and has the log say so.
func (p *pruning) announce(ctx context.Context) error {
	next := p.now
	if p.cut.Evidence > next.EvidenceBefore {
		i, err := p.from.FirstAt(ctx, p.cut.Evidence)
		if err != nil {
			return err
		}
		next.Evidence, next.EvidenceBefore = max(next.Evidence, i), p.cut.Evidence
	}
	if p.cut.Entries > next.EntriesBefore {
		i, err := p.from.FirstAt(ctx, p.cut.Entries)
		if err != nil {
			return err
		}
		next.Entries, next.EntriesBefore = max(next.Entries, i-i%ledger.BundleEntries), p.cut.Entries
	}
	if next.Evidence == p.now.Evidence && next.Entries == p.now.Entries {
		return nil // nothing became older
	}
	if p.svc != nil {
		var err error
		if next, err = p.svc.pruned(ctx, next); err != nil {
			return err
		}
	}
	p.now = next
	return nil
}

// pruned writes the entry, and the limits that it tells of. Another verifier may
// have gone further meanwhile.
func (s *Service) pruned(ctx context.Context, next retained) (retained, error) {
	_, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{retainedKey}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		now, _, err := slotRow[retained](slot, retainedKey)
		if err != nil {
			return ledger.Change{}, err
		}
		next.Evidence, next.EvidenceBefore = max(next.Evidence, now.Evidence), max(next.EvidenceBefore, now.EvidenceBefore)
		next.Entries, next.EntriesBefore = max(next.Entries, now.Entries), max(next.EntriesBefore, now.EntriesBefore)
		next.Bare, next.Entry = now.Bare, slot.Index
		return ledger.Change{
			Entries: []ledger.Entry{s.entry(bundle.RetentionPruned, "domain", "verifier/"+s.cfg.Name, next.Pruned)},
			Puts:    []ledger.Put{put(retainedKey.Kind, retainedKey.ID, next)},
		}, nil
	}})
	return next, err
}

// decisions gives up the rows of decisions and what they alone name.
func (p *pruning) decisions(ctx context.Context) error {
	for after := ""; ; {
		page, err := p.from.List(ctx, kindDecision, after, sweepStep)
		if err != nil || len(page) == 0 {
			return err
		}
		var puts []ledger.Put
		var sweep ledger.Sweep
		for _, r := range page {
			node, digits, _ := strings.Cut(r.Key.ID, "/")
			index, err := strconv.ParseUint(digits, 10, 64)
			if err != nil {
				return fmt.Errorf("reading decision %s: %w", r.Key.ID, err)
			}
			if after = r.Key.ID; index >= p.now.Evidence {
				after = node + "/~" // the rest of its decisions is younger
				break
			}
			var d decision
			if err := decode(r.Value, &d); err != nil {
				return fmt.Errorf("reading decision %s: %w", r.Key.ID, err)
			}
			sweep.Blobs = append(sweep.Blobs, d.blobs()...)
			puts = append(puts, ledger.Put{Key: r.Key})
		}
		p.done.Decisions, p.done.Blobs = p.done.Decisions+len(puts), p.done.Blobs+len(sweep.Blobs)
		if err := p.sweep(ctx, nil, func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Puts: puts, Sweep: &sweep}, nil
		}, len(puts)); err != nil {
			return err
		}
	}
}

// evidence gives up what decisions shared, when none has named it for long
// enough and no node's state rests on it.
func (p *pruning) evidence(ctx context.Context) error {
	live, err := p.live(ctx)
	if err != nil {
		return err
	}
	limit := p.now.EvidenceBefore - int64(markEvery.Seconds())
	for after := ""; ; {
		page, err := p.from.List(ctx, kindEvidence, after, sweepStep)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1].Key.ID
		var old []ledger.Key
		for _, r := range page {
			var at int64
			if err := decode(r.Value, &at); err != nil {
				return fmt.Errorf("reading evidence %s: %w", r.Key.ID, err)
			}
			if at < limit && !live[r.Key.ID] {
				old = append(old, r.Key)
			}
		}
		p.done.Blobs += len(old)
		if err := p.sweep(ctx, old, func(slot ledger.Slot) (ledger.Change, error) { return forget(slot, old, limit) }, len(old)); err != nil {
			return err
		}
	}
}

// forget looks again under the head lock: a decision may have named evidence
// that was old a moment ago.
func forget(slot ledger.Slot, old []ledger.Key, limit int64) (ledger.Change, error) {
	change := ledger.Change{Sweep: &ledger.Sweep{}}
	for _, k := range old {
		at, ok, err := slotRow[int64](slot, k)
		if err != nil {
			return ledger.Change{}, err
		}
		if h, valid := digest(k.ID); ok && valid && at < limit {
			change.Sweep.Blobs = append(change.Sweep.Blobs, h)
			change.Puts = append(change.Puts, ledger.Put{Key: k})
		}
	}
	return change, nil
}

// live is the evidence that the rows of nodes name: without it they could not
// renew.
func (p *pruning) live(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	for after := ""; ; {
		page, err := p.from.List(ctx, kindNode, after, sweepStep)
		if err != nil || len(page) == 0 {
			return out, err
		}
		after = page[len(page)-1].Key.ID
		for _, r := range page {
			var n Node
			if err := decode(r.Value, &n); err != nil {
				return nil, fmt.Errorf("reading node %s: %w", r.Key.ID, err)
			}
			if n.Boot != nil {
				out[n.Boot.BootLog] = true
			}
			for _, c := range n.IMAChunks {
				out[c] = true
			}
		}
	}
}

// keptKind is the kind of entries that never lose their bytes: bundles prove by
// them whose key has signed.
const keptKind = bundle.NodeEnrolled

// entries takes the bytes of entries.
func (p *pruning) entries(ctx context.Context) error {
	if p.now.Entries > p.now.Bare {
		p.done.Leaves = int(p.now.Entries - p.now.Bare)
	}
	for p.svc != nil && p.now.Bare < p.now.Entries {
		to := min(p.now.Bare+8*sweepStep, p.now.Entries)
		if err := p.sweep(ctx, []ledger.Key{retainedKey}, func(slot ledger.Slot) (ledger.Change, error) {
			now, _, err := slotRow[retained](slot, retainedKey)
			if err != nil {
				return ledger.Change{}, err
			}
			from := now.Bare
			now.Bare = max(now.Bare, to)
			return ledger.Change{Puts: []ledger.Put{put(retainedKey.Kind, retainedKey.ID, now)},
				Sweep: &ledger.Sweep{From: from, To: to, Keep: []string{keptKind}}}, nil
		}, 1); err != nil {
			return err
		}
		p.now.Bare = to
	}
	return nil
}

// sweep makes a change that removes n things; none when this only looks.
func (p *pruning) sweep(ctx context.Context, keys []ledger.Key, build func(ledger.Slot) (ledger.Change, error), n int) error {
	if n == 0 || p.svc == nil {
		return nil
	}
	_, err := p.svc.log.Append(ctx, ledger.Draft{Keys: keys, Build: build})
	return err
}

func digest(hexSum string) (h ledger.Hash, ok bool) {
	b, err := hex.DecodeString(hexSum)
	if err != nil || len(b) != len(h) {
		return h, false
	}
	return ledger.Hash(b), true
}

// Retain prunes from time to time until ctx is done. Verifiers of a domain share
// the work: what one has given up is not due for the others.
func (s *Service) Retain(ctx context.Context, keep Retention) {
	for {
		if err := s.retain(ctx, keep); err != nil && ctx.Err() == nil {
			s.cfg.Slog.WarnContext(ctx, "pruning failed, and is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Minute):
		}
	}
}

func (s *Service) retain(ctx context.Context, keep Retention) error {
	now, _, err := row[retained](ctx, s, retainedKey)
	if err != nil {
		return err
	}
	cut := Cut{Evidence: s.due(keep.Evidence, now.EvidenceBefore), Entries: s.due(keep.Entries, now.EntriesBefore)}
	if cut == (Cut{}) {
		return nil
	}
	p, err := s.Prune(ctx, cut)
	if err == nil {
		s.cfg.Slog.InfoContext(ctx, "pruned", "evidence_below", p.Evidence, "entries_below", p.Entries, "decisions", p.Decisions, "blobs", p.Blobs, "leaves", p.Leaves)
	}
	return err
}

// due is the moment to prune up to, once what could go is a day's worth, or an
// eighth of a shorter retention; else 0.
func (s *Service) due(keep time.Duration, before int64) int64 {
	if keep == 0 {
		return 0
	}
	cut := s.cfg.Now().Add(-keep).Unix()
	if cut-before < int64(min(24*time.Hour, keep/8).Seconds()) {
		return 0
	}
	return cut
}

// gone tells what retention gave up from what never was.
func (s *Service) gone(ctx context.Context, node string, index uint64) error {
	r, _, err := row[retained](ctx, s, retainedKey)
	if err != nil || index >= r.Evidence {
		return err
	}
	refusal := protocol.Refuse(protocol.Pruned, "the evidence of decisions below entry %d was given up by retention, as entry %d records; the entry and its proof remain", r.Evidence, r.Entry)
	if index < r.Bare {
		return refusal
	}
	raw, err := s.log.Entry(ctx, index)
	if err != nil {
		return err
	}
	leaf, err := ledger.ParseLeaf(raw)
	if err != nil {
		return err
	}
	if k := leaf.Kind; leaf.Subject == bundle.Subject(s.cfg.Domain, node) && (k == bundle.Decided || k == bundle.Issued || k == bundle.Renewed) {
		return refusal
	}
	return nil
}
