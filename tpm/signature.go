package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
)

// signature is a TPMT_SIGNATURE (Part 2, 11.3.4) of one of the two kinds that
// are accepted: RSASSA with SHA-256 and 2048 bits, ECDSA P-256 with SHA-256.
type signature struct {
	alg  uint16 // algRSASSA or algECDSA
	rsa  []byte // 256 bytes
	r, s []byte // up to 32 bytes each, as the TPM wrote them
}

func parseSignature(b []byte) (*signature, error) {
	r := &reader{b: b}
	sig := &signature{alg: r.u16("signature scheme")}
	if r.err == nil && sig.alg != algRSASSA && sig.alg != algECDSA {
		r.fail("scheme 0x%04x, want RSASSA (0x0014) or ECDSA (0x0018)", sig.alg)
	}
	if hash := Alg(r.u16("signature hash")); r.err == nil && hash != AlgSHA256 {
		r.fail("hash %s, want sha256", hash)
	}
	if sig.alg == algRSASSA {
		sig.rsa = r.sized(256, "RSA signature")
		if r.err == nil && len(sig.rsa) != 256 {
			r.fail("RSA signature of %d bytes, want 256", len(sig.rsa))
		}
	} else {
		sig.r = r.sized(32, "signature R")
		sig.s = r.sized(32, "signature S")
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("parsing signature: %w", err)
	}
	return sig, nil
}

// verify checks sig over the SHA-256 of msg.
func (sig *signature) verify(key crypto.PublicKey, msg []byte) error {
	sum := sha256.Sum256(msg)
	switch k := key.(type) {
	case *rsa.PublicKey:
		if sig.alg != algRSASSA {
			return errors.New("ECDSA signature for an RSA key")
		}
		if err := rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig.rsa); err != nil {
			return errors.New("RSA signature does not match")
		}
		return nil
	case *ecdsa.PublicKey:
		if sig.alg != algECDSA {
			return errors.New("RSA signature for an ECC key")
		}
		if !ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(sig.r), new(big.Int).SetBytes(sig.s)) {
			return errors.New("ECDSA signature does not match")
		}
		return nil
	}
	return fmt.Errorf("key of type %T cannot sign quotes", key)
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
	if err := s.verify(p.key, attest); err != nil {
		return nil, fmt.Errorf("verifying quote: %w", err)
	}
	return ParseQuote(attest)
}
