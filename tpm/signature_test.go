package tpm_test

import (
	"bytes"
	"testing"

	"github.com/writ-attestation/writ/tpm"
)

func TestMalformedSignatures(t *testing.T) {
	t.Parallel()
	dir := boots + "/c-grub-sb"
	ecc, rsa := public(t, read(t, dir, "ak_pub_ecc.bin")), public(t, read(t, dir, "ak_pub.bin"))
	eccQuote, rsaQuote := read(t, dir, "quote_ecc.bin"), read(t, dir, "quote.bin")
	eccSig, rsaSig := read(t, dir, "sig_ecc.bin"), read(t, dir, "sig.bin")
	patch := func(b []byte, at int, with ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], with)
		return b
	}
	zero := append(append([]byte{0, 0x18, 0, 0x0b, 0, 32}, make([]byte, 32)...), append([]byte{0, 32}, make([]byte, 32)...)...)
	for _, c := range []struct {
		name   string
		key    *tpm.Public
		attest []byte
		sig    []byte
		want   string
	}{
		{"empty", ecc, eccQuote, nil, "reading signature scheme"},
		{"null scheme", ecc, eccQuote, []byte{0, 0x10}, "scheme 0x0010"},
		{"HMAC", ecc, eccQuote, patch(eccSig, 0, 0, 5), "scheme 0x0005"},
		{"RSA-PSS", rsa, rsaQuote, patch(rsaSig, 0, 0, 0x16), "scheme 0x0016"},
		{"SHA-1", rsa, rsaQuote, patch(rsaSig, 2, 0, 4), "hash sha1"},
		{"SHA-384", ecc, eccQuote, patch(eccSig, 2, 0, 0x0c), "hash sha384"},
		{"RSA-1024", rsa, rsaQuote, append([]byte{0, 0x14, 0, 0x0b, 0, 128}, make([]byte, 128)...), "128 bytes, want 256"},
		{"long R", ecc, eccQuote, append([]byte{0, 0x18, 0, 0x0b, 0, 33}, append(make([]byte, 33), append([]byte{0, 32}, make([]byte, 32)...)...)...), "at most 32"},
		{"longer R", ecc, eccQuote, append([]byte{0, 0x18, 0, 0x0b, 0, 49}, make([]byte, 99)...), "at most 48"},
		{"trailing byte", ecc, eccQuote, append(bytes.Clone(eccSig), 0), "1 bytes after the end"},
		{"RSA for ECC", ecc, eccQuote, rsaSig, "RSA signature for an ECC key"},
		{"ECC for RSA", rsa, rsaQuote, eccSig, "ECDSA signature for an RSA key"},
		{"zero R and S", ecc, eccQuote, zero, "does not match"},
		{"changed S", ecc, eccQuote, patch(eccSig, 71, eccSig[71]^1), "does not match"},
		{"changed RSA", rsa, rsaQuote, patch(rsaSig, 100, rsaSig[100]^1), "does not match"},
		{"another quote", rsa, eccQuote, rsaSig, "does not match"},
	} {
		_, err := c.key.VerifyQuote(c.attest, c.sig)
		t.Run(c.name, func(t *testing.T) { wantError(t, err, c.want) })
	}
}

// FuzzVerifyQuote: no bytes but the recorded ones pass, whatever their form.
func FuzzVerifyQuote(f *testing.F) {
	dir := boots + "/c-grub-sb"
	ecc, rsa := public(f, read(f, dir, "ak_pub_ecc.bin")), public(f, read(f, dir, "ak_pub.bin"))
	eccQuote, rsaQuote := read(f, dir, "quote_ecc.bin"), read(f, dir, "quote.bin")
	f.Add(eccQuote, read(f, dir, "sig_ecc.bin"))
	f.Add(rsaQuote, read(f, dir, "sig.bin"))
	f.Fuzz(func(t *testing.T, attest, sig []byte) {
		if _, err := ecc.VerifyQuote(attest, sig); err == nil && !bytes.Equal(attest, eccQuote) {
			t.Fatalf("forged quote %x %x", attest, sig)
		}
		if _, err := rsa.VerifyQuote(attest, sig); err == nil && !bytes.Equal(attest, rsaQuote) && !bytes.Equal(attest, read(t, dir, "quote_sha1.bin")) {
			t.Fatalf("forged quote %x %x", attest, sig)
		}
	})
}
