package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
)

// withSerial puts another serial number of the same length into a certificate
// and signs it again, as a maker did that knew no better.
func withSerial(t *testing.T, m *maker, der, was, serial []byte) []byte {
	t.Helper()
	var cert struct {
		TBS asn1.RawValue
		Alg pkix.AlgorithmIdentifier
		Sig asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		t.Fatal(err)
	}
	tbs := bytes.Replace(cert.TBS.FullBytes, was, serial, 1)
	if bytes.Equal(tbs, cert.TBS.FullBytes) {
		t.Fatal("the serial was not found")
	}
	sum := sha256.Sum256(tbs)
	sig, err := ecdsa.SignASN1(rand.Reader, m.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	cert.TBS.FullBytes, cert.Sig = tbs, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}
	if der, err = asn1.Marshal(cert); err != nil {
		t.Fatal(err)
	}
	return der
}

// TestSerialNumbersOfEveryForm: makers issued certificates with negative, zero,
// long and padded serial numbers. They are read, and what was signed is
// checked as it was issued.
func TestSerialNumbersOfEveryForm(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	issued := []byte("serial-of-24-bytes-long!")
	der := m.issue(t, func(c *x509.Certificate) { c.SerialNumber = new(big.Int).SetBytes(issued) })
	for name, first := range map[string][]byte{"negative": {0x80, 0x01}, "padded with zeros": {0, 0}, "padded with ones": {0xff, 0xff}, "long": []byte("se")} {
		serial := append(bytes.Clone(first), issued[2:]...)
		odd := der
		if name != "long" {
			odd = withSerial(t, m, der, issued, serial)
			if _, err := x509.ParseCertificate(odd); err == nil {
				t.Errorf("%s: crypto/x509 reads it; the exception can go", name)
			}
		}
		c, err := tpm.CheckEKCertificate(odd, m.roots(), nil, at)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(c.Raw, odd) {
			t.Errorf("%s: Raw is not what was issued", name)
		}
		forged := bytes.Replace(odd, issued[2:], []byte("FORGED-24-bytes-long!!!!")[:len(issued)-2], 1)
		if _, err := tpm.CheckEKCertificate(forged, m.roots(), nil, at); err == nil {
			t.Errorf("%s: accepted with another serial than was signed", name)
		}
	}
	zero := m.issue(t, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) })
	zero = withSerial(t, m, zero, []byte{2, 1, 1, 0x30}, []byte{2, 1, 0, 0x30})
	if _, err := tpm.CheckEKCertificate(zero, m.roots(), nil, at); err != nil {
		t.Errorf("zero: %v", err)
	}
}

func FuzzParseCertificate(f *testing.F) {
	f.Add(read(f, boots, "c-grub-sb", "ek_cert_rsa2048.der"))
	f.Add([]byte(strings.Repeat("\x30\x03\x02\x01\x80", 3)))
	f.Fuzz(func(t *testing.T, der []byte) {
		if c, err := tpm.ParseCertificate(der); err == nil && !bytes.Equal(c.Raw, der) {
			t.Fatalf("Raw %x of %x", c.Raw, der)
		}
	})
}
