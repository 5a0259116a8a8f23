package lineage

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// Summary is an execution in short.
type Summary struct {
	Exec      string `json:"exec"`
	Parent    string `json:"parent,omitempty"`
	Node      string `json:"node"` // pseudonym in this domain's log
	Workload  string `json:"workload,omitempty"`
	Basis     string `json:"workload_basis"` // as in [Execution]
	Level     string `json:"level"`
	Base      uint64 `json:"base"`    // entry of the decision that the first token rests on
	Entry     uint64 `json:"entry"`   // of the first token
	Started   int64  `json:"started"` // Unix seconds
	Expires   int64  `json:"expires"` // of the last token
	Last      int64  `json:"last"`    // time of the last entry
	Tokens    int    `json:"tokens"`
	Ended     bool   `json:"ended"`
	End       uint64 `json:"end,omitempty"`       // entry of the end
	Cause     string `json:"cause,omitempty"`     // of the end
	Confirmed bool   `json:"confirmed,omitempty"` // that nothing of it is left
	LatencyUS int64  `json:"latency_us,omitempty"`
	Children  int    `json:"children"`
}

// Query selects executions. The zero Query selects all.
type Query struct {
	Text     string   // part of an id
	Nodes    []string // pseudonyms; none: all
	From, To int64    // Unix seconds: it lived at some time from From to To; 0: no bound
	Before   uint64   // its first token's entry is before this one; 0: no bound
}

// Limits of an [Index].
const (
	maxRuns   = 100_000
	maxEvents = 2_000_000 // entries of all runs
)

// Index finds executions in a log that grows, and the entries about each. It holds
// no entry: what a page shows is read from the log. It forgets the oldest runs when
// there are too many.
type Index struct {
	next    uint64
	runs    map[string]*run
	order   []*run            // by first token
	strange map[string][]*run // whose parent is in no entry before: by its name
	events  int
	most    int // runs
}

// run is one execution.
type run struct {
	Summary
	events   []uint64 // indices of its entries
	children []*run
}

// NewIndex makes an index without entries, which keeps the latest runs, at most so many;
// 0: as many as there may be.
func NewIndex(most int) *Index {
	if most <= 0 || most > maxRuns {
		most = maxRuns
	}
	return &Index{runs: map[string]*run{}, strange: map[string][]*run{}, most: most}
}

// Next is the index of the entry that Add has not seen yet.
func (x *Index) Next() uint64 {
	return x.next
}

// Skip leaves out entries before next.
func (x *Index) Skip(next uint64) {
	x.next = next
}

// Add takes a leaf, by the rules of [Log.Add]. Leaves come in order.
func (x *Index) Add(index uint64, leaf ledger.Leaf) error {
	x.next = index + 1
	var err error
	switch leaf.Kind {
	case bundle.Issued, bundle.Renewed:
		var d bundle.Decision
		if err = json.Unmarshal(leaf.Data, &d); err == nil && d.Token != nil && d.Token.Exec != "" {
			x.admit(index, leaf, d.Token, index)
		}
	case bundle.Admitted:
		var t bundle.Token
		if err = json.Unmarshal(leaf.Data, &t); err == nil && t.Exec != "" {
			x.admit(index, leaf, &t, t.Base)
		}
	case bundle.Terminated:
		var s bundle.Stop
		if err = json.Unmarshal(leaf.Data, &s); err == nil {
			x.end(index, leaf, &s)
		}
	}
	if err != nil {
		return fmt.Errorf("reading entry %d, %s: %w", index, leaf.Kind, err)
	}
	return nil
}

func (x *Index) admit(index uint64, leaf ledger.Leaf, t *bundle.Token, base uint64) {
	r := x.runs[t.Exec]
	if r == nil {
		r = &run{Summary: Summary{Exec: t.Exec, Parent: t.Parent, Node: leaf.Subject, Workload: t.Workload, Basis: none, Level: t.Level, Base: base, Entry: index, Started: leaf.At}}
		x.runs[t.Exec] = r
		x.order = append(x.order, r)
		if p := x.runs[t.Parent]; p != nil && p != r {
			p.children, p.Children = append(p.children, r), p.Children+1
		} else if t.Parent != "" && p == nil {
			x.strange[t.Parent] = append(x.strange[t.Parent], r)
		}
	}
	if r.Node != leaf.Subject { // the name of another node's run is not taken over
		return
	}
	r.Basis = better(r.Basis, r.Workload, t.Workload, t.WorkloadBasis)
	r.Tokens++
	r.Expires = max(r.Expires, t.Expires)
	x.note(r, index, leaf.At)
}

