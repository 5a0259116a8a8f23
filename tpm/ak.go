package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// handleEndorsement is TPM_RH_ENDORSEMENT (Part 2, 7.4), as four bytes the name
// of that hierarchy.
var handleEndorsement = []byte{0x40, 0x00, 0x00, 0x0B}

// AKTemplate returns the TPMT_PUBLIC from which TPM2_CreatePrimary derives a
// node's attestation key for a domain: ECC P-256, ECDSA with SHA-256,
// restricted to signing, resident, outside of dictionary-attack protection.
// Derived again it is the same key, so nothing is stored.
//
// unique.x = SHA-256(domain || generation as 4 bytes, big-endian) gives each
// domain a key of its own, and another one at each generation; unique.y is 32
// zero bytes.
func AKTemplate(domain string, generation uint32) []byte {
	unique := sha256.Sum256(binary.BigEndian.AppendUint32([]byte(domain), generation))
	b := akParameters().appendParameters(nil)
	return appendSized(appendSized(b, unique[:]), make([]byte, 32))
}

func akParameters() *Public {
	return &Public{
		typ:     algECC,
		nameAlg: AlgSHA256,
		attrs:   attrResident | attrUserWithAuth | attrNoDA | attrRestricted | attrSign,
		scheme:  algECDSA,
		hash:    AlgSHA256,
		curve:   curveP256,
	}
}

// CheckAK tells whether p is a key made from AKTemplate(domain, generation): its
// public area equals the template apart from the key itself. The key does not
// show which domain and generation it was derived for; the enrolment records
// that. They are parameters because another generation may have another template.
func CheckAK(p *Public, domain string, generation uint32) error {
	template := AKTemplate(domain, generation)
	got := p.Marshal()
	const unique = 2 + 32 + 2 + 32
	if len(got) != len(template) || !bytes.Equal(got[:len(got)-unique], template[:len(template)-unique]) {
		return fmt.Errorf("checking attestation key: public area %x differs from the template %x in more than the key: make the key with `writ provision`", got, template)
	}
	return p.checkSigning()
}

// CheckSigner tells whether q was signed by p as a primary key of the
// endorsement hierarchy: q.Signer is p's qualified name there, nameAlg ||
// H(TPM_RH_ENDORSEMENT || name) (Part 1, 16.5). Only such a key's quotes carry
// plain counters.
func (p *Public) CheckSigner(q *Quote) error {
	if want := p.endorsementName(); want == nil || !bytes.Equal(q.Signer, want) {
		return fmt.Errorf("checking signer: qualified signer %x, want %x, the key as a primary of the endorsement hierarchy", q.Signer, want)
	}
	return nil
}

// endorsementName is p's qualified name as a primary of that hierarchy; nil for
// the zero value.
func (p *Public) endorsementName() []byte {
	hash, ok := p.nameAlg.Hash()
	if !ok {
		return nil
	}
	h := hash.New()
	h.Write(handleEndorsement)
	h.Write(p.name)
	return h.Sum(binary.BigEndian.AppendUint16(nil, uint16(p.nameAlg)))
}
