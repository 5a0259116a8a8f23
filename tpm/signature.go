package tpm

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha512"
	"errors"
	"fmt"
)

// signature is a TPMT_SIGNATURE (Part 2, 11.3.4) of one of the kinds that are
// accepted: RSASSA, RSAPSS or ECDSA, with SHA-256 or SHA-384.
type signature struct {
	alg  uint16 // algRSASSA, algRSAPSS or algECDSA
	hash Alg
	rsa  []byte // up to 384 bytes
	r, s []byte // up to 48 bytes each, as the TPM wrote them
}

func parseSignature(b []byte) (*signature, error) {
	r := &reader{b: b}
	sig := &signature{alg: r.u16("signature scheme")}
	if r.err == nil && sig.alg != algRSASSA && sig.alg != algRSAPSS && sig.alg != algECDSA {
		r.fail("scheme 0x%04x, want RSASSA (0x0014), RSAPSS (0x0016) or ECDSA (0x0018)", sig.alg)
	}
	sig.hash = Alg(r.u16("signature hash"))
	if r.err == nil && sig.hash != AlgSHA256 && sig.hash != AlgSHA384 {
		r.fail("hash %s, want sha256 or sha384", sig.hash)
	}
	if sig.alg == algECDSA {
		sig.r = r.sized(48, "signature R")
		sig.s = r.sized(48, "signature S")
	} else {
		sig.rsa = r.sized(384, "RSA signature")
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("parsing signature: %w", err)
	}
	return sig, nil
}

// verify checks sig over msg. It must be of the very scheme the key was made
// for: a restricted key signs with no other.
func (p *Public) verify(sig *signature, msg []byte) error {
	switch {
	case p.typ == algRSA && sig.alg == algECDSA:
		return errors.New("ECDSA signature for an RSA key")
	case p.typ == algECC && sig.alg != algECDSA:
		return errors.New("RSA signature for an ECC key")
	case sig.alg != p.scheme:
		return fmt.Errorf("signature of scheme 0x%04x, the key signs with 0x%04x", sig.alg, p.scheme)
	case sig.hash != p.hash:
		return fmt.Errorf("signature with hash %s, the key signs with %s", sig.hash, p.hash)
	}
	var room [sha512.Size384]byte
	sum, _ := sig.hash.AppendSum(room[:0], msg)
	switch k := p.key.(type) {
	case *rsa.PublicKey:
		return sig.verifyRSA(k, sum)
	case *ecdsa.PublicKey:
		if size := len(p.x); len(sig.r) > size || len(sig.s) > size {
			return fmt.Errorf("signature R and S of %d and %d bytes, at most %d each", len(sig.r), len(sig.s), size)
		}
		var der [128]byte
		if !ecdsa.VerifyASN1(k, sum, sig.appendDER(der[:0])) {
			return errors.New("ECDSA signature does not match")
		}
		return nil
	}
	return fmt.Errorf("key of type %T cannot sign quotes", p.key)
}

// appendDER appends an ECDSA signature as crypto/ecdsa reads it: SEQUENCE of two
// INTEGERs of at most 48 bytes each, so that every length is one byte.
func (sig *signature) appendDER(b []byte) []byte {
	start := len(b)
	b = append(b, 0x30, 0)
	for _, n := range [][]byte{sig.r, sig.s} {
		for len(n) > 0 && n[0] == 0 {
			n = n[1:]
		}
		if len(n) == 0 || n[0] >= 0x80 { // zero, or else negative
			b = append(b, 2, byte(len(n)+1), 0)
		} else {
			b = append(b, 2, byte(len(n)))
		}
		b = append(b, n...)
	}
	b[start+1] = byte(len(b) - start - 2)
	return b
}

// verifyRSA accepts any salt in RSAPSS: TPMs differ in its length (Part 1, B.7).
func (sig *signature) verifyRSA(k *rsa.PublicKey, sum []byte) error {
	if len(sig.rsa) != k.Size() {
		return fmt.Errorf("RSA signature of %d bytes, want %d", len(sig.rsa), k.Size())
	}
	hash, _ := sig.hash.Hash()
	var err error
	if sig.alg == algRSAPSS {
		err = rsa.VerifyPSS(k, hash, sum, sig.rsa, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
	} else {
		err = rsa.VerifyPKCS1v15(k, hash, sum, sig.rsa)
	}
	if err != nil {
		return errors.New("RSA signature does not match")
	}
	return nil
}

// VerifyQuote checks that p, a key that signs only what its TPM made, signed
// attest (TPMS_ATTEST) with sig (TPMT_SIGNATURE), and reads the quote. Compare
// ExtraData with your nonce next, and see [Public.CheckSigner].
func (p *Public) VerifyQuote(attest, sig []byte) (*Quote, error) {
	if err := p.checkSigning(); err != nil {
		return nil, fmt.Errorf("verifying quote: %w", err)
	}
	s, err := parseSignature(sig)
	if err != nil {
		return nil, fmt.Errorf("verifying quote: %w", err)
	}
	if err := p.verify(s, attest); err != nil {
		return nil, fmt.Errorf("verifying quote: %w", err)
	}
	q, err := ParseQuote(attest)
	if err == nil && len(q.PCRDigest) != p.hash.Size() {
		return nil, fmt.Errorf("verifying quote: PCR digest of %d bytes, a key that signs with %s makes %d", len(q.PCRDigest), p.hash, p.hash.Size())
	}
	return q, err
}
