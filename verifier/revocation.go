package verifier

import (
	"context"

	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// Ended looks whether a token that has not expired was ended before its time:
// by a denial, by an operator's act on its node, or by a freeze of the domain.
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
	case d.Frozen || c.Writ.Epoch != d.Epoch:
		return n, "frozen", nil
	}
	return n, "", nil
}
