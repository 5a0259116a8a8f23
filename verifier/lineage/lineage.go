// Package lineage tells the life of one execution from a domain's log: who let
// it run, on what evidence, how often that was renewed, and how it ended.
//
// It believes the leaves it is given: whoever wants proof checks them against
// the log first. Digests of workload and keeper are measured where an entry says
// that the kernel measured them into a quoted PCR, else asserted; a parent may be an execution of another domain, of which
// this log knows the name alone: see [Lineage.Continue].
package lineage

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// ErrUnknown: the log has no such execution.
var ErrUnknown = errors.New("no such execution in the log")

// Events of an execution.
const (
	Authorized = "authorized" // the decision that the first token rests on
	Admitted   = "admitted"   // the first token
	Renewed    = "renewed"    // each further one
	Terminated = "terminated"
)

// Event is one entry of the log about an execution.
type Event struct {
	Event string          `json:"event"`
	Index uint64          `json:"index"`
	At    int64           `json:"at"` // Unix seconds
	Actor string          `json:"actor"`
	Data  json.RawMessage `json:"data"` // of the entry, by its kind
}

// Execution is one run.
type Execution struct {
	ID       string   `json:"id"`
	Parent   string   `json:"parent,omitempty"`
	Children []string `json:"children"`
	Node     string   `json:"node"` // pseudonym in this domain's log
	Workload string   `json:"workload,omitempty"`
	Basis    string   `json:"workload_basis"` // "measured", "asserted" (the keeper's word alone), "none"
	Keeper   string   `json:"keeper,omitempty"`
	KBasis   string   `json:"keeper_basis"` // likewise
	Image    string   `json:"image,omitempty"`
	Argv     string   `json:"argv,omitempty"` // digest of the policy that allowed its command line, as its keeper says
	IBasis   string   `json:"image_basis"`    // "asserted" (the word of whoever started it) or "none": no kernel measures images
	Level    string   `json:"level"`
	Ended    bool     `json:"ended"`
	Events   []Event  `json:"events"`
	Domain   string   `json:"domain,omitempty"` // in whose log it is; empty: that of the lineage
}

// Lineage is an execution with those that led to it, nearest first.
type Lineage struct {
	V         int         `json:"v"`
	Domain    string      `json:"domain"`
	Execution Execution   `json:"execution"`
	Parents   []Execution `json:"parents"`

	Unresolved string `json:"unresolved,omitempty"` // a parent that no log which counts has
}

// Log collects what a log says of executions. Add its leaves in order.
type Log struct {
	decisions  map[uint64]Event
	executions map[string]*Execution
}

// Add takes the next leaf.
func (l *Log) Add(index uint64, leaf ledger.Leaf) error {
	if l.executions == nil {
		l.decisions, l.executions = map[uint64]Event{}, map[string]*Execution{}
	}
	e := Event{Index: index, At: leaf.At, Actor: leaf.Actor, Data: leaf.Data}
	var err error
	switch leaf.Kind {
	case bundle.Issued, bundle.Renewed:
		var d bundle.Decision
		if err = json.Unmarshal(leaf.Data, &d); err == nil {
			l.decisions[index] = e
			if d.Token != nil && d.Token.Exec != "" {
				l.admit(leaf.Subject, d.Token, index, e)
			}
		}
	case bundle.Admitted:
		var t bundle.Token
		if err = json.Unmarshal(leaf.Data, &t); err == nil && t.Exec != "" {
			l.admit(leaf.Subject, &t, t.Base, e)
		}
	case bundle.Terminated:
		var s bundle.Stop
		if err = json.Unmarshal(leaf.Data, &s); err == nil {
			l.end(leaf.Subject, &s, e)
		}
	}
	if err != nil {
		return fmt.Errorf("reading entry %d, %s: %w", index, leaf.Kind, err)
	}
	return nil
}

// admit adds a token for an execution. base is the decision it rests on.
func (l *Log) admit(node string, t *bundle.Token, base uint64, e Event) {
	x := l.executions[t.Exec]
	if x == nil {
		x = &Execution{ID: t.Exec, Parent: t.Parent, Children: []string{}, Node: node, Workload: t.Workload, Basis: none, Keeper: t.Keeper, KBasis: none, Image: t.Image, Argv: t.Argv, IBasis: none, Level: t.Level}
		if t.Image != "" {
			x.IBasis = appraisal.BasisAsserted
		}
		l.executions[t.Exec] = x
		if d, ok := l.decisions[base]; ok {
			d.Event = Authorized
			x.Events = append(x.Events, d)
		}
		e.Event = Admitted
		if p := l.executions[t.Parent]; p != nil {
			p.Children = append(p.Children, t.Exec)
		}
	} else {
		e.Event = Renewed
	}
	if x.Node == node { // the name of another node's run is not taken over
		x.Basis, x.KBasis = better(x.Basis, x.Workload, t.Workload, t.WorkloadBasis), better(x.KBasis, x.Keeper, t.Keeper, t.KeeperBasis)
		x.Events = append(x.Events, e)
	}
}

// none: there is no digest to stand on anything.
const none = "none"

// better is the basis of a run's digest after a further token of it: the kernel
// may measure the file only after the first token, so one that finds it measured
// is enough, if it is for the same digest.
func better(have, digest, now, basis string) string {
	switch {
	case digest == "" || digest != now || have == appraisal.BasisMeasured:
		return have
	case basis == appraisal.BasisMeasured:
		return basis
	}
	return appraisal.BasisAsserted
}

func (l *Log) end(node string, s *bundle.Stop, e Event) {
	if x := l.executions[s.Exec]; x != nil && x.Node == node {
		e.Event = Terminated
		x.Ended = true
		x.Events = append(x.Events, e)
	}
}

// Of returns the lineage of one execution.
func (l *Log) Of(domain, exec string) (*Lineage, error) {
	x := l.executions[exec]
	if x == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, exec)
	}
	out := &Lineage{V: 1, Domain: domain, Execution: *x, Parents: []Execution{}}
	out.climb("", l)
	return out, nil
}

// Continue looks for the parent that is unresolved in the logs of other domains, by
// their names, and goes on from there. It stays unresolved where more than one has an
// execution of that id: any of them could claim it.
func (l *Lineage) Continue(others map[string]*Log) {
	for more := true; more && l.Unresolved != ""; {
		var at []string
		for domain, log := range others {
			if log.executions[l.Unresolved] != nil {
				at = append(at, domain)
			}
		}
		if more = len(at) == 1; more {
			l.climb(at[0], others[at[0]])
		}
	}
}

// climb adds the parents that a log has, from the last one that is known. A circle
// ends it.
func (l *Lineage) climb(domain string, log *Log) {
	seen, next := []string{l.Execution.ID}, l.Execution.Parent
	for _, p := range l.Parents {
		seen, next = append(seen, p.ID), p.Parent
	}
	for l.Unresolved = next; next != ""; l.Unresolved = next {
		p := log.executions[next]
		if p == nil {
			return
		}
		if slices.Contains(seen, p.ID) {
			l.Unresolved = ""
			return
		}
		x := *p
		x.Domain = domain
		seen, next, l.Parents = append(seen, p.ID), p.Parent, append(l.Parents, x)
	}
}

// find returns the first event of a kind, and whether there is one.
func (x *Execution) find(event string) (Event, bool) {
	i := slices.IndexFunc(x.Events, func(e Event) bool { return e.Event == event })
	if i < 0 {
		return Event{}, false
	}
	return x.Events[i], true
}

func timestamp(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02T15:04:05.000Z") }
