// Package bundle is evidence that leaves the verifier: one decision with
// everything it rested on, and the trust file it is checked against, with no
// network and no clock.
//
// A bundle's own keys, roots and references vouch for nothing. Whatever is
// believed comes from the [Trust] of whoever checks.
package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// MaxSize bounds a bundle (bytes): evidence and its base64 twice over.
const MaxSize = 64 << 20

// Bundle is one decision. Verdict and Entry are base64url in JSON.
type Bundle struct {
	V       int
	Input   *appraisal.Input
	Verdict []byte // as it was made
	Entry   []byte // the log's leaf; empty: not from a log
	Token   string // empty: denied
	Receipt string // c2sp.org/tlog-proof@v1

	Enrolment *Enrolment // nil in bundles of old, and in those not from a log
}

type bundleJSON struct {
	V       int             `json:"v"`
	Input   json.RawMessage `json:"input"`
	Verdict string          `json:"verdict"`
	Entry   string          `json:"entry"`
	Token   string          `json:"token"`
	Receipt string          `json:"receipt"`

	Enrolment *enrolmentJSON `json:"enrolment,omitempty"`
}

type enrolmentJSON struct {
	Entry   string `json:"entry"`
	Receipt string `json:"receipt"`
}

// Marshal writes the bundle.
func (b *Bundle) Marshal() ([]byte, error) {
	in, err := json.Marshal(b.Input)
	if err != nil {
		return nil, fmt.Errorf("writing the bundle's input: %w", err)
	}
	enc := base64.RawURLEncoding
	j := bundleJSON{V: b.V, Input: in, Verdict: enc.EncodeToString(b.Verdict), Entry: enc.EncodeToString(b.Entry), Token: b.Token, Receipt: b.Receipt}
	if e := b.Enrolment; e != nil {
		j.Enrolment = &enrolmentJSON{enc.EncodeToString(e.Entry), e.Receipt}
	}
	return json.Marshal(j)
}

// Parse reads a bundle in the one encoding Marshal writes.
func Parse(raw []byte) (*Bundle, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("reading the bundle: %d bytes, at most %d are allowed", len(raw), MaxSize)
	}
	raw = bytes.TrimRight(raw, "\n")
	var j bundleJSON
	if !json.Valid(raw) {
		return nil, fmt.Errorf("reading the bundle: expected one JSON object, found %s", sort(raw))
	}
	if err := strict(raw, &j); err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	if j.V != 1 {
		return nil, fmt.Errorf("reading the bundle: expected version 1, found %d", j.V)
	}
	b := &Bundle{V: j.V, Token: j.Token, Receipt: j.Receipt, Input: new(appraisal.Input)}
	if err := strict(j.Input, b.Input); err != nil {
		return nil, fmt.Errorf("reading the bundle's input: %w", err)
	}
	var err error
	if b.Verdict, err = base64.RawURLEncoding.DecodeString(j.Verdict); err != nil {
		return nil, fmt.Errorf("reading the bundle's verdict: %w", err)
	}
	if b.Entry, err = base64.RawURLEncoding.DecodeString(j.Entry); err != nil {
		return nil, fmt.Errorf("reading the bundle's entry: %w", err)
	}
	if e := j.Enrolment; e != nil {
		b.Enrolment = &Enrolment{Receipt: e.Receipt}
		if b.Enrolment.Entry, err = base64.RawURLEncoding.DecodeString(e.Entry); err != nil {
			return nil, fmt.Errorf("reading the bundle's enrolment: %w", err)
		}
	}
	if back, err := b.Marshal(); err != nil || !bytes.Equal(back, raw) {
		return nil, errors.New("reading the bundle: not in the canonical form")
	}
	return b, nil
}

// sort says what bytes that are no JSON look like, for whoever gave the wrong file.
func sort(b []byte) string {
	switch {
	case len(bytes.TrimSpace(b)) == 0:
		return "nothing"
	case bytes.HasPrefix(b, []byte("-----BEGIN ")):
		return "PEM"
	case utf8.Valid(b) && bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")):
		return fmt.Sprintf("%d bytes that begin as one: they were cut off or changed", len(b))
	case utf8.Valid(b):
		return fmt.Sprintf("%d bytes of other text", len(b))
	}
	return fmt.Sprintf("%d binary bytes", len(b))
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if rest := int64(len(b)) - d.InputOffset(); rest != 0 {
		return fmt.Errorf("%d bytes after the value", rest)
	}
	return nil
}

