package verifier

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// KeyOverlap is how long a token key is published before it signs: whoever fetched
// the key set just before has fetched it again by then (its answers may be kept for
// 300 s), and no token of the time before still lives.
const KeyOverlap = token.MaxLife + 300*time.Second

// tokenKeys are all token keys the domain ever had, in the order they came. Which of
// them signs is in domainState, which every issuing draft reads under the lock.
type tokenKeys struct {
	Keys []tokenKey `json:"keys"`
}

// tokenKey is one of them. Its indices are those of its log entries, 0 for none.
type tokenKey struct {
	ID         string          `json:"id"`
	JWK        json.RawMessage `json:"jwk"`
	From       int64           `json:"from"`            // since when it signs, or may
	Until      int64           `json:"until,omitempty"` // when its last token has expired; 0: it signs, or will
	Introduced uint64          `json:"introduced,omitempty"`
	Retired    uint64          `json:"retired,omitempty"`
	Withdrawn  uint64          `json:"withdrawn,omitempty"`

	Root  string `json:"root,omitempty"`  // that certified it
	Ended int64  `json:"ended,omitempty"` // when that certificate ends
}

var tokenKeysKey = ledger.Key{Kind: kindDomain, ID: "token-keys"}

func (ks *tokenKeys) find(kid string) *tokenKey {
	i := slices.IndexFunc(ks.Keys, func(k tokenKey) bool { return k.ID == kid })
	if i < 0 {
		return nil
	}
	return &ks.Keys[i]
}

// next is the key that was introduced to follow signer, nil for none.
func (ks *tokenKeys) next(signer string) *tokenKey {
	i := slices.IndexFunc(ks.Keys, func(k tokenKey) bool { return k.state(signer, time.Time{}) == "next" })
	if i < 0 {
		return nil
	}
	return &ks.Keys[i]
}

// state is what a key is for at a time, in one word.
func (k *tokenKey) state(signer string, at time.Time) string {
	switch {
	case k.Withdrawn != 0:
		return "withdrawn"
	case k.ID == signer:
		return "signing"
	case k.Until == 0:
		return "next"
	case at.Unix() < k.Until:
		return "retiring"
	}
	return "retired"
}

// introduce adds a key and returns the entry that says so, of the given index.
func (s *Service) introduce(ks *tokenKeys, m *made, from int64, actor string, index uint64) ledger.Entry {
	ks.Keys = append(ks.Keys, tokenKey{ID: m.kid, JWK: m.jwk, From: from})
	return s.present(&ks.Keys[len(ks.Keys)-1], m, actor, index)
}

// present returns the entry that tells of a key, with its certificate.
func (s *Service) present(k *tokenKey, m *made, actor string, index uint64) ledger.Entry {
	k.Introduced, k.Root, k.Ended = index, m.root, m.until
	return s.entry(bundle.KeyIntroduced, "key/"+k.ID, actor, rotation.Introduction{KID: k.ID, JWK: k.JWK, From: k.From, Certificate: m.certificate})
}

// turn makes another key sign from at on, and returns the entry that says so.
func (s *Service) turn(ks *tokenKeys, d *domainState, kid string, at time.Time, actor string, index uint64) ledger.Entry {
	data := rotation.Rotation{KID: kid, Old: d.Signer}
	if old := ks.find(d.Signer); old.Withdrawn == 0 {
		old.Until, old.Retired = at.Add(token.MaxLife).Unix(), index
		data.Until = old.Until
	}
	ks.find(kid).From, d.Signer = at.Unix(), kid
	return s.entry(bundle.KeyRotated, "key/"+kid, actor, data)
}

// keyAct changes the token keys under the lock; add completes its entries.
func (s *Service) keyAct(ctx context.Context, more []ledger.Key, urgent bool, act func(slot ledger.Slot, ks *tokenKeys, d *domainState) ([]ledger.Entry, []ledger.Put, error)) error {
	_, err := s.log.Append(ctx, ledger.Draft{Keys: append([]ledger.Key{tokenKeysKey, stateKey}, more...), Urgent: urgent, Build: func(slot ledger.Slot) (ledger.Change, error) {
		ks, _, err := slotRow[tokenKeys](slot, tokenKeysKey)
		if err != nil {
			return ledger.Change{}, err
		}
		d, _, err := slotRow[domainState](slot, stateKey)
		if err != nil {
			return ledger.Change{}, err
		}
		entries, puts, err := act(slot, &ks, &d)
		if err != nil {
			return ledger.Change{}, err
		}
		return ledger.Change{Entries: entries, Puts: append(puts, put(kindDomain, "token-keys", ks), put(kindDomain, "state", d))}, nil
	}})
	return err
}

