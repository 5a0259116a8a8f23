package tpm

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// SigningTemplate returns the TPMT_PUBLIC from which TPM2_CreatePrimary derives a
// key that signs whatever it is given: ECC P-256, ECDSA with SHA-256, resident,
// outside of dictionary-attack protection. Each unique gives a key of its own. What
// such a key signed proves nothing about the TPM's state: it may be anything.
func SigningTemplate(unique [sha256.Size]byte) []byte {
	b := signingParameters().appendParameters(nil)
	return appendSized(appendSized(b, unique[:]), make([]byte, 32))
}

func signingParameters() *Public {
	p := akParameters()
	p.attrs &^= attrRestricted
	return p
}

// CheckSigning tells whether p is a key as [SigningTemplate] describes: made inside a
// TPM and never outside of it, good for signing alone, and not restricted, which
// would be an attestation key's.
func CheckSigning(p *Public) error {
	switch {
	case p.attrs&attrResident != attrResident:
		return fmt.Errorf("checking signing key: attributes 0x%08x, want fixedTPM, fixedParent and sensitiveDataOrigin: it may exist outside of the TPM", p.attrs)
	case p.attrs&attrRestricted != 0:
		return errors.New("checking signing key: it is restricted, an attestation key")
	case p.attrs&attrSign == 0 || p.attrs&attrDecrypt != 0:
		return fmt.Errorf("checking signing key: attributes 0x%08x, want sign and not decrypt", p.attrs)
	case p.typ != algECC || p.curve != curveP256 || p.scheme != algECDSA || p.hash != AlgSHA256:
		return errors.New("checking signing key: want P-256 and ECDSA with SHA-256")
	}
	return nil
}
