package token_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/writ-attestation/writ/verifier/token"
)

// BenchmarkBareSign and BenchmarkBareVerify are the P-256 operations that no
// token can do without.
func BenchmarkBareSign(b *testing.B) {
	key, sum := newKey(b), sha256.Sum256([]byte("token"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBareVerify(b *testing.B) {
	key, sum := newKey(b), sha256.Sum256([]byte("token"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig) {
			b.Fatal("not verified")
		}
	}
}

func BenchmarkTokenIssue(b *testing.B) {
	key, c := newKey(b), good()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := token.Issue(c, key, rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTokenVerify(b *testing.B) {
	key := newKey(b)
	keys, tok := keysOf(b, key), issue(b, good(), key)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := token.Verify(tok, keys, want, at); err != nil {
			b.Fatal(err)
		}
	}
}
