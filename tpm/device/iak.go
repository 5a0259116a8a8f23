package device

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// IAK is a device's initial attestation key with the certificates of its maker.
// The certificates were issued for keys of this TPM; nothing else in them is
// checked here.
type IAK struct {
	Public      *tpm.Public
	Certificate []byte   // DER
	IDevID      []byte   // DER: the certificate of the device's other key; nil if there is none
	Chain       [][]byte // the other certificates that were found, DER: issuers

	template []byte
}

// NV indices reserved for the certificates of IDevID and IAK. Makers differ in
// which holds what, so all are read and the keys decide.
const (
	nvDeviceFirst, nvDeviceLast = tpm2.TPMHandle(0x01c90000), tpm2.TPMHandle(0x01c901ff)

	maxDeviceIndices = 32 // with a certificate, or several, in each
)

// IAK returns the first key of [tpm.DeviceTemplates] that a certificate in NV, or
// one of more (DER), was issued for. It is nil if there is none.
func (t *TPM) IAK(more ...[]byte) (*IAK, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	iak, err := t.readIAK(more)
	if err != nil {
		return nil, fmt.Errorf("reading the device's attestation key: %w", err)
	}
	return iak, nil
}

func (t *TPM) readIAK(more [][]byte) (*IAK, error) {
	given := slices.Clone(more)
	indices, err := t.handles(nvDeviceFirst, nvDeviceLast)
	if err != nil {
		return nil, err
	}
	for _, index := range indices[:min(len(indices), maxDeviceIndices)] {
		// What may not be read, or holds anything else, is not for us.
		if nv, err := t.readNV(index); err == nil {
			given = append(given, certificates(nv)...)
		}
	}
	var iak *IAK
	for _, template := range tpm.DeviceTemplates() {
		public, der, err := t.certified(template, template.IAK, given)
		if err != nil {
			return nil, fmt.Errorf("IAK of template %s: %w", template.Label, err)
		}
		if der != nil {
			iak = &IAK{Public: public, Certificate: der, template: template.IAK}
			break
		}
	}
	if iak == nil {
		return nil, nil
	}
	for _, template := range tpm.DeviceTemplates() {
		if _, iak.IDevID, err = t.certified(template, template.IDevID, given); err != nil {
			return nil, fmt.Errorf("IDevID of template %s: %w", template.Label, err)
		}
		if iak.IDevID != nil {
			break
		}
	}
	for _, der := range given {
		if c, err := tpm.ParseCertificate(der); err == nil && c.IsCA {
			iak.Chain = append(iak.Chain, der)
		}
	}
	return iak, nil
}

// certified derives a key of a template, if there is a certificate for a key of
// its kind, and returns it with the one that was issued for it.
func (t *TPM) certified(of tpm.DeviceTemplate, template []byte, given [][]byte) (*tpm.Public, []byte, error) {
	var candidates []*x509.Certificate
	for _, der := range given {
		if c, err := tpm.ParseCertificate(der); err == nil && !c.IsCA && of.Fits(c.PublicKey) {
			candidates = append(candidates, c)
		}
	}
	if len(candidates) == 0 {
		return nil, nil, nil // deriving an RSA key can take a minute
	}
	r, err := t.createPrimary(template)
	if err != nil {
		return nil, nil, err
	}
	public, err := tpm.ParsePublic(r.OutPublic.Bytes())
	if err := errors.Join(err, t.flush(r.ObjectHandle)); err != nil {
		return nil, nil, err
	}
	key := public.Key().(interface{ Equal(crypto.PublicKey) bool }) // as every key of crypto
	for _, c := range candidates {
		if key.Equal(c.PublicKey) {
			return public, c.Raw, nil
		}
	}
	return nil, nil, nil
}

// Certify has the TPM say, signed by iak, that ak is loaded in it
// (TPM2_Certify), with extraData of up to 64 bytes. It returns a TPMS_ATTEST and
// a TPMT_SIGNATURE; see [tpm.CheckCertify].
func (t *TPM) Certify(iak *IAK, ak *AK, extraData []byte) (attest, sig []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	attest, sig, err = t.certify(iak, ak, extraData)
	if err != nil {
		return nil, nil, fmt.Errorf("certifying the attestation key: %w", err)
	}
	return attest, sig, nil
}

func (t *TPM) certify(iak *IAK, ak *AK, extraData []byte) (attest, sig []byte, err error) {
	object, err := ak.auth()
	if err != nil {
		return nil, nil, err
	}
	signer, err := t.createPrimary(iak.template)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, t.flush(signer.ObjectHandle)) }()
	r, err := tpm2.Certify{
		ObjectHandle:   object,
		SignHandle:     tpm2.AuthHandle{Handle: signer.ObjectHandle, Name: signer.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: extraData},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(sender{t})
	if err != nil {
		return nil, nil, explain(err)
	}
	return r.CertifyInfo.Bytes(), tpm2.Marshal(r.Signature), nil
}
