package verifier

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// revokedOperator is that an operator's certificates of up to a time count no more.
type revokedOperator struct {
	At    int64  `json:"at"`    // Unix seconds
	Entry uint64 `json:"entry"` // that says so
}

func operatorKey(name string) ledger.Key { return ledger.Key{Kind: kindOperator, ID: name} }

// operatorPrefix is before a name where the history means an operator.
const operatorPrefix = "operator/"

// RevokeOperator is one operator's agreement to end what certificates a name was given
// so far. It takes as many as any act that opens does, since it takes the domain out of
// somebody's hands; whose own they are ends them alone. What the revoked one has agreed
// to and is not in force counts no more.
func (s *Service) RevokeOperator(ctx context.Context, actor, name, reason string) (*protocol.OperatorChange, error) {
	ctx = context.WithoutCancel(ctx) // an operator who hangs up has still revoked
	if !keys.ValidOperator(name) {
		return nil, protocol.Refuse(protocol.IllegalAct, "%.80q is no name of an operator", name)
	}
	commitment, opening, err := s.salted(reason)
	if err != nil {
		return nil, err
	}
	whose := operatorPrefix + name
	act := ledger.Key{Kind: kindPending, ID: operatorPrefix + bundle.Subject(s.cfg.Domain, whose)} // names stay off the log
	waiting, err := s.waiting(ctx, act)
	if err != nil {
		return nil, err
	}
	out := &protocol.OperatorChange{Operator: name, Needed: s.cfg.Approvals}
	_, err = s.log.Append(ctx, ledger.Draft{Keys: append(waiting, act), Urgent: true, Build: func(slot ledger.Slot) (ledger.Change, error) {
		approval, count, done, err := s.approve(slot, act, actor)
		if err != nil {
			return ledger.Change{}, err
		}
		if actor == whose {
			approval, done = ledger.Put{Key: act}, true
		}
		out.Approvals, out.Revoked = count, done
		if !done {
			return ledger.Change{Puts: []ledger.Put{approval}, Entries: []ledger.Entry{s.approved(actor, act.ID, count)}}, nil
		}
		puts, err := withdraw(slot, waiting, whose)
		if err != nil {
			return ledger.Change{}, err
		}
		puts = append(puts, approval, put(kindOperator, name, revokedOperator{At: slot.At.Unix(), Entry: slot.Index}),
			ledger.Put{Key: ledger.Key{Kind: kindOpening, ID: commitment}, Value: opening})
		return ledger.Change{Puts: puts, Entries: []ledger.Entry{s.entry(bundle.OperatorRevoked, whose, actor, bundle.OperatorEnd{Approvals: count, Reason: commitment})}}, nil
	}})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// waiting are the acts that operators have agreed to and that wait for more, but for
// one.
func (s *Service) waiting(ctx context.Context, but ledger.Key) ([]ledger.Key, error) {
	rows, err := s.log.List(ctx, kindPending, "", 10000)
	if err != nil {
		return nil, err
	}
	var out []ledger.Key
	for _, r := range rows {
		if r.Key != but {
			out = append(out, r.Key)
		}
	}
	return out, nil
}

// withdraw takes an operator's agreement back from acts that wait for more.
func withdraw(slot ledger.Slot, acts []ledger.Key, actor string) (puts []ledger.Put, err error) {
	for _, act := range acts {
		a, _, err := slotRow[approvals](slot, act)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(a.By, actor) {
			continue
		}
		if a.By = slices.DeleteFunc(slices.Clone(a.By), func(by string) bool { return by == actor }); len(a.By) == 0 {
			puts = append(puts, ledger.Put{Key: act})
			continue
		}
		puts = append(puts, put(act.Kind, act.ID, a))
	}
	return puts, nil
}

// OperatorRevoked reports whether an operator's certificate that is good from a time
// on was revoked. It looks into the store each time: another verifier may have done it.
func (s *Service) OperatorRevoked(ctx context.Context, name string, from time.Time) (bool, error) {
	r, ok, err := row[revokedOperator](ctx, s, operatorKey(name))
	if err != nil {
		return true, fmt.Errorf("looking whether operator %s is revoked: %w", name, err)
	}
	return ok && from.Unix() <= r.At, nil
}

// RevokedOperators lists the operators whose certificates were revoked, by name.
func (s *Service) RevokedOperators(ctx context.Context) ([]protocol.RevokedOperator, error) {
	rows, err := s.log.List(ctx, kindOperator, "", 10000)
	if err != nil {
		return nil, err
	}
	out := []protocol.RevokedOperator{}
	for _, r := range rows {
		var o revokedOperator
		if err := decode(r.Value, &o); err != nil {
			return nil, fmt.Errorf("reading operator %s: %w", r.Key.ID, err)
		}
		out = append(out, protocol.RevokedOperator{Operator: r.Key.ID, At: o.At, Entry: o.Entry})
	}
	return out, nil
}

// RevokedAt is when an operator's certificates were revoked last, as a store says that
// no verifier need have open; false if never.
func RevokedAt(ctx context.Context, r ledger.Reader, name string) (at time.Time, ok bool, err error) {
	rows, err := r.Rows(ctx, []ledger.Key{operatorKey(name)})
	if err != nil || len(rows) == 0 {
		return at, false, err
	}
	var o revokedOperator
	if err := decode(rows[0].Value, &o); err != nil {
		return at, false, fmt.Errorf("reading operator %s: %w", name, err)
	}
	return time.Unix(o.At, 0), true, nil
}

// takeOperator is take for the end of an operator's certificates.
func (c *stateCheck) takeOperator(index uint64, leaf ledger.Leaf) error {
	rec, err := dataOf[bundle.OperatorEnd](leaf)
	if err != nil {
		return err
	}
	c.openings[rec.Reason] = index
	c.operators[leaf.Subject] = say(leaf.At, index)
	delete(c.pending, operatorPrefix+leaf.Subject)
	for act, by := range c.pending {
		c.pending[act] = slices.DeleteFunc(by, func(subject string) bool { return subject == leaf.Subject })
	}
	return nil
}

// compareOperators: a revocation taken back by hand would let a thief in again.
func (c *stateCheck) compareOperators(ctx context.Context) error {
	seen := map[string]bool{}
	if err := c.each(ctx, kindOperator, func(name string, value []byte) error {
		var row revokedOperator
		if err := decode(value, &row); err != nil {
			return err
		}
		subject := c.subject(operatorPrefix + name)
		seen[subject] = true
		was := c.operators[subject]
		switch {
		case !was.known && row.Entry < c.bare:
		case !was.known:
			c.problem("operator "+name, "no entry revokes its certificates")
		case row.At != was.value || row.Entry != was.entry:
			c.problem("operator "+name, "its row says that those of up to %d were revoked by entry %d; entry %d says those of up to %d", row.At, row.Entry, was.entry, was.value)
		}
		return nil
	}); err != nil {
		return err
	}
	for subject, was := range c.operators {
		if !seen[subject] {
			c.problem("operator with pseudonym "+subject, "entry %d revokes its certificates, and it has no row that can be read", was.entry)
		}
	}
	return nil
}
