package tpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"math/big"
	"testing"
)

// TestSignatureEncoding: R and S are read as the numbers they are, whatever zeros
// a TPM puts before them, and none that is no signature is taken for one.
func TestSignatureEncoding(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		size := (curve.Params().BitSize + 7) / 8
		sum := sha256.Sum256([]byte(curve.Params().Name))
		for range 100 { // half of the numbers begin with a set bit, a few with a zero byte
			r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			for name, sig := range map[string]*signature{"shortest": {r: r.Bytes(), s: s.Bytes()}, "padded": {r: r.FillBytes(make([]byte, size)), s: s.FillBytes(make([]byte, size))}} {
				if !ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig.appendDER(nil)) {
					t.Fatalf("%s, %s: %x %x is refused", curve.Params().Name, name, sig.r, sig.s)
				}
			}
		}
		zero, full := make([]byte, size), curve.Params().N.Bytes()
		one := big.NewInt(1).FillBytes(make([]byte, size))
		for _, sig := range []*signature{{r: zero, s: one}, {r: one, s: zero}, {r: nil, s: nil}, {r: full, s: one}, {r: one, s: full}, {r: zero, s: zero}} {
			if ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig.appendDER(nil)) {
				t.Errorf("%s: %x %x is taken for a signature", curve.Params().Name, sig.r, sig.s)
			}
		}
	}
}
