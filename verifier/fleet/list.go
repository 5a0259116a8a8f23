package fleet

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
)

// States are the seven legitimacy states, in the order of a node's life.
var States = []string{verifier.Initialized, verifier.Verified, verifier.Synchronized, verifier.Elevated, verifier.Constrained, verifier.FailClosed, verifier.Terminated}

// By which set a node was judged.
const (
	JudgedCurrent = "current" // the one in force for its class
	JudgedEarlier = "earlier" // another
	JudgedNever   = "never"   // no decision yet, or none with a set
)

// Node is a node in a list. ID, Device and Findings are for operators.
type Node struct {
	Subject, Class, Status, State string
	Deadline                      int64
	Seq                           uint64
	Enrolled                      int64
	Entry                         uint64 // of the enrolment
	Decided                       uint64 // index of the last decision; 0: none
	DecidedAt                     int64
	Decision, Tier                string
	Judged                        string
	ID, Device                    string
	Findings                      []appraisal.Finding
}

// Query says which nodes are wanted. Empty members want any.
type Query struct {
	Text     string // part of the pseudonym or class, or a whole id
	Operator bool   // Text may be part of an id, a device or a finding's code, too
	State    string // effective
	Status   string
	Class    string
	Judged   string
	After    string // pseudonym of the last node of the page before
	Limit    int
}

// Page is a part of a list.
type Page struct {
	Nodes []Node
	Total int    // that fit the query
	Next  string // for Query.After; empty: this is the end
}

// List returns the nodes that fit a query, by pseudonym.
func (f *Fleet) List(q Query) Page {
	text := strings.ToLower(strings.TrimSpace(q.Text))
	whole := ""
	if b, err := hex.DecodeString(text); err == nil && len(b) == 16 {
		whole = f.svc.Subject(text)
	}
	now := f.now()
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out Page
	for _, n := range f.order {
		if !q.fits(n, text, whole) || q.State != "" && n.effective(now) != q.State || q.Judged != "" && f.judged(n) != q.Judged {
			continue
		}
		out.Total++
		if n.subject <= q.After {
			continue
		}
		if len(out.Nodes) < q.Limit {
			out.Nodes = append(out.Nodes, f.shown(n, now))
		} else if out.Next == "" && q.Limit > 0 {
			out.Next = out.Nodes[q.Limit-1].Subject
		}
	}
	return out
}

// fits looks at what needs no clock.
func (q *Query) fits(n *node, text, whole string) bool {
	if q.Status != "" && n.status != q.Status || q.Class != "" && n.class != q.Class {
		return false
	}
	if text == "" || strings.Contains(n.subject, text) || strings.Contains(n.class, text) || n.subject == whole {
		return true
	}
	return q.Operator && (strings.Contains(n.id, text) || strings.Contains(strings.ToLower(n.device), text) ||
		slices.ContainsFunc(n.findings, func(x appraisal.Finding) bool { return strings.Contains(x.Code, text) }))
}

func (n *node) effective(now time.Time) string {
	return verifier.Effective(n.status, n.state, n.deadline, now)
}

func (f *Fleet) judged(n *node) string {
	switch ref, ok := f.refs[n.class]; {
	case n.decided == 0, n.references == "":
		return JudgedNever
	case ok && n.references == ref.Whole:
		return JudgedCurrent
	}
	return JudgedEarlier
}

func (f *Fleet) shown(n *node, now time.Time) Node {
	return Node{Subject: n.subject, Class: n.class, Status: n.status, State: n.effective(now), Deadline: n.deadline, Seq: n.seq, Enrolled: n.enrolled, Entry: n.entry,
		Decided: n.decided, DecidedAt: n.decidedAt, Decision: n.decision, Tier: n.tier, Judged: f.judged(n), ID: n.id, Device: n.device, Findings: n.findings}
}

// Node returns a node by its pseudonym.
func (f *Fleet) Node(subject string) (Node, bool) {
	now := f.now()
	f.mu.RLock()
	defer f.mu.RUnlock()
	n := f.nodes[subject]
	if n == nil {
		return Node{}, false
	}
	return f.shown(n, now), true
}

// Reference returns the set in force for a class.
func (f *Fleet) Reference(class string) (verifier.Reference, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	r, ok := f.refs[class]
	return r, ok
}
