package device_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// enrol does what a verifier does: check the certificate, then let the TPM prove
// that it holds both keys.
func enrol(t testing.TB, dev *device.TPM, ek device.EK, ak *device.AK, p *tpm.Public, ca *swtpm.CA) {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range ek.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	cert, err := tpm.CheckEKCertificate(ek.Certificate, []*x509.Certificate{ca.Root()}, chain, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.CheckEK(ek.Public, cert); err != nil {
		t.Fatal(err)
	}
	activate(t, dev, ek, ak, p.Name())
}

func activate(t testing.TB, dev *device.TPM, ek device.EK, ak *device.AK, name []byte) {
	t.Helper()
	secret := make([]byte, 32)
	rand.Read(secret)
	blob, enc, err := tpm.MakeCredential(rand.Reader, ek.Public, name, secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := dev.Activate(ak, ek, blob, enc)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, secret) {
		t.Fatalf("secret %x, want %x", got, secret)
	}
}
