package tpm

import (
	"crypto/x509"
	"encoding/asn1"
)

// ParseCertificate is [x509.ParseCertificate] that also reads certificates whose
// serial number is negative or not in DER, as some TPM makers have issued them.
// The serial decides nothing here; Raw and what the signature covers stay as
// they were issued, and SerialNumber is nil in such a certificate.
func ParseCertificate(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err == nil {
		return c, nil
	}
	at, tbs := serialOf(der)
	if at == 0 || (der[at] < 0x80 && der[at] != 0) {
		return nil, err
	}
	readable := append([]byte(nil), der...)
	readable[at] = 0x7f // positive and minimal, of the same length
	c, again := x509.ParseCertificate(readable)
	if again != nil {
		return nil, err
	}
	c.Raw, c.RawTBSCertificate, c.SerialNumber = append([]byte(nil), der...), append([]byte(nil), tbs...), nil
	return c, nil
}

// serialOf returns the offset of a certificate's serial number and the part that
// is signed (RFC 5280, 4.1); 0 if there is none or it is empty.
func serialOf(der []byte) (at int, tbs []byte) {
	var cert, signed, version, serial asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &cert); err != nil || len(rest) > 0 {
		return 0, nil
	}
	after, err := asn1.Unmarshal(cert.Bytes, &signed)
	if err != nil {
		return 0, nil
	}
	rest, err := asn1.Unmarshal(signed.Bytes, &version)
	if err != nil || version.Class != asn1.ClassContextSpecific || version.Tag != 0 {
		return 0, nil
	}
	rest, err = asn1.Unmarshal(rest, &serial)
	if err != nil || serial.Tag != asn1.TagInteger || len(serial.Bytes) == 0 {
		return 0, nil
	}
	return len(der) - len(after) - len(rest) - len(serial.Bytes), signed.FullBytes
}
