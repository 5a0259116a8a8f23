package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Act is an entry of the log that is no decision on evidence.
type Act struct {
	Index          uint64
	At             int64
	Kind           string
	Subject, Actor string // pseudonyms
}

// Denial is the last denial of a node, and how many came before it that are still
// known.
type Denial struct {
	Index          uint64
	At             int64
	Subject, Class string
	Tier           string
	Times          int
	Findings       []appraisal.Finding // the first few; nil: of a later decision alone
}

// Minute counts what was decided in a minute.
type Minute struct {
	At                       int64 // its first second
	Granted, Denied, Revoked int
}

// batch is entries with what had to be read for them.
type batch struct {
	leaves []entry
	rows   map[string]*verifier.Node // by subject: those to take anew
	domain bool                      // what few rows hold has changed
}

type entry struct {
	index uint64
	ledger.Leaf
}

// read parses leaves and reads the rows of nodes about which they do not say
// everything.
func (f *Fleet) read(ctx context.Context, leaves map[uint64][]byte) (*batch, error) {
	b := &batch{rows: map[string]*verifier.Node{}}
	for _, index := range slices.Sorted(maps.Keys(leaves)) {
		leaf, err := ledger.ParseLeaf(leaves[index])
		if err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", index, err)
		}
		b.leaves = append(b.leaves, entry{index, leaf})
		kind, _, _ := strings.Cut(leaf.Kind, ".")
		switch leaf.Kind {
		case bundle.Decided, bundle.NodeStatus, bundle.NodeEnrolled, bundle.Revoked, bundle.Lapsed, bundle.Terminated:
			b.rows[leaf.Subject] = nil
		}
		b.domain = b.domain || kind == "reference" || kind == "verifier"
	}
	for subject := range b.rows {
		row, err := f.row(ctx, subject)
		if err != nil {
			return nil, err
		}
		b.rows[subject] = row
	}
	return b, nil
}

// row reads a node by its pseudonym; nil for one that is not known by it.
func (f *Fleet) row(ctx context.Context, subject string) (*verifier.Node, error) {
	f.mu.RLock()
	n := f.nodes[subject]
	f.mu.RUnlock()
	id := ""
	if n != nil {
		id = n.id
	} else {
		var ok bool
		var err error
		if id, ok, err = f.svc.NodeBySubject(ctx, subject); err != nil || !ok {
			return nil, err
		}
	}
	row, err := f.svc.Node(ctx, id)
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) {
		return nil, nil
	}
	return row, err
}

// apply takes a batch. The lock must be held.
func (f *Fleet) apply(b *batch) {
	for subject, row := range b.rows { // nodes that are new, before what is said of them
		if row != nil && f.nodes[subject] == nil {
			f.put(row, nil)
		}
	}
	for _, e := range b.leaves {
		f.at = e.At
		n := f.nodes[e.Subject]
		switch e.Kind {
		case bundle.Issued, bundle.Renewed, bundle.Decided:
			var d bundle.Decision
			if json.Unmarshal(e.Data, &d) == nil && n != nil {
				f.decided(n, e, &d)
			}
		case bundle.Admitted:
			var t bundle.Token
			if json.Unmarshal(e.Data, &t) == nil && n != nil {
				f.token(n, t.Expires)
			}
		case bundle.Exchanged:
			var x bundle.Exchange
			if json.Unmarshal(e.Data, &x) == nil && n != nil {
				f.token(n, x.Expires)
			}
		case bundle.Terminated:
		default:
			f.act(n, e)
		}
	}
	for _, row := range b.rows {
		if row == nil {
			continue
		}
		n := f.put(row, nil)
		for _, d := range f.denied {
			if d.Subject == n.subject && d.Index == n.decided {
				d.Findings = n.findings
			}
		}
	}
}

// decided takes a decision on a node.
func (f *Fleet) decided(n *node, e entry, d *bundle.Decision) {
	m := f.minute(e.At)
	n.state, n.seq, n.decision, n.tier, n.references = d.To, d.Seq, d.Decision, d.Tier, d.References
	n.decided, n.decidedAt = e.index, e.At
	if d.Token != nil {
		m.Granted++
		n.findings, n.deadline = nil, d.Token.Expires
		f.token(n, d.Token.Expires)
		return
	}
	m.Denied++
	f.end(n)
	times := 1
	f.denied = slices.DeleteFunc(f.denied, func(o *Denial) bool {
		if o.Subject == n.subject {
			times += o.Times
		}
		return o.Subject == n.subject
	})
	f.denied = append(f.denied, &Denial{Index: e.index, At: e.At, Subject: n.subject, Class: n.class, Tier: d.Tier, Times: times})
	f.denied = f.denied[max(0, len(f.denied)-mostDenied):]
}

// act takes an entry that is no decision.
func (f *Fleet) act(n *node, e entry) {
	f.acts = append(f.acts, Act{Index: e.index, At: e.At, Kind: e.Kind, Subject: e.Subject, Actor: e.Actor})
	f.acts = f.acts[max(0, len(f.acts)-mostActs):]
	switch e.Kind {
	case bundle.Revoked:
		f.minute(e.At).Revoked++
		if n != nil {
			f.end(n)
		}
	case bundle.Frozen, bundle.Unfrozen, bundle.KeyWithdrawn: // no token of before counts
		clear(f.alive)
		for _, n := range f.order {
			n.tokens = nil
		}
	case bundle.VerifierStarted:
		var s bundle.Started
		if json.Unmarshal(e.Data, &s) == nil {
			f.started(&s, e.index)
		}
	case bundle.VerifierJoined, bundle.VerifierRetired:
		var j bundle.Joined
		if json.Unmarshal(e.Data, &j) == nil {
			f.seen[j.LogKey] = e.index
		}
	}
}

// started notes what names a verifier's log key.
func (f *Fleet) started(s *bundle.Started, index uint64) {
	for purpose, id := range s.Keys {
		if purpose == "log" || strings.HasPrefix(purpose, "log/") {
			f.seen[id] = index
		}
	}
}

// minute is the count of the minute of a second.
func (f *Fleet) minute(at int64) *Minute {
	at -= at % 60
	if i := len(f.minutes) - 1; i < 0 || f.minutes[i].At < at {
		f.minutes = append(f.minutes, Minute{At: at})
		f.minutes = f.minutes[max(0, len(f.minutes)-mostMinute):]
	}
	return &f.minutes[len(f.minutes)-1]
}
