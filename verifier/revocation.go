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
	id, ok := s.nodeOf(c.Subject)
	if !ok {
		return "", false, protocol.Refuse(protocol.NotEnrolled, "%.100s is not a node of %s", c.Subject, s.cfg.Domain)
	}
	n, err := s.Node(ctx, id)
	if err != nil {
		return "", false, err
	}
	d, err := s.domainState(ctx)
	if err != nil {
		return "", false, err
	}
	cause := ""
	switch {
	case n.Status != Active:
		cause = n.Status
	case c.Writ.Seq <= n.Ended:
		cause = "ended"
	case d.Frozen || c.Writ.Epoch != d.Epoch:
		cause = "frozen"
	default:
		return "", false, nil
	}
	n.Ended = max(n.Ended, c.Writ.Seq)
	event, err = s.signEvent(ctx, n, cause, "the token was ended before it expired")
	return event, true, err
}
