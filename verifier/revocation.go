package verifier

import (
	"context"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// Ended looks whether a token that has not expired was ended before its time:
// by a denial, by an operator's act on its node, by its holder, or by a freeze of the
// domain.
// If so, event is the signed word of it; a node that was not listening when it
// was first said hears it when it comes back.
func (s *Service) Ended(ctx context.Context, c *token.Claims) (event string, ended bool, err error) {
	n, cause, err := s.standing(ctx, c)
	if err != nil || cause == "" {
		return "", false, err
	}
	n.Ended = max(n.Ended, c.Writ.Seq)
	event, err = s.signEvent(ctx, n, cause, "the token was ended before it expired")
	return event, true, err
}

// standing is the node of a token, and what ended the token before its time: ""
// if nothing did.
func (s *Service) standing(ctx context.Context, c *token.Claims) (n *Node, cause string, err error) {
	id, ok := s.nodeOf(c.Subject)
	if !ok {
		return nil, "", protocol.Refuse(protocol.NotEnrolled, "%.100s is not a node of %s", c.Subject, s.cfg.Domain)
	}
	if n, err = s.Node(ctx, id); err != nil {
		return nil, "", err
	}
	d, err := s.domainState(ctx)
	switch {
	case err != nil:
		return nil, "", err
	case n.Status != Active:
		return n, n.Status, nil
	case c.Writ.Seq <= n.Ended:
		return n, "ended", nil
	case n.Boot != nil && c.BootCount != n.Boot.ResetCount:
		return n, "rebooted", nil
	case d.Frozen || c.Writ.Epoch != d.Epoch:
		return n, "frozen", nil
	}
	return n, "", nil
}

// Revoke is an operator's act that ends a token, and GiveUp that of its holder, who
// has proved to be one with the token by. With the token end all others of its node:
// they rest on the same evidence, and are ended by their sequence. The node may
// attest anew. A token that this domain did not issue, or that is over, changes
// nothing.
func (s *Service) Revoke(ctx context.Context, actor, tok string) error {
	return s.revoke(ctx, actor, tok, "an operator ended a token of the node", func(*token.Claims) bool { return true })
}

// GiveUp: see [Service.Revoke].
func (s *Service) GiveUp(ctx context.Context, by *token.Claims, tok string) error {
	node, _ := s.nodeOf(by.Subject)
	return s.revoke(ctx, "node/"+node, tok, "the node ended a token of its own", func(c *token.Claims) bool {
		return c.Subject == by.Subject && c.Confirm == by.Confirm
	})
}

func (s *Service) revoke(ctx context.Context, actor, tok, reason string, may func(*token.Claims) bool) error {
	if err := s.ClockSound(); err != nil {
		return err // it may only seem to have expired
	}
	c := s.open(tok)
	if c == nil {
		return nil
	}
	if !may(c) {
		return protocol.Refuse(protocol.RequestRefused, "the token is another's")
	}
	ctx = context.WithoutCancel(ctx) // who hangs up has still revoked
	commitment, opening, err := s.salted(reason)
	if err != nil {
		return err
	}
	id, _ := s.nodeOf(c.Subject) // Verify has looked
	var n Node
	ended := false
	receipts, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{nodeKey(id)}, Urgent: true, Build: func(slot ledger.Slot) (change ledger.Change, err error) {
		var ok bool
		if n, ok, err = slotRow[Node](slot, nodeKey(id)); err != nil {
			return ledger.Change{}, err
		}
		if ended = ok && c.Writ.Seq > n.Ended; !ended {
			return ledger.Change{}, nil
		}
		if change, err = s.end(&n, actor, bundle.Status{From: n.Status, Reason: commitment}); err == nil {
			change.Puts = append(change.Puts, ledger.Put{Key: ledger.Key{Kind: kindOpening, ID: commitment}, Value: opening})
		}
		return change, err
	}})
	if err != nil || !ended {
		return err
	}
	event, err := s.signEvent(ctx, &n, "ended", reason)
	if err != nil {
		return err
	}
	s.hub.publish(receipts[0].Index, id, event, s.cfg.Now())
	return nil
}

// end ends every token the node has, and returns what says so.
func (s *Service) end(n *Node, actor string, data bundle.Status) (ledger.Change, error) {
	run := n.Run
	n.Ended, n.Run = n.Seq, 0
	n.Counter++ // challenges handed out before the act are void
	if err := n.move(FailClosed); err != nil {
		return ledger.Change{}, err
	}
	data.To, data.State, data.Seq = n.Status, n.State, n.Ended
	return ledger.Change{Entries: []ledger.Entry{s.entry(bundle.Revoked, n.ID, actor, data)}, Puts: n.puts(run)}, nil
}
