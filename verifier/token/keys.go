package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // refuses duplicate names, and Use for use
)

// maxKeys bounds a key set: keys rotate, so a few are in use at once.
const maxKeys = 64

// Keys is the key set of one issuer. Keys of different issuers are never pooled:
// a token is checked with those of the issuer it is expected from, or any domain
// could speak for every other (SPIFFE Federation section 7.3). The zero Keys
// knows no key and refuses every token. Keys are not changed once made.
type Keys struct {
	ids  []string // in the order given
	byID map[string]*ecdsa.PublicKey
}

// jwk is a P-256 key as key sets hold it (RFC 7517, RFC 7518 section 6.2.1).
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
	Kid string `json:"kid"`
	Use string `json:"use"`
	Alg string `json:"alg"`
}

// NewKeys makes a key set of P-256 public keys.
func NewKeys(public ...crypto.PublicKey) (Keys, error) {
	k := Keys{byID: make(map[string]*ecdsa.PublicKey)}
	for _, pub := range public {
		id, err := Thumbprint(pub)
		if err != nil {
			return Keys{}, err
		}
		if _, ok := k.byID[id]; ok {
			return Keys{}, fmt.Errorf("making a key set: key %s is given twice", id)
		}
		k.ids, k.byID[id] = append(k.ids, id), pub.(*ecdsa.PublicKey)
	}
	return k, nil
}

// ParseJWKS reads a JWK set (RFC 7517). Keys for other algorithms are left out,
// as section 5 there demands; a P-256 key that is private, or whose kid is not
// its thumbprint, makes the whole set invalid.
func ParseJWKS(b []byte) (Keys, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if len(b) > MaxSize {
		return Keys{}, fmt.Errorf("reading a key set: %d bytes are more than %d", len(b), MaxSize)
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return Keys{}, fmt.Errorf("reading a key set: %w", err)
	}
	if set.Keys == nil || len(set.Keys) > maxKeys {
		return Keys{}, fmt.Errorf("reading a key set: %d keys, expected a list of at most %d", len(set.Keys), maxKeys)
	}
	var keys []crypto.PublicKey
	for i, raw := range set.Keys {
		var head jwk
		if err := json.Unmarshal(raw, &head); err != nil {
			return Keys{}, fmt.Errorf("reading key %d of a key set: %w", i, err)
		}
		if head.Kty != "EC" || head.Crv != "P-256" || head.Use != "sig" || head.Alg != algorithm {
			continue
		}
		key, err := ParseJWK(raw)
		if err != nil {
			return Keys{}, fmt.Errorf("reading key %d of a key set: %w", i, err)
		}
		if id, err := Thumbprint(key); err != nil || id != head.Kid {
			return Keys{}, fmt.Errorf("reading key %d of a key set: its kid %.60q is not its thumbprint %s", i, head.Kid, id)
		}
		keys = append(keys, key)
	}
	return NewKeys(keys...)
}

// MarshalJWKS writes the set as issuers publish it.
func (k Keys) MarshalJWKS() []byte {
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for _, id := range k.ids {
		x, y, err := point(k.byID[id])
		if err != nil {
			panic("token: a key of a key set has no point: " + err.Error())
		}
		set.Keys = append(set.Keys, jwk{Kty: "EC", Crv: "P-256", X: x, Y: y, Kid: id, Use: "sig", Alg: algorithm})
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic("token: a key set of strings does not marshal: " + err.Error())
	}
	return b
}

// MarshalJSON makes a key set part of a larger document.
func (k Keys) MarshalJSON() ([]byte, error) { return k.MarshalJWKS(), nil }

// UnmarshalJSON is ParseJWKS.
func (k *Keys) UnmarshalJSON(b []byte) (err error) {
	*k, err = ParseJWKS(b)
	return err
}

// IDs returns the key ids, in the order the keys were given.
func (k Keys) IDs() []string { return slices.Clone(k.ids) }

// Key returns the key of an id, nil if the set has none.
func (k Keys) Key(id string) crypto.PublicKey {
	if key := k.byID[id]; key != nil {
		return key
	}
	return nil
}

// Thumbprint is the id of a P-256 public key: the SHA-256 of its RFC 7638 form in
// base64url.
func Thumbprint(public crypto.PublicKey) (string, error) {
	form, err := MarshalJWK(public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(form)
	return encoding.EncodeToString(sum[:]), nil
}

// ThumbprintJWK is the Thumbprint of the key in a JWK.
func ThumbprintJWK(b []byte) (string, error) {
	key, err := ParseJWK(b)
	if err != nil {
		return "", err
	}
	return Thumbprint(key)
}

// MarshalJWK writes a P-256 public key as RFC 7638 hashes it.
func MarshalJWK(public crypto.PublicKey) ([]byte, error) {
	x, y, err := point(public)
	if err != nil {
		return nil, err
	}
	return []byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`), nil
}

// ParseJWK reads a P-256 public key.
func ParseJWK(b []byte) (*ecdsa.PublicKey, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(b); err != nil {
		return nil, fmt.Errorf("reading a JWK: %w", err)
	}
	pub, ok := k.Key.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("reading a JWK: it is not a P-256 public key")
	}
	return pub, nil
}

// point returns the coordinates of a P-256 key as JWKs hold them.
func point(public crypto.PublicKey) (x, y string, err error) {
	pub, ok := public.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return "", "", fmt.Errorf("reading a public key: it is %T, expected P-256", public)
	}
	b, err := pub.Bytes() // SEC 1 2.3.3: 4, x, y
	if err != nil {
		return "", "", fmt.Errorf("reading a public key: %w", err)
	}
	return encoding.EncodeToString(b[1:33]), encoding.EncodeToString(b[33:]), nil
}

// encoding refuses what decodes to the same bytes in two ways.
var encoding = base64.RawURLEncoding.Strict()
