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
	"slices"
)

// PayloadType names a set inside a DSSE envelope.
const PayloadType = "application/vnd.writ.reference-values+json"

// Signed is a set together with the DSSE envelope that carried it and, once
// completed, with everything it names: Set is then what the layers say together.
type Signed struct {
	*Set
	Envelope []byte
	sum      [32]byte // of Set
	own      [32]byte // of the set in the envelope
	envelope string   // hexadecimal, of Envelope
	layers   []*Signed
	lists    []*List
	resolved bool
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
	sum := sha256.Sum256(e.Payload)
	whole := sha256.Sum256(b)
	return &Signed{Set: s, Envelope: b, sum: sum, own: sum, envelope: hex.EncodeToString(whole[:])}, nil
}

// EnvelopeDigest is the hexadecimal SHA-256 of the envelope, signatures included.
func (s *Signed) EnvelopeDigest() string { return s.envelope }

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
// configured ones, on the set and on each it builds on; keys an envelope names
// itself count for nothing.
func (s *Signed) Verify(keys []ed25519.PublicKey, threshold int) error {
	for _, l := range s.layers {
		if err := l.Verify(keys, threshold); err != nil {
			return err
		}
	}
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

// Digest identifies what evidence is held against: the set, or what it says
// together with its layers.
func (s *Signed) Digest() [32]byte { return s.sum }

// Own identifies the set in the envelope alone.
func (s *Signed) Own() [32]byte { return s.own }

// Layers are the sets it was completed with.
func (s *Signed) Layers() []*Signed { return s.layers }

// Lists are the allow lists it was completed with.
func (s *Signed) Lists() []*List { return s.lists }

// FileListed reports whether one of the allow lists has a file.
func (s *Signed) FileListed(path string, digest []byte) bool {
	return slices.ContainsFunc(s.lists, func(l *List) bool { return l.Has(path, digest) })
}

// ListedAt returns a digest (as in [File.Allow]) that an allow list has for a path,
// of the first such list in the set's order, and what the set calls that list; ""
// for none. It reads whole lists.
func (s *Signed) ListedAt(path string) (digest, name string) {
	if s.IMA == nil {
		return "", ""
	}
	for _, r := range s.IMA.Lists {
		for _, l := range s.lists {
			if l.hexDigest() != r.Digest {
				continue
			}
			if digest = l.At(path); digest != "" {
				return digest, r.Name
			}
		}
	}
	return "", ""
}

// whole is a set with what it names, in bundles and publications.
type whole struct {
	Set    []byte   `json:"set"`
	Layers [][]byte `json:"layers,omitempty"`
	Lists  [][]byte `json:"lists,omitempty"`
}

// MarshalJSON writes the envelope as a base64 string, so that bundles carry
// what was signed byte for byte; a set that names others is an object with them.
func (s *Signed) MarshalJSON() ([]byte, error) {
	if len(s.layers)+len(s.lists) == 0 {
		return json.Marshal(s.Envelope)
	}
	return Pack(s, s.layers, s.lists), nil
}

// Pack writes a set with what it names into one file; [Open] reads it.
func Pack(set *Signed, layers []*Signed, lists []*List) []byte {
	w := whole{Set: set.Envelope}
	for _, l := range layers {
		w.Layers = append(w.Layers, l.Envelope)
	}
	for _, l := range lists {
		w.Lists = append(w.Lists, l.text)
	}
	b, err := json.Marshal(w)
	if err != nil {
		panic("reference: byte strings do not marshal: " + err.Error())
	}
	return b
}

// UnmarshalJSON reads it back.
func (s *Signed) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		r, err := readWhole(b)
		if err == nil && r.layers == nil && r.lists == nil {
			err = errors.New("reading reference set: an object without layers and lists, expected a string")
		}
		if err == nil {
			*s = *r
		}
		return err
	}
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

func readWhole(b []byte) (*Signed, error) {
	set, layers, lists, err := Open(b)
	if err != nil {
		return nil, err
	}
	return set.Complete(layers, lists)
}

// Open parses what is published: an envelope, or an object of one with layers
// and allow lists, which need not be all it names. It believes nothing.
func Open(b []byte) (set *Signed, layers []*Signed, lists []*List, err error) {
	if !bytes.HasPrefix(b, []byte(`{"set":`)) {
		set, err = Read(b)
		return set, nil, nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var w whole
	if err := d.Decode(&w); err != nil {
		return nil, nil, nil, fmt.Errorf("reading reference set: %w", err)
	}
	if back, err := json.Marshal(w); err != nil || !bytes.Equal(back, b) {
		return nil, nil, nil, errors.New("reading reference set: not in the form `writ reference publish` writes")
	}
	if len(w.Layers) > maxLayers || len(w.Lists) > maxLists*maxLayers {
		return nil, nil, nil, fmt.Errorf("reading reference set: %d layers and %d lists are too many", len(w.Layers), len(w.Lists))
	}
	if set, err = Read(w.Set); err != nil {
		return nil, nil, nil, err
	}
	for _, env := range w.Layers {
		l, err := Read(env)
		if err != nil {
			return nil, nil, nil, err
		}
		layers = append(layers, l)
	}
	for _, text := range w.Lists {
		l, err := ParseList(text)
		if err != nil {
			return nil, nil, nil, err
		}
		lists = append(lists, l)
	}
	return set, layers, lists, nil
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
