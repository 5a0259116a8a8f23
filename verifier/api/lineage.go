package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/lineage"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// What the page /lineage takes.
const (
	lineageCost = 50 // in public reads
	runsPerPage = 50
	toldEntries = 400       // of the execution on the page
	toldOthers  = 4         // of each that led to it
	toldWhole   = 2000      // of the execution in a file
	toldLed     = 500       // of each that led to it
	toldAtOnce  = 2         // each reads that many entries
	runsHorizon = 2_000_000 // entries that are read when the verifier starts
	runsCalm    = 200 * time.Millisecond
)

// runs are the executions of the log, as far as it was read.
type runs struct {
	tellers *lane // who reads what is told

	mu    sync.RWMutex
	index *lineage.Index
}

func newRuns() *runs {
	return &runs{tellers: newLane(toldAtOnce, toldAtOnce*16), index: lineage.NewIndex(0)}
}

// next is the index of the entry that is read next.
func (r *runs) next() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.index.Next()
}

func (r *runs) find(q lineage.Query) (found []lineage.Summary, more bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.index.Find(q, runsPerPage)
}

func (r *runs) entries(exec string, own, others int) (indices []uint64, children []lineage.Summary, omitted, short int, err error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.index.Entries(exec, own, others)
}

// take adds what there is of the entries from one to before another. An entry that
// cannot be read is left out: the others are still to be found.
func (r *runs) take(from, to uint64, leaves map[uint64][]byte) (failed error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := from; i < to && len(leaves) > 0; i++ {
		raw, ok := leaves[i]
		if !ok {
			continue
		}
		leaf, err := ledger.ParseLeaf(raw)
		if err == nil {
			err = r.index.Add(i, leaf)
		}
		failed = errors.Join(failed, err)
	}
	r.index.Skip(to)
	return failed
}

// followRuns keeps the index of executions at the end of the log until ctx is done.
func (s *Server) followRuns(ctx context.Context) {
	if size := s.svc.Log().Size(); size > runsHorizon {
		_ = s.runs.take(0, size-runsHorizon, nil) // none that could fail
	}
	for ctx.Err() == nil {
		grown := s.svc.Log().Changed()
		pause := runsCalm
		if err := s.readRuns(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "reading what the page lineage shows", "error", err)
			grown, pause = nil, time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		if grown == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-grown:
		}
	}
}

func (s *Server) readRuns(ctx context.Context) error {
	log := s.svc.Log()
	for from, size := s.runs.next(), log.Size(); from < size; from = s.runs.next() {
		to := min(from+entriesPerPage, size)
		leaves, next, err := log.Kept(ctx, from, to)
		if errors.Is(err, ledger.ErrPruned) {
			leaves, next, err = nil, to, nil
		}
		if err != nil {
			return err
		}
		if err := s.runs.take(from, next, leaves); err != nil {
			s.cfg.Log.WarnContext(ctx, "entries are left out of the page lineage", "error", err)
		}
	}
	return nil
}

func (s *Server) executions(q *call) error {
	find := lineage.Query{Text: strings.TrimSpace(q.QueryParam("q"))}
	node := strings.TrimSpace(q.QueryParam("node"))
	if len(find.Text) > 64 || len(node) > 64 {
		return malformed("an execution's and a node's id have at most 64 characters")
	}
	if node != "" { // the log knows nodes by their pseudonyms, operators by their ids
		find.Nodes = []string{node, bundle.Subject(s.svc.Domain(), node)}
	}
	var from, to uint64
	for name, v := range map[string]*uint64{"from": &from, "to": &to, "before": &find.Before} {
		var err error
		if *v, err = q.param(name, 0); err != nil {
			return err
		}
	}
	find.From, find.To = int64(from), int64(to)
	found, more := s.runs.find(find)
	out := protocol.Executions{Size: s.svc.Log().Size(), Read: s.runs.next(), Executions: runsOf(found), More: more}
	return q.answer(out)
}

