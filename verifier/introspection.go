package verifier

import (
	"context"
	"errors"

	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// Live returns the claims of a token of this domain that counts now, for whichever
// audience it is; nil for anything else, whatever is wrong with it. An error says
// that this verifier cannot know.
func (s *Service) Live(ctx context.Context, tok string) (*token.Claims, error) {
	if err := s.sound(); err != nil {
		return nil, err
	}
	c := s.open(tok)
	if c == nil {
		return nil, nil
	}
	n, cause, err := s.standing(ctx, c)
	if refusal := (*protocol.Refusal)(nil); errors.As(err, &refusal) {
		return nil, nil // of no node of this domain
	}
	if err != nil || cause != "" || !n.Legitimate(s.cfg.Now()) {
		return nil, err
	}
	return c, nil
}

// sound reports why this verifier cannot say what counts now: it does not know the
// time, or its history is not the whole one.
func (s *Service) sound() error { return errors.Join(s.ClockSound(), s.log.Frozen()) }

// open returns the claims of a token that this domain signed for an audience it
// serves and that has not expired, or nil.
func (s *Service) open(tok string) *token.Claims {
	want := token.Expect{Issuer: s.cfg.Issuer, Domain: s.cfg.Domain}
	for _, want.Audience = range append([]string{s.EnclaveAudience()}, s.cfg.Audiences...) {
		c, err := token.Verify(tok, s.TokenKeys(), want, s.cfg.Now())
		if err == nil {
			return c
		}
		if token.Code(err) != token.WrongAudience {
			return nil
		}
	}
	return nil
}
