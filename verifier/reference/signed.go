package reference

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// PayloadType names a set inside a DSSE envelope.
const PayloadType = "application/vnd.writ.reference-values+json"

// Signed is a set together with the DSSE envelope that carried it.
type Signed struct {
	*Set
	Envelope []byte
	sum      [32]byte
}

type envelope struct {
	Payload     []byte      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// pae is DSSE's pre-authentication encoding.
func pae(typ string, payload []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(typ), typ, len(payload)), payload...)
}

// KeyID names a signer: hexadecimal SHA-256 of its raw Ed25519 public key.
func KeyID(k ed25519.PublicKey) string {
	s := sha256.Sum256(k)
	return hex.EncodeToString(s[:])
}

// Sign puts the set into an envelope, with one signature for each key.
func Sign(s *Set, keys ...ed25519.PrivateKey) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	e := envelope{Payload: s.Marshal(), PayloadType: PayloadType}
	for _, k := range keys {
		e.Signatures = append(e.Signatures, signature{KeyID(k.Public().(ed25519.PublicKey)), ed25519.Sign(k, pae(PayloadType, e.Payload))})
	}
	return json.Marshal(e)
}

// Read parses an envelope without believing it: who signed is for
// [Signed.Verify] to say.
func Read(b []byte) (*Signed, error) {
	e, err := parseEnvelope(b)
	if err != nil {
		return nil, err
	}
	s, err := Parse(e.Payload)
	if err != nil {
		return nil, err
	}
	return &Signed{Set: s, Envelope: b, sum: sha256.Sum256(e.Payload)}, nil
}

func parseEnvelope(b []byte) (*envelope, error) {
	if len(b) > 2*MaxSize {
		return nil, fmt.Errorf("reading reference envelope: more than %d bytes", 2*MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	e := new(envelope)
	if err := d.Decode(e); err != nil {
		return nil, fmt.Errorf("reading reference envelope: %w", err)
	}
	if back, err := json.Marshal(e); err != nil || !bytes.Equal(back, b) {
		return nil, errors.New("reading reference envelope: not in the form `writ reference sign` writes")
	}
	if e.PayloadType != PayloadType {
		return nil, fmt.Errorf("reading reference envelope: expected payload type %s, found %.80q", PayloadType, e.PayloadType)
	}
	return e, nil
}

// Verify requires signatures of at least threshold different keys of the
// configured ones; keys an envelope names itself count for nothing.
func (s *Signed) Verify(keys []ed25519.PublicKey, threshold int) error {
	e, err := parseEnvelope(s.Envelope)
	if err != nil {
		return err
	}
	if threshold < 1 {
		return errors.New("verifying reference set: a threshold of at least 1 is needed")
	}
	good := map[string]bool{}
	for _, k := range keys {
		for _, sig := range e.Signatures {
			if sig.KeyID == KeyID(k) && ed25519.Verify(k, pae(PayloadType, e.Payload), sig.Sig) {
				good[sig.KeyID] = true
			}
		}
	}
	if len(good) < threshold {
		return fmt.Errorf("verifying reference set %s generation %d: expected %d signatures of configured keys, found %d; sign it with a key that reference_keys lists",
			s.Name, s.Generation, threshold, len(good))
	}
	return nil
}

// Digest identifies the set inside.
func (s *Signed) Digest() [32]byte { return s.sum }

// MarshalJSON writes the envelope as a base64 string, so that bundles carry
// what was signed byte for byte.
func (s *Signed) MarshalJSON() ([]byte, error) { return json.Marshal(s.Envelope) }

// UnmarshalJSON reads it back.
func (s *Signed) UnmarshalJSON(b []byte) error {
	var env []byte
	if err := json.Unmarshal(b, &env); err != nil {
		return err
	}
	r, err := Read(env)
	if err != nil {
		return err
	}
	*s = *r
	return nil
}

// ParseKey reads an Ed25519 public key from a PEM "PUBLIC KEY" block, the form
// `writ reference sign` prints and configurations hold.
func ParseKey(text string) (ed25519.PublicKey, error) {
	b, rest := pem.Decode([]byte(text))
	if b == nil || b.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("reading reference key: expected one PEM block PUBLIC KEY")
	}
	k, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading reference key: %w", err)
	}
	ed, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("reading reference key: expected Ed25519, found %T", k)
	}
	return ed, nil
}

// FormatKey is the inverse of ParseKey.
func FormatKey(k ed25519.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		panic("reference: an Ed25519 key does not marshal: " + err.Error())
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
