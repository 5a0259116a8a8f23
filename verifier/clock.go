package verifier

import (
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// ClockSound refuses while the wall clock cannot be trusted: it was stepped
// against the time since boot, or is behind the log. A clock set back would
// revive what has lapsed (security rule 19). Restarting the verifier confirms
// the time; the log still refuses one that is behind it.
func (s *Service) ClockSound() error {
	if err := s.clock.Check(s.cfg.Now(), s.cfg.SinceBoot()); err != nil {
		return protocol.Refuse(protocol.ClockUnsound, "%v; put the clock right and restart the verifier", err)
	}
	return nil
}

// ClockStep is by how much the wall clock was stepped since the verifier started.
func (s *Service) ClockStep() time.Duration { return s.clock.Step(s.cfg.Now(), s.cfg.SinceBoot()) }

// State is a node's state as it counts now. While the clock cannot be trusted no
// deadline can be said not to have passed, so nothing is legitimate.
func (s *Service) State(n *Node) string {
	now := s.cfg.Now()
	if n.Legitimate(now) && s.ClockSound() != nil {
		return FailClosed
	}
	return n.Effective(now)
}
