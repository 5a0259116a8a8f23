package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
)

// Bits of TPMA_OBJECT (Part 2, 8.3).
const (
	attrFixedTPM            = 1 << 1
	attrFixedParent         = 1 << 4
	attrSensitiveDataOrigin = 1 << 5
	attrUserWithAuth        = 1 << 6
	attrAdminWithPolicy     = 1 << 7
	attrNoDA                = 1 << 10
	attrRestricted          = 1 << 16
	attrDecrypt             = 1 << 17
	attrSign                = 1 << 18

	// attrResident: made inside this TPM, cannot leave it.
	attrResident = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin
)

// Public is the public area of a TPM key, TPMT_PUBLIC (Part 2, 12.2.4): RSA
// with 2048 or 3072 bits, or ECC over P-256 or P-384. [ParsePublic] makes it and it
// does not change afterwards; the zero value is no key and every check refuses
// it.
type Public struct {
	typ     uint16 // algRSA or algECC
	nameAlg Alg
	attrs   uint32
	policy  []byte // authPolicy digest, may be empty
	aesBits uint16 // AES-CFB key bits of a storage key, 0 for none
	scheme  uint16 // algRSASSA, algRSAPSS or algECDSA; 0 for none
	hash    Alg    // of the scheme: SHA-256 or SHA-384
	bits    uint16 // RSA: 2048 or 3072
	exp     uint32 // RSA exponent as written: 0 stands for 65537
	curve   uint16
	n       []byte // RSA modulus
	x, y    []byte // ECC point, each of the curve's size

	key  crypto.PublicKey
	name []byte
}

// ParsePublic reads a TPMT_PUBLIC (not a TPM2B_PUBLIC, which has two bytes of
// size before it). Other kinds of key, a point off the curve and trailing bytes
// are refused, saying what was found.
func ParsePublic(b []byte) (*Public, error) {
	r := &reader{b: bytes.Clone(b)}
	p := &Public{typ: r.u16("key type"), nameAlg: Alg(r.u16("nameAlg"))}
	if r.err == nil && p.typ != algRSA && p.typ != algECC {
		r.fail("key type 0x%04x, want RSA (0x0001) or ECC (0x0023)", p.typ)
	}
	if r.err == nil && p.nameAlg != AlgSHA256 && p.nameAlg != AlgSHA384 {
		r.fail("nameAlg %s, want sha256 or sha384", p.nameAlg)
	}
	p.attrs = r.u32("objectAttributes")
	p.policy = r.sized(64, "authPolicy")
	if p.typ == algRSA {
		p.readRSA(r)
	} else {
		p.readECC(r)
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("parsing public area: %w", err)
	}
	hash, _ := p.nameAlg.Hash()
	p.name = binary.BigEndian.AppendUint16(nil, uint16(p.nameAlg))
	h := hash.New()
	h.Write(b)
	p.name = h.Sum(p.name)
	return p, nil
}

// readRSA reads TPMS_RSA_PARMS and the modulus (Part 2, 12.2.3.5, 11.2.4.5).
func (p *Public) readRSA(r *reader) {
	p.readSymmetric(r)
	p.readScheme(r, algRSASSA, algRSAPSS)
	if p.bits = r.u16("keyBits"); r.err == nil && p.bits != 2048 && p.bits != 3072 {
		r.fail("RSA key of %d bits, want 2048 or 3072", p.bits)
	}
	p.exp = r.u32("exponent")
	if p.exp != 0 && p.exp != 65537 {
		r.fail("RSA exponent %d, want 65537", p.exp)
	}
	size := int(p.bits) / 8
	p.n = r.sized(size, "RSA modulus")
	if r.err == nil && (len(p.n) != size || p.n[0] < 0x80 || p.n[size-1]&1 == 0) {
		r.fail("RSA modulus is not an odd number of %d bits", p.bits)
	}
	if r.err == nil {
		p.key = &rsa.PublicKey{N: new(big.Int).SetBytes(p.n), E: 65537}
	}
}