// Trust is what a checker believes, got from the domain it trusts and kept.
type Trust struct {
	V             int        `json:"v"`
	Domain        string     `json:"domain"`
	Issuer        string     `json:"issuer,omitempty"`              // empty: https://<domain>
	Log           []string   `json:"log"`                           // the log's keys, in note format
	Root          string     `json:"root,omitempty"`                // thumbprint of the key that certifies token keys; empty: none does
	TokenKeys     token.Keys `json:"token_keys"`                    // JWKS
	ReferenceKeys []string   `json:"reference_keys"`                // PEM, Ed25519
	Threshold     int        `json:"reference_threshold,omitempty"` // signatures a set needs; 0: one
	EKRoots       []string   `json:"ek_roots"`                      // PEM
	IAKRoots      []string   `json:"iak_roots,omitempty"`           // PEM; none: no maker of devices is believed
	WitnessPolicy string     `json:"witness_policy"`                // c2sp.org/tlog-policy; empty: none
	Retired       *Retired   `json:"retired,omitempty"`             // keys of before
}

// ParseTrust reads a trust file. White space is free here: people edit it.
func ParseTrust(b []byte) (*Trust, error) {
	t := new(Trust)
	if !json.Valid(b) {
		return nil, fmt.Errorf("reading the trust file: expected one JSON object, found %s", sort(b))
	}
	if err := strict(bytes.TrimSpace(b), t); err != nil {
		return nil, fmt.Errorf("reading the trust file: %w", err)
	}
	if t.V != 1 || t.Domain == "" {
		return nil, fmt.Errorf("reading the trust file: expected version 1 and a domain, found version %d and %q", t.V, t.Domain)
	}
	if t.Threshold < 0 {
		return nil, fmt.Errorf("reading the trust file: reference_threshold %d is negative", t.Threshold)
	}
	if _, err := t.references(); err != nil {
		return nil, fmt.Errorf("reading the trust file: %w", err)
	}
	if _, err := ParsePolicy(t.WitnessPolicy); err != nil {
		return nil, fmt.Errorf("reading the trust file: %w", err)
	}
	if err := t.Retired.check(t.Domain); err != nil {
		return nil, fmt.Errorf("reading the trust file: %w", err)
	}
	for _, pems := range [][]string{t.EKRoots, t.IAKRoots} {
		if _, err := roots(pems); err != nil {
			return nil, fmt.Errorf("reading the trust file: %w", err)
		}
	}
	return t, nil
}

// Pins are what token keys are learned by.
func (t *Trust) Pins() rotation.Pins {
	return rotation.Pins{Log: t.Log, Root: t.Root, Keys: t.TokenKeys}
}

// Marshal writes the trust file for people.
func (t *Trust) Marshal() []byte {
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		panic("bundle: a trust file does not marshal: " + err.Error())
	}
	return append(b, '\n')
}

// IssuerURL is the iss of the domain's tokens.
func (t *Trust) IssuerURL() string {
	if t.Issuer != "" {
		return t.Issuer
	}
	return "https://" + t.Domain
}

func (t *Trust) references() ([]ed25519.PublicKey, error) {
	var out []ed25519.PublicKey
	for _, text := range t.ReferenceKeys {
		k, err := reference.ParseKey(text)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// roots returns the DER of trusted roots.
func roots(pems []string) ([][]byte, error) {
	var out [][]byte
	for i, text := range pems {
		der, err := ParseCertificatePEM(text)
		if err != nil {
			return nil, fmt.Errorf("root %d: %w", i, err)
		}
		out = append(out, der)
	}
	return out, nil
}

// CertificatePEM writes one certificate as PEM.
func CertificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// ParseCertificatePEM is the inverse of CertificatePEM.
func ParseCertificatePEM(text string) ([]byte, error) {
	b, rest := pem.Decode([]byte(text))
	if b == nil || b.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("expected one PEM block CERTIFICATE")
	}
	if _, err := x509.ParseCertificate(b.Bytes); err != nil {
		return nil, err
	}
	return b.Bytes, nil
}
