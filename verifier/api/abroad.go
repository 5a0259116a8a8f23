package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/lineage"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// How much is kept of other domains' executions, and how often they are looked at.
const (
	abroadEvery   = 2 * time.Second
	abroadHorizon = 200_000 // entries that are read of a domain's log at first
	abroadRuns    = 10_000  // of each domain
	abroadBundles = 64      // of 256 entries, of all domains
)

// abroad is what the logs of recognised domains say of executions, as far as they were
// read. Each entry was proven to stand in its log when it was read.
type abroad struct {
	mu      sync.RWMutex
	domains map[string]*distant
	bundles map[foreignBundle][][]byte // some that were read lately
}

// distant is one recognised domain.
type distant struct {
	protocol.PeerDomain
	size  uint64         // entries under its checkpoint
	index *lineage.Index // nil: nothing was read
	why   string         // why nothing of it is told
}

// foreignBundle names a bundle under a checkpoint: the last one of a log grows.
type foreignBundle struct {
	domain      string
	first, size uint64
}

// followAbroad keeps the executions of recognised domains until ctx is done. Which
// domains count, and under which checkpoint, is for [verifier.Service] to say.
func (s *Server) followAbroad(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.lookAbroad(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "reading which domains are recognised", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(abroadEvery):
		}
	}
}

func (s *Server) lookAbroad(ctx context.Context) error {
	now, err := s.svc.PeerDomains(ctx)
	if err != nil {
		return err
	}
	for _, p := range s.far.meet(now) {
		if p.State != protocol.PeerAccepted {
			continue
		}
		if err := s.readAbroad(ctx, p); err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "the executions of a recognised domain are not read", "domain", p.Domain, "error", err)
			s.far.lost(p.Domain, reasonOf(err))
		}
	}
	return nil
}

// meet takes the recognised domains of now. What was read of a domain stays while it is
// the same one; of one that does not count any more nothing is told.
func (a *abroad) meet(now []protocol.PeerDomain) []protocol.PeerDomain {
	a.mu.Lock()
	defer a.mu.Unlock()
	met := map[string]*distant{}
	for _, p := range now {
		f := a.domains[p.Domain]
		if f == nil || string(f.Trust) != string(p.Trust) {
			f = &distant{}
		}
		if f.PeerDomain = p; p.State != protocol.PeerAccepted {
			f.index, f.why = nil, p.Why // a log that contradicts itself is read anew, if ever
		} else if f.index == nil && f.why == "" {
			f.why = "its log was not read yet"
		}
		met[p.Domain] = f
	}
	a.domains = met
	if len(met) == 0 {
		a.bundles = nil
	}
	return now
}

// lost notes why a domain is not read on. What was read is proven all the same.
func (a *abroad) lost(domain, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.domains[domain]; f != nil && f.index == nil {
		f.why = why
	}
}

// reasonOf says to anybody why a log could not be read; addresses and the like are for
// this verifier's own log.
func reasonOf(err error) string {
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) {
		return "it does not let others read its entries"
	}
	if errors.Is(err, ledger.ErrCorrupt) {
		return "its entries are not those that its checkpoint was signed for"
	}
	return "its entries could not be read; trying again"
}

// readAbroad reads what is new of a domain's log.
func (s *Server) readAbroad(ctx context.Context, p protocol.PeerDomain) error {
	log, err := s.svc.PeerLog(ctx, p.Domain)
	if err != nil {
		return err
	}
	defer log.Close()
	s.far.mu.RLock()
	index := s.far.domains[p.Domain].index
	s.far.mu.RUnlock()
	if index == nil {
		index = lineage.NewIndex(abroadRuns)
		index.Skip(log.Size - min(log.Size, abroadHorizon))
	}
	for from := index.Next(); from < log.Size; from = index.Next() { // nobody else moves it
		leaves, err := log.Entries(ctx, from)
		if errors.Is(err, ledger.ErrPruned) {
			s.far.mu.Lock()
			index.Skip(min(from+ledger.BundleEntries-from%ledger.BundleEntries, log.Size))
			s.far.mu.Unlock()
			continue
		}
		if err != nil {
			return err
		}
		s.far.mu.Lock()
		for i, raw := range leaves {
			leaf, err := ledger.ParseLeaf(raw)
			if err == nil {
				err = index.Add(from+uint64(i), leaf)
			}
			if err != nil { // the others are still to be found
				s.cfg.Log.WarnContext(ctx, "an entry of a recognised domain is left out of the page lineage", "domain", p.Domain, "entry", from+uint64(i), "error", err)
			}
		}
		index.Skip(from + uint64(len(leaves)))
		s.far.mu.Unlock()
	}
	s.far.mu.Lock()
	defer s.far.mu.Unlock()
	if f := s.far.domains[p.Domain]; f != nil && f.State == protocol.PeerAccepted {
		f.index, f.size, f.why = index, log.Size, ""
	}
	return nil
}