// readECC reads TPMS_ECC_PARMS and the point (Part 2, 12.2.3.6, 11.2.5.2). The
// coordinates must be padded (Part 1, C.8): a second encoding would give one
// key two names.
func (p *Public) readECC(r *reader) {
	p.readSymmetric(r)
	p.readScheme(r, algECDSA)
	p.curve = r.u16("curve")
	var curve elliptic.Curve
	switch p.curve {
	case curveP256:
		curve = elliptic.P256()
	case curveP384:
		curve = elliptic.P384()
	default:
		r.fail("curve 0x%04x, want P-256 (0x0003) or P-384 (0x0004)", p.curve)
		return
	}
	if kdf := r.u16("kdf scheme"); kdf != algNull {
		r.fail("key derivation scheme 0x%04x, want none (0x0010)", kdf)
	}
	size := (curve.Params().BitSize + 7) / 8
	p.x = r.sized(size, "ECC x")
	p.y = r.sized(size, "ECC y")
	if r.err == nil && (len(p.x) != size || len(p.y) != size) {
		r.fail("ECC coordinates of %d and %d bytes, want %d", len(p.x), len(p.y), size)
	}
	if r.err != nil {
		return
	}
	point := append(append([]byte{4}, p.x...), p.y...) // SEC 1, 2.3.3
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		r.fail("ECC point is not on curve %s", curve.Params().Name)
		return
	}
	p.key = key
}

// readSymmetric reads a TPMT_SYM_DEF_OBJECT (Part 2, 11.1.7): none or AES-CFB.
func (p *Public) readSymmetric(r *reader) {
	alg := r.u16("symmetric algorithm")
	if alg == algNull || r.err != nil {
		return
	}
	if alg != algAES {
		r.fail("symmetric algorithm 0x%04x, want AES (0x0006) or none (0x0010)", alg)
		return
	}
	p.aesBits = r.u16("symmetric keyBits")
	if r.err == nil && p.aesBits != 128 && p.aesBits != 256 {
		r.fail("AES key of %d bits, want 128 or 256", p.aesBits)
	}
	if mode := r.u16("symmetric mode"); r.err == nil && mode != algCFB {
		r.fail("symmetric mode 0x%04x, want CFB (0x0043)", mode)
	}
}

// readScheme reads a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME: none, or one of want
// with SHA-256 or SHA-384 (Part 2, 11.2.4.2 and 11.2.5.6).
func (p *Public) readScheme(r *reader, want ...uint16) {
	scheme := r.u16("scheme")
	if scheme == algNull || r.err != nil {
		return
	}
	if !slices.Contains(want, scheme) {
		r.fail("scheme 0x%04x, want %#04x or none (0x0010)", scheme, want)
		return
	}
	if p.hash = Alg(r.u16("scheme hash")); r.err == nil && p.hash != AlgSHA256 && p.hash != AlgSHA384 {
		r.fail("scheme with hash %s, want sha256 or sha384", p.hash)
	}
	p.scheme = scheme
}

// Marshal is the inverse of [ParsePublic].
func (p *Public) Marshal() []byte {
	b := p.appendParameters(make([]byte, 0, 320))
	if p.typ == algRSA {
		return appendSized(b, p.n)
	}
	return appendSized(appendSized(b, p.x), p.y)
}

// appendParameters appends all of the public area but unique, the key itself.
func (p *Public) appendParameters(b []byte) []byte {
	u16 := binary.BigEndian.AppendUint16
	b = u16(u16(b, p.typ), uint16(p.nameAlg))
	b = binary.BigEndian.AppendUint32(b, p.attrs)
	b = appendSized(b, p.policy)
	if p.aesBits == 0 {
		b = u16(b, algNull)
	} else {
		b = u16(u16(u16(b, algAES), p.aesBits), algCFB)
	}
	if p.scheme == 0 {
		b = u16(b, algNull)
	} else {
		b = u16(u16(b, p.scheme), uint16(p.hash))
	}
	if p.typ == algRSA {
		return binary.BigEndian.AppendUint32(u16(b, p.bits), p.exp)
	}
	return u16(u16(b, p.curve), algNull)
}

// Name returns the key's name: nameAlg and the digest of its public area
// (Part 1, 16). It changes if any bit of the public area does.
func (p *Public) Name() []byte { return bytes.Clone(p.name) }

// Key returns an *rsa.PublicKey or *ecdsa.PublicKey; do not change it.
func (p *Public) Key() crypto.PublicKey { return p.key }

// checkSigning refuses a key that could sign a forged quote: one that is not
// restricted to what its TPM made, or may exist outside of it.
func (p *Public) checkSigning() error {
	const want = attrResident | attrRestricted | attrSign
	switch {
	case p.attrs&(want|attrDecrypt) != want:
		return fmt.Errorf("key with attributes 0x%08x is no attestation key, want fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign, not decrypt", p.attrs)
	case p.scheme == 0:
		return fmt.Errorf("key has no signature scheme, want RSASSA, RSAPSS or ECDSA with sha256 or sha384")
	}
	return nil
}
