package verifier

import (
	"context"
	"crypto"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// published is what others are told of the token keys. It is not changed.
type published struct {
	rows   tokenKeys
	signer string
	keys   token.Keys // those that count, the one that signs first
	ends   int64      // Unix second at which keys has one too many
	proven []rotation.Entry
}

// publish computes what counts at a time.
func (p *published) at(now time.Time) (*published, error) {
	out := &published{rows: p.rows, signer: p.signer, proven: p.proven, ends: math.MaxInt64}
	var public []crypto.PublicKey
	for _, k := range p.rows.Keys {
		state := k.state(p.signer, now)
		if state == "withdrawn" || state == "retired" {
			continue
		}
		if state == "retiring" {
			out.ends = min(out.ends, k.Until)
		}
		key, err := token.ParseJWK(k.JWK)
		if err != nil {
			return nil, fmt.Errorf("reading token key %s: %w", k.ID, err)
		}
		if public = append(public, key); state == "signing" {
			public[0], public[len(public)-1] = public[len(public)-1], public[0]
		}
	}
	var err error
	out.keys, err = token.NewKeys(public...)
	return out, err
}

// TokenKeys returns the keys that tokens of this domain are checked with: the one
// that signs first, then the next one and those whose tokens may still live.
func (s *Service) TokenKeys() token.Keys {
	p := s.published.Load()
	if now := s.cfg.Now(); now.Unix() >= p.ends {
		next, err := p.at(now)
		if err != nil {
			return token.Keys{} // they were read once; none counts
		}
		s.published.CompareAndSwap(p, next)
		return next.keys
	}
	return p.keys
}

// refreshKeys follows the stored token keys, and tells whoever listens what is new.
func (s *Service) refreshKeys(ctx context.Context) error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	rows, _, err := row[tokenKeys](ctx, s, tokenKeysKey)
	if err != nil {
		return err
	}
	d, err := s.domainState(ctx)
	if err != nil {
		return err
	}
	old := s.published.Load()
	if old != nil && old.signer == d.Signer && slices.EqualFunc(old.rows.Keys, rows.Keys, tokenKey.equal) {
		return nil
	}
	p := &published{rows: rows, signer: d.Signer}
	if p.proven, err = s.proven(ctx, rows); err != nil {
		return err
	}
	if p, err = p.at(s.cfg.Now()); err != nil {
		return err
	}
	s.published.Store(p)
	if old == nil {
		return nil
	}
	return s.announce(ctx, old, p)
}

func (k tokenKey) equal(o tokenKey) bool {
	return k.ID == o.ID && k.From == o.From && k.Until == o.Until && k.Withdrawn == o.Withdrawn && k.Introduced == o.Introduced
}

// announce tells nodes and gates what the log proves since, and gates that tokens of
// an earlier epoch are over where a key was withdrawn. A node hears no event: its
// keepers learn that the key is gone and get a token by another, or end.
func (s *Service) announce(ctx context.Context, old, now *published) error {
	var news []rotation.Entry
	for _, e := range now.proven {
		if !slices.ContainsFunc(old.proven, func(o rotation.Entry) bool { return string(o.Leaf) == string(e.Leaf) }) {
			news = append(news, e)
		}
	}
	if len(news) > 0 {
		s.hub.all(Message{Kind: "keys", Data: string(encode(news))})
	}
	gone := func(p *published) (n int) {
		for _, k := range p.rows.Keys {
			if k.Withdrawn != 0 {
				n++
			}
		}
		return n
	}
	if gone(now) == gone(old) {
		return nil
	}
	event, err := s.domainEvent(ctx, "key-withdrawn", "a token key was withdrawn")
	if err == nil {
		s.hub.publish(0, "", event, s.cfg.Now())
	}
	return err
}

// proven are the entries by which others come to know what token keys count, each
// with its proof. A key that has retired is only said to have.
func (s *Service) proven(ctx context.Context, ks tokenKeys) ([]rotation.Entry, error) {
	var out []rotation.Entry
	for _, k := range ks.Keys {
		indices := []uint64{k.Introduced, k.Retired}
		switch {
		case k.Withdrawn != 0:
			indices = []uint64{k.Withdrawn}
		case k.Retired != 0 && s.cfg.Now().Unix() >= k.Until:
			indices = []uint64{k.Retired}
		case s.cfg.Root != nil && k.Root != s.cfg.KeyIDs[rootPurpose]: // who pins the root would take nothing that comes with it
			indices = []uint64{k.Retired}
		}
		for _, index := range indices {
			if index == 0 {
				continue
			}
			leaf, err := s.log.Entry(ctx, index)
			if err != nil {
				return nil, fmt.Errorf("reading what the log says of token key %s: %w", k.ID, err)
			}
			proof, err := s.log.Prove(ctx, index)
			if err != nil {
				return nil, fmt.Errorf("proving what the log says of token key %s: %w", k.ID, err)
			}
			out = append(out, rotation.Entry{Leaf: leaf, Proof: proof})
		}
	}
	return out, nil
}

// PublicKeys lists the domain's token keys and what proves them.
func (s *Service) PublicKeys() *protocol.TokenKeys {
	p := s.published.Load()
	out := &protocol.TokenKeys{Keys: []protocol.TokenKey{}, Proven: p.proven}
	for _, k := range p.rows.Keys {
		out.Keys = append(out.Keys, protocol.TokenKey{KID: k.ID, State: k.state(p.signer, s.cfg.Now()), From: k.From, Until: k.Until})
	}
	return out
}

// SPIFFEBundle is the bundle of the trust domain, on every verifier the same.
func (s *Service) SPIFFEBundle(hint int) []byte {
	s.TokenKeys() // publishes what counts now
	p := s.published.Load()
	var authorities []token.Authority
	if s.cfg.SVIDs != nil {
		der, key := s.cfg.SVIDs.Root()
		authorities = append(authorities, token.Authority{Key: key, Certificate: der})
	}
	return p.keys.MarshalBundle(p.sequence(s.cfg.Now()), hint, authorities...)
}

// sequence counts the keys that came and those that went. It only grows.
func (p *published) sequence(now time.Time) (n uint64) {
	for _, k := range p.rows.Keys {
		switch n++; k.state(p.signer, now) {
		case "retired":
			n++
		case "withdrawn":
			n += 2 // one more than retired, which it may have been before
		}
	}
	return n
}
