package swtpm

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// NV indices of the certificates of IDevID and IAK, as swtpm_setup has them for
// P-384. Readers find them by their keys.
const nvIDevID, nvIAK = 0x01c90011, 0x01c90019

// DeviceCertificates issues what a device's maker does for keys of a device: the
// certificate of an IAK and of an IDevID, DER.
func (ca *CA) DeviceCertificates(iak, idevid crypto.PublicKey, serial string, fault Fault) (iakDER, idevidDER []byte, err error) {
	attests, verified := pkix.Name{SerialNumber: serial}, asn1.ObjectIdentifier{2, 23, 133, 11, 1, 3} // tcg-cap-verifiedTPMRestricted
	signs := attests
	if fault == FaultSigns {
		verified = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 2} // tcg-cap-verifiedTPMFixed
	}
	if fault == FaultOtherDevice {
		signs.SerialNumber += "0"
	}
	if iakDER, err = ca.deviceCertificate(attests, verified, iak, fault); err != nil {
		return nil, nil, err
	}
	if fault == FaultOtherKey {
		fault = FaultNone // in one of them is enough
	}
	idevidDER, err = ca.deviceCertificate(signs, asn1.ObjectIdentifier{2, 23, 133, 11, 1, 2}, idevid, fault)
	return iakDER, idevidDER, err
}

func (ca *CA) deviceCertificate(subject pkix.Name, verified asn1.ObjectIdentifier, key crypto.PublicKey, fault Fault) ([]byte, error) {
	arcs := make([]uint64, len(verified))
	for i, n := range verified {
		arcs[i] = uint64(n)
	}
	policy, err := x509.OIDFromInts(arcs)
	if err != nil {
		return nil, err
	}
	return ca.issue(&x509.Certificate{
		Subject:               subject,
		NotBefore:             ca.from,
		NotAfter:              ca.until,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		Policies:              []x509.OID{policy},
	}, key, fault)
}

// installIAK writes certificates for the device keys of a template, the issuer's
// behind the IAK's. The keys themselves are derived when they are used.
func (i *Instance) installIAK(label string, ca *CA, fault Fault) error {
	templates := tpm.DeviceTemplates()
	at := slices.IndexFunc(templates, func(t tpm.DeviceTemplate) bool { return t.Label == label })
	if at < 0 {
		return errors.New("no such template")
	}
	var keys [2]crypto.PublicKey
	for n, template := range [][]byte{templates[at].IAK, templates[at].IDevID} {
		r, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](template),
		}.Execute(i)
		if err != nil {
			return err
		}
		public, err := tpm.ParsePublic(r.OutPublic.Bytes())
		if err != nil {
			return err
		}
		if _, err := (tpm2.FlushContext{FlushHandle: r.ObjectHandle}).Execute(i); err != nil {
			return err
		}
		keys[n] = public.Key()
	}
	serial := ca.devices.Add(1)
	iak, idevid, err := ca.DeviceCertificates(keys[0], keys[1], fmt.Sprintf("W%06d", serial), fault)
	if err != nil {
		return err
	}
	if err := i.writeNV(nvIDevID, idevid); err != nil {
		return err
	}
	return i.writeNV(nvIAK, slices.Concat(iak, ca.issuer.Raw))
}
