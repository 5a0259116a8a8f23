package ima_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
)

func publicPEM(t testing.TB, k crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func TestSignature(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("#!/bin/sh\n"))
	for name, signer := range map[string]crypto.Signer{"RSA": rsaKey, "ECDSA": ecKey} {
		t.Run(name, func(t *testing.T) {
			value, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			k, err := ima.ParseKey(publicPEM(t, signer.Public()))
			if err != nil {
				t.Fatal(err)
			}
			raw := (&ima.Signature{Alg: tpm.AlgSHA256, KeyID: k.IDs[0], Value: value}).Marshal()
			s, err := ima.ParseSignature(raw)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(k.IDs, s.KeyID) || !s.Verify(k.Public, tpm.AlgSHA256, sum[:]) {
				t.Error("a good signature does not verify")
			}
			other := sha256.Sum256([]byte("another file"))
			if s.Verify(k.Public, tpm.AlgSHA256, other[:]) {
				t.Error("the signature verifies for another file")
			}
			if s.Verify(k.Public, tpm.AlgSHA3256, sum[:]) {
				t.Error("the signature verifies for a digest by another hash")
			}
		})
	}
}

// TestSignatureOfAnotherKind: attributes that sign something else than a file's
// digest, or prove nothing, are not read as signatures.
func TestSignatureOfAnotherKind(t *testing.T) {
	good := []byte{3, 2, 4, 1, 2, 3, 4, 0, 2, 0xaa, 0xbb}
	if _, err := ima.ParseSignature(good); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":               {},
		"bare digest":         {1, 2, 4, 1, 2, 3, 4, 0, 2, 0xaa, 0xbb},
		"EVM portable":        {5, 2, 4, 1, 2, 3, 4, 0, 2, 0xaa, 0xbb},
		"fs-verity":           {6, 3, 4, 1, 2, 3, 4, 0, 2, 0xaa, 0xbb},
		"version 1":           {3, 1, 4, 1, 2, 3, 4, 0, 2, 0xaa, 0xbb},
		"SHA-1":               {3, 2, 2, 1, 2, 3, 4, 0, 2, 0xaa, 0xbb},
		"cut":                 good[:10],
		"bytes after the end": append(slices.Clone(good), 0),
		"no signature":        {3, 2, 4, 1, 2, 3, 4, 0, 0},
	} {
		if _, err := ima.ParseSignature(b); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestWeakFileSigner(t *testing.T) {
	small := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023), E: 65537}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"RSA of 1024 bits": publicPEM(t, small),
		"P-224":            publicPEM(t, p224.Public()),
		"two blocks":       publicPEM(t, p224.Public()) + publicPEM(t, p224.Public()),
		"no PEM":           "key",
	} {
		if _, err := ima.ParseKey(text); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func FuzzSignature(f *testing.F) {
	f.Add([]byte{3, 2, 4, 1, 2, 3, 4, 0, 2, 0xaa, 0xbb})
	f.Add([]byte{3, 2, 6, 0, 0, 0, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ima.ParseSignature(b); err == nil && !bytes.Equal(s.Marshal(), b) {
			t.Errorf("%x reads as %+v, which is %x", b, s, s.Marshal())
		}
	})
}

// TestPaddedBank: a kernel that extends the SHA-1 template hash into the SHA-256
// bank is recognised, and proves nothing.
func TestPaddedBank(t *testing.T) {
	raw := slices.Concat(record(10, "ima-sig", sig(digest, "boot_aggregate", "")), record(10, "ima-sig", sig(digest, "/bin/sh", "")))
	l, err := ima.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	pcr := make([]byte, 32)
	for i := range l.Entries {
		h := sha1.Sum(l.Entries[i].Data)
		sum := sha256.Sum256(append(pcr, append(h[:], make([]byte, 12)...)...))
		pcr = sum[:]
	}
	zeros := make([]byte, 32)
	if _, _, ok := l.Prefix(tpm.AlgSHA256, nil, pcr); ok {
		t.Error("a padded bank counts as proof")
	}
	if !l.Padded(tpm.AlgSHA256, zeros, pcr) {
		t.Error("the padded bank is not recognised")
	}
	if l.Padded(tpm.AlgSHA256, zeros, zeros[:31]) || l.Padded(tpm.AlgSHA1, zeros[:20], zeros[:20]) {
		t.Error("something else passes for a padded bank")
	}
}

func FuzzParseKey(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(publicPEM(f, key.Public()))
	f.Add("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ima.ParseKey(text); err == nil && (k.Public == nil || len(k.IDs) == 0) {
			t.Errorf("%q is a key that nothing can name: %+v", text, k)
		}
	})
}