// abroad adds to a lineage what recognised domains know of it: the parents that this
// domain's log does not have, where exactly one of them has, and the children that name
// it. others is how many entries of each execution are read.
func (s *Server) abroad(ctx context.Context, t *told, others int) {
	t.peers = s.far.tell(t.Execution.ID)
	logs := map[string]*lineage.Log{}
	for range maxAbroad { // from domain to domain
		missing := t.Unresolved
		at := s.far.having(missing)
		if missing == "" || len(at) != 1 {
			break // nobody has it, or any of them could claim it
		}
		if logs[at[0]] != nil {
			break // told already: a circle
		}
		log, left, err := s.tellAbroad(ctx, at[0], missing, others)
		if err != nil {
			s.cfg.Log.WarnContext(ctx, "a parent in a recognised domain is left out", "domain", at[0], "error", err)
			for i := range t.peers {
				if t.peers[i].Domain == at[0] {
					t.peers[i].Why = reasonOf(err)
				}
			}
			break
		}
		logs[at[0]] = log
		t.short += left
		for i := range t.peers {
			t.peers[i].Parent = t.peers[i].Parent || t.peers[i].Domain == at[0]
		}
		t.Continue(map[string]*lineage.Log{at[0]: log})
		if t.Unresolved == missing {
			break
		}
	}
}

// maxAbroad is how many domains a lineage is followed through.
const maxAbroad = 4

// tell is what each recognised domain knows of an execution of this one.
func (a *abroad) tell(exec string) []protocol.ToldPeer {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var out []protocol.ToldPeer
	for _, domain := range slices.Sorted(maps.Keys(a.domains)) {
		f := a.domains[domain]
		p := protocol.ToldPeer{Domain: domain, Size: f.size, Seen: f.Seen, Why: f.why, Children: []protocol.Execution{}}
		if f.index != nil {
			p.Read, p.Children = f.index.Next(), runsOf(f.index.Strangers(exec, runsPerPage))
		}
		out = append(out, p)
	}
	return out
}

// having names the recognised domains whose logs have an execution.
func (a *abroad) having(exec string) (at []string) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for domain, f := range a.domains {
		if f.index != nil && f.index.Has(exec) {
			at = append(at, domain)
		}
	}
	return at
}

// tellAbroad reads from a recognised domain's log what it says of an execution and of
// those that led to it. left counts what is left out.
func (s *Server) tellAbroad(ctx context.Context, domain, exec string, others int) (_ *lineage.Log, left int, err error) {
	s.far.mu.RLock()
	f := s.far.domains[domain]
	var indices []uint64
	var short int
	if f == nil || f.index == nil {
		err = lineage.ErrUnknown
	} else {
		indices, _, left, short, err = f.index.Entries(exec, others, others)
	}
	s.far.mu.RUnlock()
	if err != nil {
		return nil, 0, err
	}
	peer, err := s.svc.PeerLog(ctx, domain)
	if err != nil {
		return nil, 0, err
	}
	defer peer.Close()
	out := new(lineage.Log)
	for _, index := range indices {
		raw, err := s.far.entry(ctx, peer, index)
		if errors.Is(err, ledger.ErrPruned) {
			short++
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		leaf, err := ledger.ParseLeaf(raw)
		if err == nil {
			err = out.Add(index, leaf)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("entry %d of %s: %w", index, domain, err)
		}
	}
	return out, left + short, nil
}

// entry is an entry of a recognised domain's log. The bundle it is in is remembered for
// the next one: a page asks again and again.
func (a *abroad) entry(ctx context.Context, log *verifier.PeerLog, index uint64) ([]byte, error) {
	if index >= log.Size {
		return nil, protocol.Refuse(protocol.NotFound, "the log of %s has no entry %d under the checkpoint that was seen last", log.Domain, index)
	}
	first := index - index%ledger.BundleEntries
	key := foreignBundle{log.Domain, first, min(log.Size, first+ledger.BundleEntries)}
	a.mu.RLock()
	leaves := a.bundles[key]
	a.mu.RUnlock()
	if leaves == nil {
		var err error
		if leaves, err = log.Entries(ctx, first); err != nil {
			return nil, err
		}
		a.mu.Lock()
		if a.bundles == nil || len(a.bundles) >= abroadBundles {
			a.bundles = map[foreignBundle][][]byte{}
		}
		a.bundles[key] = leaves
		a.mu.Unlock()
	}
	if n := uint64(len(leaves)); index-first >= n {
		return nil, fmt.Errorf("reading entry %d of %s: its bundle has %d", index, log.Domain, n)
	}
	return leaves[index-first], nil
}

// peerEntry answers with an entry of a recognised domain's log and its proof.
func (s *Server) peerEntry(q *call) error {
	index, err := number(q.QueryParam("index"))
	if err != nil {
		return err
	}
	ctx := q.Request().Context()
	leave, ok := s.runs.tellers.enter(ctx)
	if !ok {
		return &httpError{status: http.StatusServiceUnavailable, code: codeBusy, detail: "too many entries are being read", retry: 2}
	}
	defer leave()
	log, err := s.svc.PeerLog(ctx, q.QueryParam("domain"))
	if err != nil {
		return err
	}
	defer log.Close()
	raw, err := s.far.entry(ctx, log, index)
	if err != nil {
		return unreachable(err)
	}
	receipt, err := log.Prove(ctx, index)
	if err != nil {
		return unreachable(err)
	}
	return q.answer(protocol.PeerEntry{Entry: string(raw), Receipt: receipt, Trust: log.Trust})
}

// unreachable is an error of another domain's: none of this verifier's, and nothing of
// its words is for anybody.
func unreachable(err error) error {
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Code == protocol.NotFound || errors.Is(err, ledger.ErrPruned) {
		return err
	}
	return &httpError{status: http.StatusServiceUnavailable, code: codeBusy, detail: "the entry of the other domain is not to be had: " + reasonOf(err), retry: 10}
}
