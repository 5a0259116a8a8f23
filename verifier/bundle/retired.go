package bundle

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
)

// Retired are keys of a domain that sign no more. What they signed while they did
// still verifies, nothing they sign after.
type Retired struct {
	Log       []RetiredLogKey   `json:"log,omitempty"`
	TokenKeys []RetiredTokenKey `json:"token_keys,omitempty"`
}

// RetiredLogKey is the key of a verifier that was retired.
type RetiredLogKey struct {
	Key  string `json:"key"`  // in note format
	Size uint64 `json:"size"` // of the largest checkpoint it may have signed: the index of the entry that retires it
}

// RetiredTokenKey is a token key that was rotated out. Those that were withdrawn
// are none: nothing they signed counts.
type RetiredTokenKey struct {
	JWK   json.RawMessage `json:"jwk"`
	From  int64           `json:"from"`  // Unix second of the first token
	Until int64           `json:"until"` // by which the last one has expired
}

// LogKeys are the keys that may have signed a checkpoint: those of the log, and
// retired ones if they had not been when it was as large as the note says it is.
func (t *Trust) LogKeys(note []byte) []string {
	s := ledger.Signers{Keys: t.Log}
	if t.Retired != nil {
		for _, k := range t.Retired.Log {
			s.Retired = append(s.Retired, ledger.Retired(k))
		}
	}
	return s.Of(note)
}

// OpenCheckpoint is [ledger.OpenCheckpoint] by the keys of the trust file.
func (t *Trust) OpenCheckpoint(note []byte) (ledger.Checkpoint, error) {
	return ledger.OpenCheckpoint(note, t.LogKeys(note)...)
}

// CheckProof is [ledger.CheckProof] by the keys of the trust file.
func (t *Trust) CheckProof(receipt string, entry []byte) (index uint64, c ledger.Checkpoint, err error) {
	p, err := ledger.ParseProof(receipt)
	if err != nil {
		return 0, c, err
	}
	return ledger.CheckProof(receipt, entry, t.LogKeys(p.Note)...)
}

// keysAt are the keys for a token of a time: those of now, and those that signed
// then. Whoever calls knows the time from elsewhere than a retired key's word, or
// believes no more than that the token has ended.
func (t *Trust) keysAt(issued int64) (token.Keys, error) {
	var public []crypto.PublicKey
	for _, kid := range t.TokenKeys.IDs() {
		public = append(public, t.TokenKeys.Key(kid))
	}
	if t.Retired != nil {
		for _, r := range t.Retired.TokenKeys {
			if issued < r.From || issued >= r.Until {
				continue
			}
			k, err := token.ParseJWK(r.JWK)
			if err != nil {
				return token.Keys{}, fmt.Errorf("reading a retired token key: %w", err)
			}
			if kid, err := token.Thumbprint(k); err == nil && t.TokenKeys.Key(kid) == nil {
				public = append(public, k)
			}
		}
	}
	return token.NewKeys(public...)
}

// check reads every key once.
func (r *Retired) check(domain string) error {
	if r == nil {
		return nil
	}
	for _, k := range r.Log {
		if _, err := ledger.KeyID(domain+"/log", k.Key); err != nil {
			return fmt.Errorf("retired log key: %w", err)
		}
	}
	for _, k := range r.TokenKeys {
		if _, err := token.ParseJWK(k.JWK); err != nil {
			return fmt.Errorf("retired token key: %w", err)
		}
		if k.Until <= k.From {
			return errors.New("retired token key: it ends before it begins")
		}
	}
	return nil
}
