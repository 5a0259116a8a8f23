package tpm_test

import (
	"bytes"
	"testing"

	"github.com/writ-attestation/writ/tpm"
)

func FuzzCertify(f *testing.F) {
	c := tpm.Certified{Signer: []byte{0, 0x0b, 1}, ExtraData: []byte("x"), Clock: 1, ResetCount: 2, RestartCount: 3, Safe: true, Firmware: 4, Name: []byte{5}, QualifiedName: []byte{6}}
	f.Add(c.Marshal())
	f.Add([]byte{0xff, 0x54, 0x43, 0x47, 0x80, 0x18})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := tpm.ParseCertify(b)
		if err == nil && !bytes.Equal(c.Marshal(), b) {
			t.Errorf("%x is parsed to %+v and written as %x", b, c, c.Marshal())
		}
	})
}

// TestQuoteAsCertification: one kind of statement never stands for another.
func TestQuoteAsCertification(t *testing.T) {
	for _, dir := range bootDirs(t) {
		if _, err := tpm.ParseCertify(read(t, dir, "quote.bin")); err == nil {
			t.Errorf("%s: a quote is taken for a certification", dir)
		}
	}
}
