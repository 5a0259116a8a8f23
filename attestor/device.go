package attestor

import (
	"fmt"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// DeviceIdentity is what the maker of this device says of it: its IAK, with its
// certificates from the TPM's NV and from more (DER), and the domain's attestation
// key certified by it. It is nil if the maker says nothing.
func DeviceIdentity(t *device.TPM, domain string, generation uint32, more ...[]byte) (*protocol.IAK, error) {
	ak, err := t.AK(domain, generation)
	if err != nil {
		return nil, fmt.Errorf("making the attestation key: %w", err)
	}
	defer ak.Close()
	return identity(t, ak, domain, more)
}

func identity(t *device.TPM, ak *device.AK, domain string, more [][]byte) (*protocol.IAK, error) {
	iak, err := t.IAK(more...)
	if err != nil || iak == nil {
		return nil, err
	}
	attest, sig, err := t.Certify(iak, ak, tpm.CertifyBinding(domain, ak.Name()))
	if err != nil {
		return nil, err
	}
	return &protocol.IAK{Public: iak.Public.Marshal(), Certificate: iak.Certificate, IDevID: iak.IDevID, Chain: iak.Chain, Attest: attest, Signature: sig}, nil
}