// RotateKey introduces a new token key once enough distinct operators agree. It
// signs after the overlap, as long as this verifier runs or another that has its file.
func (s *Service) RotateKey(ctx context.Context, actor string) (*protocol.KeyChange, error) {
	return s.rotate(context.WithoutCancel(ctx), actor, false)
}

func (s *Service) rotate(ctx context.Context, actor string, scheduled bool) (*protocol.KeyChange, error) {
	fresh, err := s.makeKey()
	if err == nil {
		if err = s.certify(fresh); err != nil {
			err = errors.Join(err, s.cfg.TokenKeys.Drop(fresh.kid))
		}
	}
	if err != nil {
		return nil, err
	}
	out := &protocol.KeyChange{Needed: s.cfg.Approvals}
	pending := ledger.Key{Kind: kindPending, ID: "rotate-key"}
	done := scheduled
	err = s.keyAct(ctx, []ledger.Key{pending}, false, func(slot ledger.Slot, ks *tokenKeys, d *domainState) (entries []ledger.Entry, puts []ledger.Put, err error) {
		if next := ks.next(d.Signer); next != nil {
			return nil, nil, protocol.Refuse(protocol.IllegalAct, "key %s is introduced already and signs from %s", next.ID, time.Unix(next.From, 0).UTC().Format(time.RFC3339))
		}
		if !scheduled {
			var approval ledger.Put
			if approval, out.Approvals, done, err = s.approve(slot, pending, actor); err != nil {
				return nil, nil, err
			}
			puts = append(puts, approval)
		}
		out.Epoch = d.Epoch
		if !done {
			return []ledger.Entry{s.approved(actor, pending.ID, out.Approvals)}, puts, nil
		}
		out.KID, out.From = fresh.kid, slot.At.Add(s.cfg.KeyOverlap).Unix()
		return []ledger.Entry{s.introduce(ks, fresh, out.From, actor, slot.Index)}, puts, nil
	})
	if (err != nil || !done) && !errors.Is(err, ledger.ErrUnknown) {
		err = errors.Join(err, s.cfg.TokenKeys.Drop(fresh.kid))
	}
	if err != nil {
		return nil, err
	}
	return out, s.refreshKeys(ctx)
}

// WithdrawKey ends a token key and all that it signed, at once and by one operator's
// word: it opens nothing. If it was the one that signs, the next one signs from now
// on, or one made for it, which relying parties see when they fetch the key set.
func (s *Service) WithdrawKey(ctx context.Context, actor, kid, reason string) (*protocol.KeyChange, error) {
	ctx = context.WithoutCancel(ctx)
	commitment, opening, err := s.salted(reason)
	if err != nil {
		return nil, err
	}
	fresh, err := s.makeKey()
	if err != nil {
		return nil, err
	}
	out := &protocol.KeyChange{Needed: 1, Approvals: 1}
	err = s.keyAct(ctx, nil, true, func(slot ledger.Slot, ks *tokenKeys, d *domainState) (entries []ledger.Entry, puts []ledger.Put, err error) {
		k := ks.find(kid)
		if k == nil || k.Withdrawn != 0 {
			return nil, nil, protocol.Refuse(protocol.IllegalAct, "%.64q is no token key of this domain, or was withdrawn before; `writ keys list` shows them", kid)
		}
		d.end(slot)
		k.Withdrawn = slot.Index
		entries = append(entries, s.entry(bundle.KeyWithdrawn, "key/"+kid, actor, rotation.Withdrawal{KID: kid, Epoch: d.Epoch, Reason: commitment}))
		if kid == d.Signer {
			entries = append(entries, s.replace(slot, ks, d, fresh, actor)...)
		}
		out.KID, out.From, out.Epoch = d.Signer, ks.find(d.Signer).From, d.Epoch
		return entries, []ledger.Put{{Key: ledger.Key{Kind: kindOpening, ID: commitment}, Value: opening}}, nil
	})
	if out.KID != fresh.kid && !errors.Is(err, ledger.ErrUnknown) {
		err = errors.Join(err, s.cfg.TokenKeys.Drop(fresh.kid))
	}
	if err != nil {
		return nil, err
	}
	if err := s.refreshKeys(ctx); err != nil {
		return out, err
	}
	// The key that follows is certified only now: a withdrawal waits for no TPM.
	if err := s.certifyKeys(ctx); err != nil {
		s.cfg.Slog.ErrorContext(ctx, "the token key that follows is not certified yet", "error", err)
	}
	return out, nil
}

