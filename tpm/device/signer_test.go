package device_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// TestSigner: a purpose has one key for the life of a TPM, which signs what crypto
// verifies and leaves nothing loaded.
func TestSigner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tpm")
	i, err := swtpm.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	dev := open(t, i)
	s, err := dev.Signer("root/test.invalid")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("message"))
	sig, err := s.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(s.Public().(*ecdsa.PublicKey), sum[:], sig) {
		t.Errorf("the signature does not verify: %v", err)
	}
	if _, err := s.Sign(rand.Reader, sum[:20], crypto.SHA1); err == nil {
		t.Error("signed a SHA-1 digest")
	}
	other, err := dev.Signer("root/other.invalid")
	if err != nil || other.Public().(*ecdsa.PublicKey).Equal(s.Public()) {
		t.Errorf("two purposes have one key (%v)", err)
	}
	if n, err := dev.Leaks(); err != nil || n != 0 {
		t.Errorf("%d handles left in the TPM (%v)", n, err)
	}
	if err := i.PowerCycle(true); err != nil {
		t.Fatal(err)
	}
	if sig, err = s.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil || !ecdsa.VerifyASN1(s.Public().(*ecdsa.PublicKey), sum[:], sig) {
		t.Errorf("after a reset: %v", err)
	}
}

// TestCheckSigning: an attestation key is no signing key, and no key is an
// attestation key because it signs.
func TestCheckSigning(t *testing.T) {
	t.Parallel()
	i, err := swtpm.Start(t.Context(), filepath.Join(t.TempDir(), "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	ak, err := open(t, i).AK("test.invalid", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer ak.Close()
	p, err := tpm.ParsePublic(ak.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.CheckSigning(p); err == nil {
		t.Error("an attestation key passes for a signing key")
	}
}