func runsOf(found []lineage.Summary) []protocol.Execution {
	out := make([]protocol.Execution, len(found))
	for i, f := range found {
		out[i] = protocol.Execution(f)
	}
	return out
}

// told is a lineage as it can be told now.
type told struct {
	*lineage.Lineage
	peers                []protocol.ToldPeer
	children             []lineage.Summary
	omitted, short, gone int
}

// tell reads the lineage of an execution from the log: of its own entries, and of
// those of the executions that led to it, at most so many.
func (s *Server) tell(ctx context.Context, exec string, own, others int) (*told, error) {
	leave, ok := s.runs.tellers.enter(ctx)
	if !ok {
		return nil, &httpError{status: http.StatusServiceUnavailable, code: codeBusy, detail: "too many lineages are being read", retry: 2}
	}
	defer leave()
	indices, children, omitted, short, err := s.runs.entries(exec, own, others)
	if errors.Is(err, lineage.ErrUnknown) {
		return nil, protocol.Refuse(protocol.NotFound, "the log has no execution %.64q in the %d of its %d entries that were read", exec, s.runs.next(), s.svc.Log().Size())
	}
	t := &told{children: children, omitted: omitted, short: short}
	var log lineage.Log
	for _, index := range indices {
		raw, err := s.svc.Log().Entry(ctx, index)
		if errors.Is(err, ledger.ErrPruned) {
			t.gone++
			continue
		}
		if err != nil {
			return nil, err
		}
		leaf, err := ledger.ParseLeaf(raw)
		if err == nil {
			err = log.Add(index, leaf)
		}
		if err != nil {
			return nil, fmt.Errorf("telling the lineage of %s: entry %d: %w", exec, index, err)
		}
	}
	if t.Lineage, err = log.Of(s.svc.Domain(), exec); errors.Is(err, lineage.ErrUnknown) {
		return nil, fmt.Errorf("telling the lineage of %s: %w", exec, ledger.ErrPruned)
	}
	if err == nil {
		s.abroad(ctx, t, others)
	}
	return t, err
}

func (s *Server) lineage(q *call) error {
	t, err := s.tell(q.Request().Context(), q.QueryParam("exec"), toldEntries, toldOthers)
	if err != nil {
		return err
	}
	native, err := t.Native()
	if err != nil {
		return err
	}
	return q.answer(protocol.Told{Now: s.cfg.Now().Unix(), Lineage: native, Children: runsOf(t.children), Omitted: t.omitted, Gone: t.gone, Peers: nonNil(t.peers)})
}

// lineageExport writes what the log says, whole or not at all. An in-toto statement
// goes unsigned: no key of the verifier is for that.
func (s *Server) lineageExport(q *call) error {
	exec, format := q.QueryParam("exec"), q.QueryParam("format")
	export, ok := map[string]func(*lineage.Lineage) ([]byte, error){
		"native": (*lineage.Lineage).Native, "in-toto": (*lineage.Lineage).Statement, "rfc-eg-0010": (*lineage.Lineage).EG0010,
	}[format]
	if !ok {
		return malformed("format %.20q: expected native, in-toto or rfc-eg-0010", format)
	}
	t, err := s.tell(q.Request().Context(), exec, toldWhole, toldLed)
	if err != nil {
		return err
	}
	if left := t.omitted + t.short; left > 0 || t.gone > 0 {
		return protocol.Refuse(protocol.IllegalAct, "the file would lack %d entries that are too many and %d that retention gave up; writ lineage export writes all that there are", left, t.gone)
	}
	raw, err := export(t.Lineage)
	if errors.Is(err, lineage.ErrNoSubject) {
		return protocol.Refuse(protocol.IllegalAct, "in-toto statements are about digests, and this execution has no workload digest; take another format")
	}
	if err != nil {
		return err
	}
	q.Response().Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", exec+"."+format+".json")) // its id is of letters, digits, dots and dashes
	return q.Blob(http.StatusOK, mediaJSON, raw)
}
