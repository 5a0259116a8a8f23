package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
)

// DeviceTemplate is a pair of templates from which the keys of a device are
// derived that its maker certifies (TCG TPM 2.0 Keys for Device Identity and
// Attestation, 7.3): primaries of the endorsement hierarchy.
type DeviceTemplate struct {
	Label  string // "H-2"
	IAK    []byte // TPMT_PUBLIC of the initial attestation key, which is restricted
	IDevID []byte // TPMT_PUBLIC of the initial device identity, which signs anything

	bits, curve uint16 // of both
}

const (
	attrIDevID = attrResident | attrUserWithAuth | attrAdminWithPolicy | attrSign
	attrIAK    = attrIDevID | attrRestricted

	// The policies of that specification's table 19.
	policyIAKSHA256    = "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07"
	policyIAKSHA384    = "129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce4d826f749fcf672f51716c5cbb605f313bf345aab312"
	policyIDevIDSHA256 = "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea"
	policyIDevIDSHA384 = "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33"
)

var deviceTemplates = []struct {
	label       string
	iak, idevid Public
}{
	{"H-2", Public{typ: algECC, nameAlg: AlgSHA256, attrs: attrIAK, policy: unhex(policyIAKSHA256), scheme: algECDSA, hash: AlgSHA256, curve: curveP256},
		Public{typ: algECC, nameAlg: AlgSHA256, attrs: attrIDevID, policy: unhex(policyIDevIDSHA256), scheme: algECDSA, hash: AlgSHA256, curve: curveP256}},
	{"H-3", Public{typ: algECC, nameAlg: AlgSHA384, attrs: attrIAK, policy: unhex(policyIAKSHA384), scheme: algECDSA, hash: AlgSHA384, curve: curveP384},
		Public{typ: algECC, nameAlg: AlgSHA384, attrs: attrIDevID, policy: unhex(policyIDevIDSHA384), scheme: algECDSA, hash: AlgSHA384, curve: curveP384}},
	{"H-1", Public{typ: algRSA, nameAlg: AlgSHA256, attrs: attrIAK, policy: unhex(policyIAKSHA256), scheme: algRSAPSS, hash: AlgSHA256, bits: 2048},
		Public{typ: algRSA, nameAlg: AlgSHA256, attrs: attrIDevID, policy: unhex(policyIDevIDSHA256), bits: 2048}},
}

// DeviceTemplates returns the templates of device keys that Writ knows, in the
// order of preference: P-256, P-384, RSA-2048.
func DeviceTemplates() []DeviceTemplate {
	out := make([]DeviceTemplate, 0, len(deviceTemplates))
	for _, t := range deviceTemplates {
		out = append(out, DeviceTemplate{Label: t.label, IAK: t.iak.deriving("IAK"), IDevID: t.idevid.deriving("IDEVID"), bits: t.iak.bits, curve: t.iak.curve})
	}
	return out
}

// deriving is the template with unique in place of the key.
func (p *Public) deriving(unique string) []byte {
	b := appendSized(p.appendParameters(nil), []byte(unique))
	if p.typ == algECC {
		b = appendSized(b, []byte(unique))
	}
	return b
}

// Fits tells whether key could be one that t derives: its algorithm and size are
// the template's.
func (t *DeviceTemplate) Fits(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() == int(t.bits)
	case *ecdsa.PublicKey:
		return t.curve == curveP256 && k.Curve == elliptic.P256() || t.curve == curveP384 && k.Curve == elliptic.P384()
	}
	return false
}

// CheckIAK tells whether iak is the key that certificate was issued for and its
// public area equals the template of an IAK ([DeviceTemplates]) apart from the
// key. The certificate speaks of the key alone: that the TPM restricts it is
// what its issuer says, see [CheckDevice].
func CheckIAK(iak *Public, certificate []byte) error {
	got := string(iak.appendParameters(nil))
	known := false
	for _, t := range deviceTemplates {
		known = known || got == string(t.iak.appendParameters(nil))
	}
	if !known {
		return errors.New("checking IAK: public area equals no template of an IAK (H-1, H-2, H-3) apart from the key")
	}
	c, err := ParseCertificate(certificate)
	if err != nil {
		return fmt.Errorf("checking IAK: reading its certificate: %w", err)
	}
	if key, ok := iak.key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(c.PublicKey) {
		return errors.New("checking IAK: the certificate was issued for another key")
	}
	return nil
}

// CertifyBinding is the extraData that an IAK certifies the attestation key
// with that name for a domain with: SHA-256("writ-iak-v1" 0 domain 0 name).
func CertifyBinding(domain string, akName []byte) []byte {
	sum := sha256.Sum256(append([]byte("writ-iak-v1\x00"+domain+"\x00"), akName...))
	return sum[:]
}

// CheckCertify tells whether attest and sig are a TPM2_Certify in which iak, a
// primary of the endorsement hierarchy as [CheckIAK] accepts it, says that ak
// lives beside it, as another such primary, for that domain. No nonce is needed:
// ak can never leave that TPM, so what was true once stays true.
func CheckCertify(iak, ak *Public, domain string, attest, sig []byte) error {
	c, err := iak.VerifyCertify(attest, sig)
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(c.Signer, iak.endorsementName()):
		return fmt.Errorf("checking certification: qualified signer %x is not the IAK as a primary of the endorsement hierarchy", c.Signer)
	case !bytes.Equal(c.ExtraData, CertifyBinding(domain, ak.name)):
		return errors.New("checking certification: it was made for another domain or attestation key")
	case !bytes.Equal(c.Name, ak.name):
		return fmt.Errorf("checking certification: it speaks of the key %x, not of the attestation key %x", c.Name, ak.name)
	case !bytes.Equal(c.QualifiedName, ak.endorsementName()):
		return errors.New("checking certification: the attestation key is no primary of the endorsement hierarchy")
	}
	return nil
}
