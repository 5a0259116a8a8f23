// Package corim exchanges reference values with other verifiers as CoRIM
// (draft-ietf-rats-corim): PCR values as integrity registers.
//
// CoRIM's reference values for a TPM are PCR values, Writ's are the events
// behind them. An export computes the values that a set's events lead to; an
// import is a set of level quote-only, which affirms less. It proves nothing by
// itself: read it, then sign it.
package corim

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/veraison/corim/comid"
	rim "github.com/veraison/corim/corim"
	"github.com/veraison/swid"

	"github.com/writ-attestation/writ/verifier/reference"
)

// maxSize bounds a CoRIM; maxValues what one PCR may come out as.
const (
	maxSize   = 4 << 20
	maxValues = 64
)

// Export writes a set as an unsigned CoRIM. notes say which of the set CoRIM
// cannot hold.
func Export(s *reference.Set) (b []byte, notes []string, err error) {
	registers := comid.NewIntegrityRegisters()
	for i := range s.PCRs {
		p := &s.PCRs[i]
		values, why := valuesOf(s, p)
		if why != "" {
			notes = append(notes, fmt.Sprintf("PCR %d is left out: %s", p.PCR, why))
		}
		for _, v := range values {
			if err := registers.AddDigest(uint(p.PCR), swid.HashEntry{HashAlgID: swid.Sha256, HashValue: v}); err != nil {
				return nil, nil, fmt.Errorf("writing PCR %d: %w", p.PCR, err)
			}
		}
		if len(values) > 1 {
			notes = append(notes, fmt.Sprintf("PCR %d has %d values; draft-ietf-rats-corim does not say that they are alternatives", p.PCR, len(values)))
		}
	}
	if s.IMA != nil {
		notes = append(notes, "files are left out: CoRIM has no place for them")
	}
	m := comid.MustNewUintMeasurement(uint64(0))
	m.Val.IntegrityRegisters = registers
	id := fmt.Sprintf("writ:%s:%d", s.Name, s.Generation)
	class := (&comid.Class{}).SetVendor("writ").SetModel(s.Name)
	c := comid.NewComid().SetTagIdentity(id, uint(min(s.Generation, 1<<31))).
		AddReferenceValue(comid.ReferenceValue{Environment: comid.Environment{Class: class}, Measurements: *comid.NewMeasurements().AddMeasurement(m)})
	if c == nil {
		return nil, nil, errors.New("writing CoMID: the library refused the reference value")
	}
	u := rim.NewUnsignedCorim().SetID(id).AddComid(*c)
	if s.NotAfter != 0 && u != nil {
		from := time.Unix(s.NotBefore, 0).UTC()
		u = u.SetRimValidity(time.Unix(s.NotAfter, 0).UTC(), &from)
	}
	if u == nil {
		return nil, nil, fmt.Errorf("writing CoRIM: the library refused the CoMID (%v)", c.Valid())
	}
	b, err = u.ToCBOR()
	return b, notes, err
}

// valuesOf returns the values a PCR can have, or why they cannot be told.
func valuesOf(s *reference.Set, p *reference.PCR) (values [][]byte, why string) {
	switch {
	case p.Rule == reference.Ignore:
		return nil, "it is ignored"
	case s.Level == reference.QuoteOnly:
		for _, v := range p.Values {
			b, _ := hex.DecodeString(v) // checked with the set
			values = append(values, b)
		}
		return values, ""
	case p.Rule == reference.Extend:
		return nil, "anything may follow its events"
	}
	values = [][]byte{make([]byte, sha256.Size)}
	for _, e := range p.Events {
		var next [][]byte
		if e.Optional {
			next = append(next, values...)
		}
		for _, v := range values {
			for _, d := range e.Allow {
				if s.Listed(d) > reference.Allowed {
					continue
				}
				digest, _ := hex.DecodeString(d)
				sum := sha256.Sum256(slices.Concat(v, digest))
				next = append(next, sum[:])
			}
		}
		if values = next; len(values) == 0 || len(values) > maxValues {
			return nil, fmt.Sprintf("its events lead to %d values, 1 to %d can be listed", len(values), maxValues)
		}
	}
	return values, ""
}

