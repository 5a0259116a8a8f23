package tpm

import (
	"bytes"
	"fmt"
)

const attestCertify = 0x8017 // TPM_ST_ATTEST_CERTIFY, Part 2, 6.9

// Certified is what a TPM says in TPM2_Certify: a TPMS_ATTEST of type
// TPM_ST_ATTEST_CERTIFY (Part 2, 10.12). It is proof of nothing before its
// signature is checked ([Public.VerifyCertify]).
type Certified struct {
	Signer        []byte // qualified name of the signing key
	ExtraData     []byte // the caller's nonce, up to 66 bytes
	Clock         uint64 // as in [Quote], as are the next four
	ResetCount    uint32
	RestartCount  uint32
	Safe          bool
	Firmware      uint64
	Name          []byte // of the certified key
	QualifiedName []byte // and its place in the hierarchy
}

// ParseCertify reads a TPMS_ATTEST of a certified key. It refuses a wrong magic,
// any other type, a second encoding and trailing bytes.
func ParseCertify(attest []byte) (*Certified, error) {
	r := &reader{b: bytes.Clone(attest)}
	h := readAttest(r, attestCertify, "certify")
	c := &Certified{h.signer, h.extraData, h.clock, h.resetCount, h.restartCount, h.safe, h.firmware,
		r.sized(maxName, "certified name"), r.sized(maxName, "certified qualifiedName")}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("parsing certification: %w", err)
	}
	return c, nil
}

// Marshal is the inverse of [ParseCertify].
func (c *Certified) Marshal() []byte {
	h := attestHead{c.Signer, c.ExtraData, c.Clock, c.ResetCount, c.RestartCount, c.Safe, c.Firmware}
	return appendSized(appendSized(h.append(nil, attestCertify), c.Name), c.QualifiedName)
}

// VerifyCertify checks that p, a key that signs only what its TPM made, signed
// attest (TPMS_ATTEST) with sig (TPMT_SIGNATURE), and reads it.
func (p *Public) VerifyCertify(attest, sig []byte) (*Certified, error) {
	err := p.checkSigning()
	var s *signature
	if err == nil {
		s, err = parseSignature(sig)
	}
	if err == nil {
		err = p.verify(s, attest)
	}
	if err != nil {
		return nil, fmt.Errorf("verifying certification: %w", err)
	}
	return ParseCertify(attest)
}
