package tpm

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
)

// MakeCredential encrypts secret, 1 to 32 bytes, so that only the TPM that holds
// ek gets it back, and only if the key named akName lies in the same TPM
// (TPM2_MakeCredential, Part 1, 24). blob is the contents of TPM2B_ID_OBJECT,
// encSecret of TPM2B_ENCRYPTED_SECRET, both for TPM2_ActivateCredential.
//
// ek must be a storage key: restricted, decrypt, AES-CFB.
func MakeCredential(rand io.Reader, ek *Public, akName, secret []byte) (blob, encSecret []byte, err error) {
	const want = attrResident | attrRestricted | attrDecrypt
	if ek.attrs&(want|attrSign) != want || ek.aesBits == 0 {
		return nil, nil, fmt.Errorf("making credential: attributes 0x%08x and AES-%d are not those of a storage key", ek.attrs, ek.aesBits)
	}
	if len(secret) == 0 || len(secret) > sha256.Size {
		return nil, nil, fmt.Errorf("making credential: secret of %d bytes, want 1 to %d", len(secret), sha256.Size)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Marshal())
	if err != nil {
		return nil, nil, fmt.Errorf("making credential: %w", err)
	}
	key, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return nil, nil, fmt.Errorf("making credential: %w", err)
	}
	blob, encSecret, err = tpm2.CreateCredential(fullReader{rand}, key, akName, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("making credential: %w", err)
	}
	return blob, encSecret, nil
}

// fullReader never reads short, which go-tpm takes for the end.
type fullReader struct{ r io.Reader }

func (f fullReader) Read(p []byte) (int, error) { return io.ReadFull(f.r, p) }
