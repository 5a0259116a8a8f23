package appraisal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/verifier/reference"
)

// Key is a key of proof of possession that was certified to live in the node's TPM.
type Key struct {
	Name  []byte `json:"name"`  // of the key in its TPM
	Nonce []byte `json:"nonce"` // of the challenge it was first presented under
}

// key judges what the TPM says of the key of bind-key (security rule 3). That it says
// nothing is for the reference set to judge: see resident.
func (r *run) key() {
	if !r.in.Evidence.Item(evidence.KeyCert).Present() {
		return
	}
	k, err := r.certifiedKey()
	if err != nil {
		r.say(keyCertificate, "a key that this TPM made, cannot leave it, and certified for this node in this boot", err.Error(),
			"have the agent make another: restart writ agent --pop tpm")
		return
	}
	r.boot.Key = k
}

// certifiedKey is the key of bind-key, proven to live in the TPM that quoted.
func (r *run) certifiedKey() (*Key, error) {
	c, err := r.keyFact()
	if err != nil {
		return nil, err
	}
	if c.ResetCount != r.quote.ResetCount || c.RestartCount != r.quote.RestartCount {
		return nil, fmt.Errorf("certified at reset %d, restart %d", c.ResetCount, c.RestartCount)
	}
	nonces := [][]byte{r.in.Challenge.Nonce}
	if p := r.in.Prior.Boot; p != nil && p.Key != nil && bytes.Equal(p.Key.Name, c.Name) {
		nonces = append(nonces, p.Key.Nonce)
	}
	for _, n := range nonces {
		if bytes.Equal(c.ExtraData, tpm.KeyBinding(r.in.Challenge.Domain, r.in.Challenge.Node, n)) {
			return &Key{Name: c.Name, Nonce: n}, nil
		}
	}
	return nil, errors.New("certified for another domain or node, or under a challenge it was not first presented under")
}

// keyFact is what the certification says, once its signature and the key hold.
func (r *run) keyFact() (*tpm.Certified, error) {
	cert, jwk := r.in.Evidence.Item(evidence.KeyCert), r.in.Evidence.Item(evidence.BindKey)
	h := sha256.New()
	for _, part := range [][]byte{r.in.Prior.AK, cert.Content, jwk.Content} {
		s := sha256.Sum256(part)
		h.Write(s[:])
	}
	id := "key/" + string(h.Sum(nil))
	if c, ok := r.recall(id).(*tpm.Certified); ok {
		return c, nil
	}
	k, err := evidence.ParseKeyCertificate(cert.Content)
	if err != nil {
		return nil, err
	}
	public, err := tpm.ParsePublic(k.Public)
	if err != nil {
		return nil, err
	}
	ak := r.in.attestationKey()
	if ak.err != nil {
		return nil, ak.err
	}
	c, err := tpm.CheckKey(ak.public, public, k.Attest, k.Signature)
	if err != nil {
		return nil, err
	}
	if form, err := jwkOf(public); err != nil || !bytes.Equal(form, jwk.Content) {
		return nil, errors.New("certified is another key than that of bind-key")
	}
	r.keep(id, c)
	return c, nil
}

// jwkOf is a key in the form that RFC 7638 hashes.
func jwkOf(p *tpm.Public) ([]byte, error) {
	key, ok := p.Key().(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("it is no key on a curve")
	}
	b, err := key.Bytes() // SEC 1, 2.3.3: 4, x, y
	if err != nil {
		return nil, err
	}
	half, e := (len(b)-1)/2, base64.RawURLEncoding
	return []byte(`{"crv":"P-256","kty":"EC","x":"` + e.EncodeToString(b[1:1+half]) + `","y":"` + e.EncodeToString(b[1+half:]) + `"}`), nil
}

// resident demands a key in the TPM where the set does.
func (r *run) resident() {
	if r.set.PoP == reference.PoPTPM && !r.in.Evidence.Item(evidence.KeyCert).Present() {
		r.say(keyNotResident, "a key of proof of possession that lives in the TPM", "a key in software", "start the agent with --pop tpm")
	}
}

func (r *run) keyWords() string {
	s := fmt.Sprintf("key-cert SHA-256 %x", r.in.Evidence.Item(evidence.KeyCert).SHA256())
	if r.boot.Key != nil {
		s += fmt.Sprintf(": key %x, first presented under nonce %x", r.boot.Key.Name, r.boot.Key.Nonce)
	}
	return s
}
