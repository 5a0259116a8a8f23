package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}           // tcg-kp-EKCertificate
	oidRSAESOAEP      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7} // RFC 4055, 4.1

	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// CheckEKCertificate reads an EK certificate in DER and tells whether at the time
// at it chains to one of roots, by way of intermediates, and has the form of
// the TCG EK Credential Profile: extended key usage 2.23.133.8.1, a subject
// alternative name that names the TPM's maker, not a CA, a key of RSA-2048,
// RSA-3072, P-256 or P-384. Nothing else is trusted: no roots, or a zero at, is an error,
// never the system's roots or the present.
//
// The certificate says nothing of who sent it: see [CheckEK] and [MakeCredential].
func CheckEKCertificate(der []byte, roots, intermediates []*x509.Certificate, at time.Time) (*x509.Certificate, error) {
	chain, err := EKChain(der, roots, intermediates, at)
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

// EKChain is [CheckEKCertificate] that returns the whole chain, from the EK's
// certificate to a root. At every time within all of their validities the same
// chain holds, so the check need not be repeated there.
func EKChain(der []byte, roots, intermediates []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	c, err := ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("checking EK certificate: %w", err)
	}
	if err := checkEKForm(c); err != nil {
		return nil, fmt.Errorf("checking EK certificate of %q: %w", c.Subject, err)
	}
	chain, err := verifyChain(c, roots, intermediates, at)
	if err != nil {
		return nil, fmt.Errorf("checking EK certificate of %q, issued by %q: %w", c.Subject, c.Issuer, err)
	}
	return chain, nil
}

// checkEKForm checks what crypto/x509 does not know. It settles two things in c,
// which is ours: the critical extension it has handled, and an OAEP-only key.
func checkEKForm(c *x509.Certificate) error {
	if c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("it is a CA's certificate, not an EK's")
	}
	if !slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return errors.New("extended key usage 2.23.133.8.1 (EK certificate) is missing")
	}
	if manufacturer, _, _ := Vendor(c); manufacturer == "" {
		return errors.New("subject alternative name with a TPM manufacturer is missing")
	}
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	c.PublicKey = publicKey(c)
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n == 2048 || n == 3072 {
			return nil
		}
		return fmt.Errorf("RSA key of %d bits, want 2048 or 3072", k.N.BitLen())
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("key on curve %s, want P-256 or P-384", k.Curve.Params().Name)
	}
	return fmt.Errorf("key of an unknown kind (%s), want RSA-2048, RSA-3072, P-256 or P-384", c.PublicKeyAlgorithm)
}

func verifyChain(c *x509.Certificate, roots, intermediates []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	if at.IsZero() {
		return nil, errors.New("no time to check it at") // x509 would take the present
	}
	opts := x509.VerifyOptions{
		Roots:         x509.NewCertPool(), // never nil: x509 would take the system's
		Intermediates: x509.NewCertPool(),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // checked by us
	}
	for _, r := range roots {
		opts.Roots.AddCert(r)
	}
	for _, i := range intermediates {
		opts.Intermediates.AddCert(i)
	}
	chains, err := c.Verify(opts)
	if err != nil {
		return nil, err
	}
	// Of several chains the one that holds longest, whatever order they came in.
	return slices.MaxFunc(chains, func(a, b []*x509.Certificate) int { return chainEnd(a).Compare(chainEnd(b)) }), nil
}

// chainEnd is the first moment at which a chain no longer holds.
func chainEnd(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, c := range chain {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// publicKey returns c's key, also one that crypto/x509 does not read.
func publicKey(c *x509.Certificate) crypto.PublicKey {
	if c.PublicKey != nil {
		return c.PublicKey
	}
	return oaepKey(c.RawSubjectPublicKeyInfo)
}

// oaepKey returns the RSA key of a SubjectPublicKeyInfo that is marked as usable
// for OAEP only, which crypto/x509 leaves out; Infineon's certificates have it.
func oaepKey(spki []byte) crypto.PublicKey {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &info); err != nil || len(rest) > 0 || !info.Algorithm.Algorithm.Equal(oidRSAESOAEP) {
		return nil
	}
	key, err := x509.ParsePKCS1PublicKey(info.Key.RightAlign())
	if err != nil {
		return nil
	}
	return key
}

// Vendor returns what an EK certificate's subject alternative name says of the
// TPM: the manufacturer as its TCG vendor id ("IFX", or as written if it is not
// one), the model and the firmware version. They are empty unless that name
// consists of exactly one directoryName (EK Credential Profile, 3.2.9).
func Vendor(c *x509.Certificate) (manufacturer, model, version string) {
	for _, name := range directoryName(c) {
		for _, attr := range name { // some makers put all three in one set
			s, _ := attr.Value.(string)
			switch {
			case attr.Type.Equal(oidManufacturer):
				manufacturer = vendorID(s)
			case attr.Type.Equal(oidModel):
				model = s
			case attr.Type.Equal(oidVersion):
				version = s
			}
		}
	}
	return manufacturer, model, version
}

// directoryName returns the only name in c's subject alternative name if that is
// a directoryName, GeneralName [4] (RFC 5280, 4.2.1.6).
func directoryName(c *x509.Certificate) pkix.RDNSequence {
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if i < 0 {
		return nil
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(c.Extensions[i].Value, &names); err != nil || len(rest) > 0 || len(names) != 1 {
		return nil
	}
	if names[0].Class != asn1.ClassContextSpecific || names[0].Tag != 4 {
		return nil
	}
	var rdn pkix.RDNSequence
	if rest, err := asn1.Unmarshal(names[0].Bytes, &rdn); err != nil || len(rest) > 0 {
		return nil
	}
	return rdn
}

// CheckEK tells whether ek is the key that certificate was issued for and its
// public area equals a default template ([EKTemplates]) apart from the key.
// Without that a node could give its key any number of [NodeID]s, as neither
// certificate nor activation covers the rest of the public area. Two templates
// of the same kind (L-2 and H-2, L-1 and H-1) still give two: what must be unique
// is the certified key.
func CheckEK(ek *Public, certificate *x509.Certificate) error {
	if err := CheckBareEK(ek); err != nil {
		return err
	}
	key, ok := ek.key.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || certificate == nil || !key.Equal(publicKey(certificate)) {
		return errors.New("checking EK: the certificate was issued for another key")
	}
	return nil
}

// CheckBareEK is what can be checked of an EK without a certificate: its public
// area equals a default template apart from the key. Nobody vouches for it.
func CheckBareEK(ek *Public) error {
	if _, err := ek.template(); err != nil {
		return fmt.Errorf("checking EK: %w", err)
	}
	return nil
}

// TrimCertificate cuts what TPM makers leave around a certificate in NV: the
// header of old profiles (TCG PC Client Specific Implementation 7.3.2: 10 01 00
// and the length) and padding behind the DER.
func TrimCertificate(nv []byte) []byte {
	if bytes.HasPrefix(nv, []byte{0x10, 0x01, 0x00}) && len(nv) > 5 {
		nv = nv[5:]
	}
	var raw asn1.RawValue
	rest, err := asn1.Unmarshal(nv, &raw)
	if err != nil {
		return nv
	}
	return nv[:len(nv)-len(rest)]
}
