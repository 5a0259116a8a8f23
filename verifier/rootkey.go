package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// The root key, where there is one, signs nothing but certificates of token keys. They
// are made before the head lock is taken, for a TPM is slow.

// made is a token key with what introduces it.
type made struct {
	kid         string
	jwk         json.RawMessage
	certificate string // by root, until; empty: there is none
	root        string
	until       int64
}

// makeKey makes a token key, without a certificate.
func (s *Service) makeKey() (*made, error) {
	kid, public, err := s.cfg.TokenKeys.Make()
	if err != nil {
		return nil, err
	}
	jwk, err := token.MarshalJWK(public)
	if err != nil {
		return nil, errors.Join(err, s.cfg.TokenKeys.Drop(kid))
	}
	return &made{kid: kid, jwk: jwk}, nil
}

// certify has the root certify a key for as long as it is published, signs and its
// tokens live, and an overlap more, in which its successor may be late.
func (s *Service) certify(m *made) (err error) {
	if s.cfg.Root == nil {
		return nil
	}
	m.root = s.cfg.KeyIDs[rootPurpose]
	m.until = s.cfg.Now().Add(2*s.cfg.KeyOverlap + s.cfg.TokenKeyLife + token.MaxLife).Unix()
	m.certificate, err = rotation.Certify(s.cfg.Root, s.cfg.Rand, s.cfg.Domain, m.kid, m.until)
	return err
}

// certifyKeys has the root certify the keys that sign or will and that it has not
// certified: those of before it was the root, and one whose successor is late.
func (s *Service) certifyKeys(ctx context.Context) error {
	if s.cfg.Root == nil {
		return nil
	}
	p, now := s.published.Load(), s.cfg.Now()
	done := false
	for _, k := range p.rows.Keys {
		state := k.state(p.signer, now)
		if state != "signing" && state != "next" || s.certifiedFor(&k, token.MaxLife) {
			continue
		}
		m := &made{kid: k.ID}
		if err := s.certify(m); err != nil {
			return err
		}
		err := s.keyAct(ctx, nil, false, func(slot ledger.Slot, ks *tokenKeys, _ *domainState) ([]ledger.Entry, []ledger.Put, error) {
			k := ks.find(m.kid)
			if k == nil || k.Withdrawn != 0 {
				return nil, nil, nil
			}
			return []ledger.Entry{s.present(k, m, "verifier/"+s.cfg.Name, slot.Index)}, nil, nil
		})
		if err != nil {
			return err
		}
		done = true
	}
	if !done {
		return nil
	}
	return s.refreshKeys(ctx)
}

// certifiedFor reports whether the root's certificate of a key lasts for more than a
// time from now.
func (s *Service) certifiedFor(k *tokenKey, more time.Duration) bool {
	return k.Root == s.cfg.KeyIDs[rootPurpose] && s.cfg.Now().Add(more).Unix() < k.Ended
}

// certificateHolds refuses to sign with a key whose certificate has ended: who pins the
// root would not take it, and others should not. What was just introduced is not
// published yet.
func (s *Service) certificateHolds(kid string) error {
	p := s.published.Load()
	if s.cfg.Root == nil || p == nil {
		return nil
	}
	if k := p.rows.find(kid); k != nil && k.Root != "" && !s.certifiedFor(k, 0) {
		return fmt.Errorf("the root key's certificate of token key %s has ended: does the verifier's TPM answer?", kid)
	}
	return nil
}
