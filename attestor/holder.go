package attestor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/verifier/token"
)

// resident is the agent's key in the TPM. The zero resident is none.
type resident struct {
	key  *device.Key
	cert []byte // under the challenge the verifier knows the key from; nil: it knows none
	sent []byte // the last one sent
}

func (r *resident) close() error {
	if r.key == nil {
		return nil
	}
	return r.key.Close()
}

func (r *resident) name() []byte {
	if r.key == nil {
		return nil
	}
	return r.key.Name()
}

// learned notes whether the verifier knows the key now. Until it says so the key is
// certified anew under each challenge.
func (r *resident) learned(known bool) {
	r.cert = nil
	if known {
		r.cert = r.sent
	}
}

// makeKey makes the key that tokens are bound to from now on.
func (a *Agent) makeKey() error {
	var key crypto.Signer
	if a.cfg.KeyInTPM {
		k, err := a.cfg.TPM.Key()
		if err != nil {
			return err
		}
		a.resident, key = resident{key: k}, k
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		key = k
	}
	jwk, err := token.MarshalJWK(key.Public())
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key, a.jwk = key, jwk
	return nil
}

// holder is the key that tokens are bound to, and its JWK.
func (a *Agent) holder() (crypto.Signer, []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.key, a.jwk
}

// bindKey adds the key, and what the TPM says of it if it lives there. One that a reset
// of the TPM took is replaced: tokens bound to it are worth nothing any more.
func (a *Agent) bindKey(ev *evidence.Evidence, nonce [32]byte) error {
	if r := &a.resident; r.key != nil {
		loaded, err := r.key.Loaded()
		if err != nil {
			return fmt.Errorf("looking for the agent's key in the TPM: %w", err)
		}
		if !loaded {
			a.cfg.Log.Warn("the TPM was reset and has lost the agent's key; another one is made")
			if err := r.close(); err != nil {
				return err
			}
			if err := a.makeKey(); err != nil {
				return fmt.Errorf("making the agent's key: %w", err)
			}
		}
		if r.sent = r.cert; r.sent == nil {
			e := &a.cfg.Enrolment
			attest, sig, err := a.q.signed(func() ([]byte, []byte, error) {
				return r.key.Certify(a.q.ak, tpm.KeyBinding(e.Domain, e.Node, nonce[:]))
			})
			if err != nil {
				return err
			}
			r.sent = (&evidence.KeyCertificate{Public: r.key.Area(), Attest: attest, Signature: sig}).Marshal()
		}
		ev.Set(evidence.KeyCert, evidence.Item{Content: r.sent})
	}
	_, jwk := a.holder()
	ev.Set(evidence.BindKey, evidence.Item{Content: jwk})
	return nil
}