// replace finds a successor for the key that signs, which entry slot.Index withdraws.
func (s *Service) replace(slot ledger.Slot, ks *tokenKeys, d *domainState, fresh *made, actor string) (entries []ledger.Entry) {
	kid, index := fresh.kid, slot.Index+1
	if next := ks.next(d.Signer); next != nil && s.cfg.TokenKeys.Signer(next.ID) != nil {
		kid = next.ID
	} else {
		entries, index = append(entries, s.introduce(ks, fresh, slot.At.Unix(), actor, index)), index+1
	}
	return append(entries, s.turn(ks, d, kid, slot.At, actor, index))
}

// TendKeys does what is due: it follows what other verifiers did, makes the next key
// sign when its time has come, introduces one when the schedule says so, and deletes
// the private keys that will never sign again. Call it every second or so.
func (s *Service) TendKeys(ctx context.Context) error {
	if err := s.refreshKeys(ctx); err != nil {
		return err
	}
	errs := []error{s.certifyKeys(ctx)}
	p, now := s.published.Load(), s.cfg.Now()
	for _, k := range p.rows.Keys {
		switch k.state(p.signer, now) {
		case "withdrawn", "retired":
			errs = append(errs, s.cfg.TokenKeys.Drop(k.ID))
		case "signing", "next":
			if s.cfg.TokenKeys.Signer(k.ID) == nil {
				errs = append(errs, s.cfg.TokenKeys.Reload())
			}
		}
	}
	next := p.rows.next(p.signer)
	switch signing := p.rows.find(p.signer); {
	case next != nil && now.Unix() >= next.From && s.cfg.TokenKeys.Signer(next.ID) != nil:
		errs = append(errs, s.nextSigns(ctx), s.refreshKeys(ctx))
	case next == nil && s.cfg.TokenKeyLife > 0 && now.Add(s.cfg.KeyOverlap).Sub(time.Unix(signing.From, 0)) >= s.cfg.TokenKeyLife:
		_, err := s.rotate(ctx, "verifier/"+s.cfg.Name, true)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// nextSigns makes the next key sign, unless another verifier has done so meanwhile.
func (s *Service) nextSigns(ctx context.Context) error {
	return s.keyAct(ctx, nil, false, func(slot ledger.Slot, ks *tokenKeys, d *domainState) ([]ledger.Entry, []ledger.Put, error) {
		next := ks.next(d.Signer)
		if next == nil || slot.At.Unix() < next.From {
			return nil, nil, nil
		}
		return []ledger.Entry{s.turn(ks, d, next.ID, slot.At, "verifier/"+s.cfg.Name, slot.Index)}, nil, nil
	})
}

// signer returns the private key that signs.
func (s *Service) signer(kid string) (crypto.Signer, error) {
	key := s.cfg.TokenKeys.Signer(kid)
	if key == nil {
		return nil, fmt.Errorf("%w: the token key %s signs now and is not here; copy keys/token-%s.pem from the verifier that made it", keys.ErrMissing, kid, kid)
	}
	if err := s.certificateHolds(kid); err != nil {
		return nil, err
	}
	return key, nil
}

// Signs reports why no token can be signed, nil if it can.
func (s *Service) Signs() error {
	_, err := s.signer(s.published.Load().signer)
	return err
}
