package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// KeyCertificate is the content of key-cert: what the TPM says of the key of bind-key.
type KeyCertificate struct {
	Public    []byte `json:"public"`    // TPMT_PUBLIC
	Attest    []byte `json:"attest"`    // TPMS_ATTEST of TPM2_Certify by the attestation key
	Signature []byte `json:"signature"` // TPMT_SIGNATURE
}

// Marshal writes the content.
func (k *KeyCertificate) Marshal() []byte {
	b, err := json.Marshal(k)
	if err != nil {
		panic("evidence: a certificate of bytes does not marshal: " + err.Error())
	}
	return b
}

// ParseKeyCertificate reads exactly what Marshal writes.
func ParseKeyCertificate(b []byte) (*KeyCertificate, error) {
	k := new(KeyCertificate)
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fmt.Errorf("reading %s: %w", KeyCert, err)
	}
	if !bytes.Equal(k.Marshal(), b) {
		return nil, errors.New("reading " + KeyCert + ": it is not in the form it is written in")
	}
	return k, nil
}
