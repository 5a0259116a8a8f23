package device

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// Signer is a P-256 key that never leaves the TPM, for seldom use: it is derived for
// each signature and takes no slot between two. It is a crypto.Signer.
type Signer struct {
	tpm      *TPM
	template []byte
	public   *tpm.Public
}

// Signer derives the key of a purpose, the same one each time, as a primary of the
// endorsement hierarchy: TPM2_Clear does not change it. Whoever may open the TPM can
// sign with it.
func (t *TPM) Signer(purpose string) (*Signer, error) {
	s := &Signer{tpm: t, template: tpm.SigningTemplate(sha256.Sum256([]byte("writ-signer-v1\x00" + purpose)))}
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.createPrimary(s.template)
	if err == nil {
		s.public, err = tpm.ParsePublic(r.OutPublic.Bytes())
		err = errors.Join(err, t.flush(r.ObjectHandle))
	}
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	return s, nil
}

// Public returns an *ecdsa.PublicKey.
func (s *Signer) Public() crypto.PublicKey { return s.public.Key() }

// Sign signs a SHA-256 digest; the signature is in ASN.1. The TPM has randomness of
// its own. Another key than the one of before, in a TPM that was exchanged, signs
// nothing.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (sig []byte, err error) {
	s.tpm.mu.Lock()
	defer s.tpm.mu.Unlock()
	r, err := s.tpm.createPrimary(s.template)
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM: %w", err)
	}
	defer func() { err = errors.Join(err, s.tpm.flush(r.ObjectHandle)) }()
	public, err := tpm.ParsePublic(r.OutPublic.Bytes())
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM: %w", err)
	}
	if !public.Key().(*ecdsa.PublicKey).Equal(s.Public()) {
		return nil, errors.New("signing with the TPM: it makes another key than before: its endorsement seed was changed")
	}
	return s.tpm.sign(tpm2.AuthHandle{Handle: r.ObjectHandle, Name: r.Name, Auth: tpm2.PasswordAuth(nil)}, digest, opts)
}

// sign signs a SHA-256 digest with a key that is loaded and not restricted.
func (t *TPM) sign(key tpm2.AuthHandle, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if len(digest) != sha256.Size || opts.HashFunc() != crypto.SHA256 {
		return nil, fmt.Errorf("signing with the TPM: expected a SHA-256 digest, found %d bytes of %v", len(digest), opts.HashFunc())
	}
	r, err := tpm2.Sign{
		KeyHandle:  key,
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(sender{t})
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM: %w", explain(err))
	}
	ecc, err := r.Signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)})
}
