// Package tpm reads TPM 2.0 structures and checks what a TPM signed: quotes,
// key names, public areas and EK certificates.
//
// It is pure: bytes and a time in, values out. Field layouts are those of TPM
// 2.0 Library Specification Part 2 ("Structures").
package tpm

import (
	"crypto"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"strings"
)

// Alg is a TPM_ALG_ID (TCG Algorithm Registry, table 3) of a hash algorithm.
// The zero value names no algorithm.
type Alg uint16

// The hash algorithms that PCR banks are seen with.
const (
	AlgSHA1    Alg = 0x0004
	AlgSHA256  Alg = 0x000B
	AlgSHA384  Alg = 0x000C
	AlgSHA512  Alg = 0x000D
	AlgSM3     Alg = 0x0012
	AlgSHA3256 Alg = 0x0027
	AlgSHA3384 Alg = 0x0028
	AlgSHA3512 Alg = 0x0029
)

var algs = []struct {
	alg  Alg
	name string
	size int
	hash crypto.Hash // 0: known by size only, cannot be computed here
}{
	{AlgSHA1, "sha1", 20, crypto.SHA1},
	{AlgSHA256, "sha256", 32, crypto.SHA256},
	{AlgSHA384, "sha384", 48, crypto.SHA384},
	{AlgSHA512, "sha512", 64, crypto.SHA512},
	{AlgSM3, "sm3_256", 32, 0},
	{AlgSHA3256, "sha3_256", 32, 0},
	{AlgSHA3384, "sha3_384", 48, 0},
	{AlgSHA3512, "sha3_512", 64, 0},
}

// String returns the name tpm2-tools and IMA use ("sha256"), or the number in
// hexadecimal ("alg-0x1234") for one it does not know.
func (a Alg) String() string {
	for _, k := range algs {
		if k.alg == a {
			return k.name
		}
	}
	return fmt.Sprintf("alg-0x%04x", uint16(a))
}

// Size returns the length of a digest in bytes, 0 for an unknown algorithm.
func (a Alg) Size() int {
	for _, k := range algs {
		if k.alg == a {
			return k.size
		}
	}
	return 0
}

// AppendSum appends the digest of data to dst, without allocating where dst has
// room; ok is false, and dst unchanged, when this build cannot compute it.
func (a Alg) AppendSum(dst, data []byte) (sum []byte, ok bool) {
	switch a {
	case AlgSHA1:
		d := sha1.Sum(data)
		return append(dst, d[:]...), true
	case AlgSHA256:
		d := sha256.Sum256(data)
		return append(dst, d[:]...), true
	case AlgSHA384:
		d := sha512.Sum384(data)
		return append(dst, d[:]...), true
	case AlgSHA512:
		d := sha512.Sum512(data)
		return append(dst, d[:]...), true
	}
	return dst, false
}

// Hash returns the function that computes digests of a, and false when this
// build cannot compute them.
func (a Alg) Hash() (crypto.Hash, bool) {
	for _, k := range algs {
		if k.alg == a {
			return k.hash, k.hash != 0
		}
	}
	return 0, false
}

// ParseAlg is the inverse of [Alg.String] for the algorithms it knows.
func ParseAlg(name string) (Alg, error) {
	for _, k := range algs {
		if strings.EqualFold(k.name, name) {
			return k.alg, nil
		}
	}
	return 0, fmt.Errorf("unknown hash algorithm %q", name)
}
