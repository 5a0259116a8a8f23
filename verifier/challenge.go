package verifier

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"github.com/writ-attestation/writ/verifier/protocol"
	"io"
	"time"
)

// A nonce is issued at (8 bytes, Unix seconds) || random (8) || MAC (16): the
// verifier keeps nothing of a challenge until it is used. The MAC covers the
// node's decision counter, and the commit that uses a challenge raises it, so
// that each is good once and one handed out before a verdict is void after it
// (security rule 10).
const nonceSize = 32

func (s *Service) challenge(n *Node, now time.Time) (protocol.Challenge, error) {
	nonce := binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))
	nonce = append(nonce, make([]byte, 8)...)
	if _, err := io.ReadFull(s.cfg.Rand, nonce[8:]); err != nil {
		return protocol.Challenge{}, fmt.Errorf("drawing a nonce: %w", err)
	}
	nonce = append(nonce, s.challengeMAC(n, nonce)...)
	return protocol.Challenge{Nonce: nonce, Expires: now.Truncate(time.Second).Add(s.cfg.TokenLife).UTC()}, nil
}

func (s *Service) challengeMAC(n *Node, head []byte) []byte {
	m := hmac.New(sha256.New, s.cfg.ChallengeKey)
	fmt.Fprintf(m, "writ-challenge-v1\x00%s\x00%s\x00%d\x00", s.cfg.Domain, n.ID, n.Counter)
	m.Write(head)
	return m.Sum(nil)[:16]
}

// checkChallenge returns the second a nonce was issued to this node for its
// next decision.
func (s *Service) checkChallenge(n *Node, nonce []byte, now time.Time) (int64, error) {
	if len(nonce) != nonceSize || !hmac.Equal(s.challengeMAC(n, nonce[:16]), nonce[16:]) {
		return 0, protocol.Refuse(protocol.NonceExpired, "this nonce is not one for the node's next attestation; ask for a new challenge")
	}
	issued := int64(binary.BigEndian.Uint64(nonce))
	if age := now.Unix() - issued; age < -2 || age > int64(s.cfg.TokenLife/time.Second) {
		return 0, protocol.Refuse(protocol.NonceExpired, "the challenge is %d seconds old, at most %s are allowed; ask for a new one", age, s.cfg.TokenLife)
	}
	return issued, nil
}

// Challenge issues a nonce to an enrolled node. known is the last checkpoint
// the node holds, empty when it has none.
func (s *Service) Challenge(ctx context.Context, node, known string) (protocol.Challenge, error) {
	if err := s.ClockSound(); err != nil {
		return protocol.Challenge{}, err
	}
	n, err := s.Node(ctx, node)
	if err != nil {
		return protocol.Challenge{}, err
	}
	if known != "" {
		if err := s.pin(ctx, known); err != nil {
			return protocol.Challenge{}, err
		}
	}
	return s.challenge(n, s.cfg.Now())
}