// Import reads the integrity registers of a CoRIM into a quote-only set named
// name. One in COSE_Sign1 must be signed by key; an unsigned one takes nil.
func Import(name string, b []byte, key crypto.PublicKey) (_ *reference.Set, err error) {
	defer func() { // corim v1.1.2 indexes CBOR it has not measured
		if p := recover(); p != nil {
			err = fmt.Errorf("reading CoRIM: malformed: %v", p)
		}
	}()
	if len(b) > maxSize {
		return nil, fmt.Errorf("reading CoRIM: %d bytes, at most %d are allowed", len(b), maxSize)
	}
	u, err := open(b, key)
	if err != nil {
		return nil, fmt.Errorf("reading CoRIM: %w", err)
	}
	s := &reference.Set{V: 1, Name: name, Generation: 1, Level: reference.QuoteOnly, Bank: "sha256", SecureBoot: "any", TPM: reference.TPM{Vendors: []string{}},
		Required: []string{reference.InstanceIdentity, reference.Hardware, reference.Configuration}}
	if v := u.RimValidity; v != nil {
		s.NotAfter = v.NotAfter.Unix()
		if v.NotBefore != nil {
			s.NotBefore = max(0, v.NotBefore.Unix())
		}
	}
	values := map[int][]string{}
	for i, tag := range u.Tags {
		if err := readTag(tag, values); err != nil {
			return nil, fmt.Errorf("reading CoRIM: tag %d: %w", i, err)
		}
	}
	if len(values) == 0 {
		return nil, errors.New("reading CoRIM: no integrity register with a SHA-256 digest in it")
	}
	for p := range 16 {
		rule := reference.PCR{PCR: p, Rule: reference.Ignore, Why: "the CoRIM says nothing of it"}
		if len(values[p]) > 0 {
			rule = reference.PCR{PCR: p, Rule: reference.Match, Values: values[p]}
		}
		delete(values, p)
		s.PCRs = append(s.PCRs, rule)
	}
	for _, p := range slices.Sorted(maps.Keys(values)) {
		return nil, fmt.Errorf("reading CoRIM: register %d is not one that quotes cover (0 to 15)", p)
	}
	return s, s.Check()
}

// coseSign1 begins a tagged COSE_Sign1 (RFC 9052 section 4.2).
const coseSign1 = 0xd2

func open(b []byte, key crypto.PublicKey) (*rim.UnsignedCorim, error) {
	if len(b) > 0 && b[0] == coseSign1 {
		if key == nil {
			return nil, errors.New("it is signed; give the signer's key")
		}
		var signed rim.SignedCorim
		if err := signed.FromCOSE(b); err != nil {
			return nil, err
		}
		if err := signed.Verify(key); err != nil {
			return nil, err
		}
		return &signed.UnsignedCorim, nil
	}
	if key != nil {
		return nil, errors.New("it is not signed, and a signer's key was given")
	}
	b = bytes.TrimPrefix(b, []byte{0xd9, 0x01, 0xf5}) // tag 501, which later drafts write
	u := rim.NewUnsignedCorim()
	if err := u.FromCBOR(b); err != nil {
		return nil, err
	}
	return u, u.Valid()
}

func readTag(tag rim.Tag, values map[int][]string) error {
	body, ok := bytes.CutPrefix(tag, rim.ComidTag)
	if !ok {
		return errors.New("not a CoMID")
	}
	c := comid.NewComid()
	if err := c.FromCBOR(body); err != nil {
		return err
	}
	if c.Triples.ReferenceValues == nil {
		return nil
	}
	for _, v := range *c.Triples.ReferenceValues {
		for _, m := range v.Measurements {
			if m.Val.IntegrityRegisters == nil {
				return errors.New("a measurement without integrity registers")
			}
			if err := readRegisters(m.Val.IntegrityRegisters, values); err != nil {
				return err
			}
		}
	}
	return nil
}

// readRegisters goes by way of JSON, the only form in which the library shows
// what it has read.
func readRegisters(r *comid.IntegrityRegisters, values map[int][]string) error {
	raw, err := r.MarshalJSON()
	if err != nil {
		return err
	}
	var registers map[string]struct {
		Type  string   `json:"key-type"`
		Value []string `json:"value"`
	}
	if err := json.Unmarshal(raw, &registers); err != nil {
		return err
	}
	for _, index := range slices.Sorted(maps.Keys(registers)) {
		p, err := strconv.Atoi(index)
		if err != nil || registers[index].Type != "uint" || p < 0 {
			return fmt.Errorf("register %.40q is no PCR", index)
		}
		for _, v := range registers[index].Value {
			text, ok := strings.CutPrefix(v, "sha-256;")
			if !ok {
				continue // another bank
			}
			sum, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return fmt.Errorf("register %d: %w", p, err)
			}
			if d := hex.EncodeToString(sum); !slices.Contains(values[p], d) {
				values[p] = append(values[p], d)
			}
		}
	}
	return nil
}
