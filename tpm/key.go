package tpm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
)

// KeyBinding is the extraData that an attestation key certifies a signing key of its
// TPM with, for a node of a domain, under a challenge of 32 bytes:
// SHA-256("writ-key-v1" || domain || node || challenge). Node ids have one length.
func KeyBinding(domain, node string, challenge []byte) []byte {
	sum := sha256.Sum256(append([]byte("writ-key-v1"+domain+node), challenge...))
	return sum[:]
}

// CheckKey tells whether attest and sig are a TPM2_Certify in which ak, a primary of the
// endorsement hierarchy, says that key was loaded beside it, and key is one that cannot
// exist elsewhere ([CheckSigning]). For whom and when is in what it returns: compare
// ExtraData with [KeyBinding], and the counters with those of a quote.
func CheckKey(ak, key *Public, attest, sig []byte) (*Certified, error) {
	if err := CheckSigning(key); err != nil {
		return nil, err
	}
	c, err := ak.VerifyCertify(attest, sig)
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(c.Signer, ak.endorsementName()):
		return nil, errors.New("checking key: it is not certified by a primary of the endorsement hierarchy")
	case !bytes.Equal(c.Name, key.name):
		return nil, fmt.Errorf("checking key: the certification is of the key %x, not of %x", c.Name, key.name)
	}
	return c, nil
}