func (x *Index) end(index uint64, leaf ledger.Leaf, s *bundle.Stop) {
	r := x.runs[s.Exec]
	if r == nil || r.Node != leaf.Subject {
		return
	}
	r.Ended, r.End, r.Cause, r.Confirmed, r.LatencyUS = true, index, s.Cause, s.Confirmed, s.LatencyUS
	x.note(r, index, leaf.At)
}

// note adds an entry to a run, and forgets the oldest runs if there is too much.
func (x *Index) note(r *run, index uint64, at int64) {
	r.Last = at
	r.events = append(r.events, index)
	x.events++
	for len(x.order) > 1 && (len(x.order) > x.most || x.events > maxEvents) {
		old := x.order[0]
		x.order[0], x.order = nil, x.order[1:]
		delete(x.runs, old.Exec)
		if left := slices.DeleteFunc(x.strange[old.Parent], func(r *run) bool { return r == old }); len(left) > 0 {
			x.strange[old.Parent] = left
		} else {
			delete(x.strange, old.Parent)
		}
		x.events -= len(old.events)
	}
}

// Find returns up to limit runs, the latest first, and whether there are more.
func (x *Index) Find(q Query, limit int) (found []Summary, more bool) {
	end := len(x.order)
	if q.Before > 0 {
		end, _ = slices.BinarySearchFunc(x.order, q.Before, func(r *run, entry uint64) int { return cmp.Compare(r.Entry, entry) })
	}
	for i := end - 1; i >= 0; i-- {
		r := x.order[i]
		if !strings.Contains(r.Exec, q.Text) || len(q.Nodes) > 0 && !slices.Contains(q.Nodes, r.Node) || q.From > 0 && r.until() < q.From || q.To > 0 && r.Started > q.To {
			continue
		}
		if len(found) == limit {
			return found, true
		}
		found = append(found, r.Summary)
	}
	return found, false
}

// Has reports whether an execution is known.
func (x *Index) Has(exec string) bool { return x.runs[exec] != nil }

// Strangers are up to limit executions that name a parent which no entry before theirs
// knew, as one of another domain is.
func (x *Index) Strangers(parent string, limit int) []Summary {
	if x.runs[parent] != nil {
		return nil // its own
	}
	var out []Summary
	for _, r := range x.strange[parent] {
		if len(out) == limit {
			break
		}
		out = append(out, r.Summary)
	}
	return out
}

// until is the last moment at which a run can have lived.
func (r *run) until() int64 {
	if r.Ended {
		return r.Last
	}
	return max(r.Last, r.Expires)
}

// Entries are the entries that a lineage is told from: with the run's own those of
// the runs that led to it, and the first ones of all their children. own is how many
// of the run are listed at most, the first and the last, others how many of each
// other run; omitted and short count what is left out. [ErrUnknown] when there is no
// such run.
func (x *Index) Entries(exec string, own, others int) (indices []uint64, children []Summary, omitted, short int, err error) {
	r := x.runs[exec]
	if r == nil {
		return nil, nil, 0, 0, fmt.Errorf("%w: %s", ErrUnknown, exec)
	}
	for _, c := range r.children[:min(len(r.children), own)] {
		children = append(children, c.Summary)
	}
	seen := map[*run]bool{r: true}
	indices, omitted = r.some(own)
	for p := x.runs[r.Parent]; p != nil && !seen[p] && len(seen) < maxParents; p = x.runs[p.Parent] {
		seen[p] = true
		more, left := p.some(others)
		indices, short = append(indices, more...), short+left
	}
	slices.Sort(indices)
	return slices.Compact(indices), children, omitted, short, nil
}

// maxParents is how far back a lineage is told.
const maxParents = 64

// some are the decision that a run rests on, up to most of its entries, the first and
// the last, and the first entries of up to most of its children.
func (r *run) some(most int) (indices []uint64, left int) {
	indices = append([]uint64{r.Base}, r.events...)
	if n := len(r.events); n > most {
		indices = append(indices[:1+most/4], r.events[n-(most-most/4):]...)
		left = n - most
	}
	born := r.children
	if n := len(born); n > most {
		born, left = born[:most], left+n-most
	}
	for _, c := range born {
		indices = append(indices, c.Entry)
	}
	return indices, left
}
