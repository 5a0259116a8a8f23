package device

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// Key is a P-256 key of this process: loaded in the TPM until Close, gone with the next
// reset of the TPM, and of use to nobody else, for its password is known here alone. It
// is a crypto.Signer.
type Key struct {
	tpm    *TPM
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	auth   []byte
	public *tpm.Public
}

// Key makes a new key in the null hierarchy, whose seed does not outlive a boot.
func (t *TPM) Key() (*Key, error) {
	var unique, auth [sha256.Size]byte
	_, _ = rand.Read(unique[:]) // does not fail, see crypto/rand
	_, _ = rand.Read(auth[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHNull, Auth: tpm2.PasswordAuth(nil)},
		InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: auth[:]}}},
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](tpm.SigningTemplate(unique)),
	}.Execute(sender{t})
	if err != nil {
		return nil, fmt.Errorf("making a key in the TPM: %w", explain(err))
	}
	k := &Key{tpm: t, handle: r.ObjectHandle, name: r.Name, auth: auth[:]}
	if k.public, err = tpm.ParsePublic(r.OutPublic.Bytes()); err != nil {
		return nil, errors.Join(fmt.Errorf("making a key in the TPM: %w", err), t.flush(k.handle))
	}
	t.keys[k.handle] = k
	return k, nil
}

// Area is the key's TPMT_PUBLIC.
func (k *Key) Area() []byte { return k.public.Marshal() }

// Name is the key's name: nameAlg and the digest of Area.
func (k *Key) Name() []byte { return k.public.Name() }

// Public returns an *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public.Key() }

func (k *Key) use() (tpm2.AuthHandle, error) {
	if k.tpm.keys[k.handle] != k {
		return tpm2.AuthHandle{}, errors.New("the key is closed")
	}
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: tpm2.PasswordAuth(k.auth)}, nil
}

// Sign signs a SHA-256 digest; the signature is in ASN.1.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.tpm.mu.Lock()
	defer k.tpm.mu.Unlock()
	key, err := k.use()
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM: %w", err)
	}
	return k.tpm.sign(key, digest, opts)
}

// Loaded reports whether the TPM still has the key: a reset takes it. The error is of a
// TPM that does not say.
func (k *Key) Loaded() (bool, error) {
	k.tpm.mu.Lock()
	defer k.tpm.mu.Unlock()
	if _, err := k.use(); err != nil {
		return false, nil
	}
	r, err := tpm2.ReadPublic{ObjectHandle: k.handle}.Execute(sender{k.tpm})
	if no := (*NoTPMError)(nil); errors.As(err, &no) {
		return false, err
	}
	return err == nil && bytes.Equal(r.Name.Buffer, k.name.Buffer), nil
}

// Certify has the TPM say, signed by ak, that the key is loaded in it (TPM2_Certify),
// with extraData of up to 64 bytes. It returns a TPMS_ATTEST and a TPMT_SIGNATURE; see
// [tpm.CheckKey].
func (k *Key) Certify(ak *AK, extraData []byte) (attest, sig []byte, err error) {
	k.tpm.mu.Lock()
	defer k.tpm.mu.Unlock()
	object, err := k.use()
	if err != nil {
		return nil, nil, fmt.Errorf("certifying the key: %w", err)
	}
	signer, err := ak.auth()
	if err != nil {
		return nil, nil, fmt.Errorf("certifying the key: %w", err)
	}
	r, err := tpm2.Certify{
		ObjectHandle:   object,
		SignHandle:     signer,
		QualifyingData: tpm2.TPM2BData{Buffer: extraData},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(sender{k.tpm})
	if err != nil {
		return nil, nil, fmt.Errorf("certifying the key: %w", explain(err))
	}
	return r.CertifyInfo.Bytes(), tpm2.Marshal(r.Signature), nil
}

// Close unloads the key for good. It may be called again.
func (k *Key) Close() error {
	k.tpm.mu.Lock()
	defer k.tpm.mu.Unlock()
	if k.tpm.keys[k.handle] != k {
		return nil
	}
	delete(k.tpm.keys, k.handle)
	return k.tpm.flush(k.handle)
}
