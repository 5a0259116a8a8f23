package tpm

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

var (
	oidAIKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 3}     // tcg-kp-AIKCertificate
	oidRestrictedInTPM = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 3} // tcg-cap-verifiedTPMRestricted
)

// Device is what the maker of a device says of it in the certificates of its
// IAK and IDevID (IEEE 802.1AR; TCG TPM 2.0 Keys for Device Identity and
// Attestation, 8).
type Device struct {
	Maker  string // organisation of the certificates' issuers
	Serial string // the subjects' serialNumber
	// The chains of the two certificates, each from the device's to a root.
	IAK, IDevID []*x509.Certificate
}

// CheckDevice reads the certificates of a device's IAK and IDevID in DER and
// tells whether at the time at both chain to one of roots, by way of
// intermediates, are a device's (not a CA's, for signing), name the same
// device of the same maker, and are for two keys.
//
// The IAK's must say that its TPM restricts the key (extended key usage
// 2.23.133.8.3 or policy 2.23.133.11.1.3): an IDevID signs whatever it is given,
// a forged certification too. Nothing else is trusted: no roots, or a zero at, is an error.
func CheckDevice(iak, idevid []byte, roots, intermediates []*x509.Certificate, at time.Time) (*Device, error) {
	a, err := deviceChain(iak, roots, intermediates, at)
	if err != nil {
		return nil, fmt.Errorf("checking IAK certificate: %w", err)
	}
	if !restrictedInTPM(a[0]) {
		return nil, errors.New("checking IAK certificate: neither extended key usage 2.23.133.8.3 nor policy 2.23.133.11.1.3 says that the key attests, so it may sign anything")
	}
	b, err := deviceChain(idevid, roots, intermediates, at)
	if err != nil {
		return nil, fmt.Errorf("checking IDevID certificate: %w", err)
	}
	d := &Device{Maker: DeviceMaker(a[0]), Serial: a[0].Subject.SerialNumber, IAK: a, IDevID: b}
	if got := b[0].Subject.SerialNumber; got != d.Serial || DeviceMaker(b[0]) != d.Maker {
		return nil, fmt.Errorf("checking IDevID certificate: it is of device %.64q of %.64q, the IAK's of %.64q of %.64q", got, DeviceMaker(b[0]), d.Serial, d.Maker)
	}
	if slices.Equal(a[0].RawSubjectPublicKeyInfo, b[0].RawSubjectPublicKeyInfo) {
		return nil, errors.New("checking IDevID certificate: it was issued for the IAK")
	}
	return d, nil
}

func deviceChain(der []byte, roots, intermediates []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	c, err := ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	switch {
	case c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return nil, errors.New("it is a CA's certificate, not a device's")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, errors.New("key usage digitalSignature is missing")
	case c.Subject.SerialNumber == "":
		return nil, errors.New("the subject has no serialNumber: it names no device")
	case DeviceMaker(c) == "":
		return nil, errors.New("the issuer has not one organisation: it names no maker")
	}
	// A hardwareModuleName, which is the same device again.
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	return verifyChain(c, roots, intermediates, at)
}

func restrictedInTPM(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.UnknownExtKeyUsage, oidAIKCertificate.Equal) ||
		slices.ContainsFunc(c.Policies, func(p x509.OID) bool { return p.EqualASN1OID(oidRestrictedInTPM) })
}

// DeviceMaker is the organisation that issued c, empty unless there is exactly one.
func DeviceMaker(c *x509.Certificate) string {
	if len(c.Issuer.Organization) != 1 {
		return ""
	}
	return c.Issuer.Organization[0]
}
