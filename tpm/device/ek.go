package device

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
)

// EK is an endorsement key, with its certificate in the TPM's NV if it has one. Nothing in it is
// checked here: the certificate may be of another key.
type EK struct {
	Public      *tpm.Public
	Certificate []byte   // DER; nil if NV has none
	Chain       [][]byte // the certificates of its issuers that are in NV, DER

	template tpm.EKTemplate
	handle   tpm2.TPMHandle // persistent, 0 if the key is derived when used
}

// NV indices of certificates (EK Credential Profile, 2.2.1.4 and 2.2.1.5).
const (
	nvFirst, nvLast           = tpm2.TPMHandle(0x01c00002), tpm2.TPMHandle(0x01c0001e)
	nvChainFirst, nvChainLast = tpm2.TPMHandle(0x01c00100), tpm2.TPMHandle(0x01c001ff)
	ekFirst, ekLast           = tpm2.TPMHandle(0x81010000), tpm2.TPMHandle(0x8101ffff)
)

// EKs returns every endorsement key of a kind that Writ knows ([tpm.EKTemplates])
// and that has a certificate in NV, in the order of preference. If there is none
// it is the key of the first template, without a certificate: nobody vouches for it.
func (t *TPM) EKs() ([]EK, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	eks, err := t.readEKs()
	if err != nil {
		return nil, fmt.Errorf("reading endorsement keys: %w", err)
	}
	return eks, nil
}

func (t *TPM) readEKs() ([]EK, error) {
	indices, err := t.handles(nvFirst, nvLast)
	if err != nil {
		return nil, err
	}
	persistent, err := t.persistentEKs()
	if err != nil {
		return nil, err
	}
	chain, err := t.chain()
	if err != nil {
		return nil, err
	}
	var out []EK
	for _, template := range tpm.EKTemplates() {
		if !slices.Contains(indices, tpm2.TPMHandle(template.NV)) {
			continue
		}
		nv, err := t.readNV(tpm2.TPMHandle(template.NV))
		if err != nil {
			return nil, err
		}
		ek := EK{Certificate: tpm.TrimCertificate(nv), Chain: chain, template: template}
		if err := t.findKey(&ek, persistent); err != nil {
			return nil, fmt.Errorf("EK of template %s: %w", template.Label, err)
		}
		out = append(out, ek)
	}
	if len(out) == 0 {
		ek := EK{template: tpm.EKTemplates()[0]}
		if err := t.findKey(&ek, nil); err != nil {
			return nil, fmt.Errorf("EK of template %s, without a certificate: %w", ek.template.Label, err)
		}
		return []EK{ek}, nil
	}
	return out, nil
}

// findKey settles ek's public area and handle: a persistent key that has the
// certificate's public key, else the key derived from the default template.
func (t *TPM) findKey(ek *EK, persistent map[tpm2.TPMHandle]*tpm.Public) error {
	if c, err := tpm.ParseCertificate(ek.Certificate); err == nil {
		for handle, p := range persistent {
			if tpm.CheckEK(p, c) == nil {
				ek.handle, ek.Public = handle, p
				return nil
			}
		}
	}
	r, err := t.createPrimary(ek.template.Public)
	if err != nil {
		return err
	}
	p, err := tpm.ParsePublic(r.OutPublic.Bytes())
	ek.Public = p
	return errors.Join(err, t.flush(r.ObjectHandle))
}

// persistentEKs returns the keys at the handles reserved for endorsement keys,
// leaving out those of other kinds.
func (t *TPM) persistentEKs() (map[tpm2.TPMHandle]*tpm.Public, error) {
	handles, err := t.handles(ekFirst, ekLast)
	if err != nil {
		return nil, err
	}
	out := make(map[tpm2.TPMHandle]*tpm.Public)
	for _, h := range handles {
		r, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(sender{t})
		if err != nil {
			return nil, fmt.Errorf("persistent key 0x%08x: %w", uint32(h), explain(err))
		}
		if p, err := tpm.ParsePublic(r.OutPublic.Bytes()); err == nil {
			out[h] = p
		}
	}
	return out, nil
}

// chain returns the certificates in the NV indices of the chain. They are
// stored one after the other and may run over from one index to the next.
func (t *TPM) chain() ([][]byte, error) {
	indices, err := t.handles(nvChainFirst, nvChainLast)
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, index := range indices {
		b, err := t.readNV(index)
		if err != nil {
			return nil, err
		}
		all = append(all, b...)
	}
	return certificates(all), nil
}

// certificates returns those that b begins with, one after the other.
func certificates(b []byte) (out [][]byte) {
	for len(b) > 0 {
		der := tpm.TrimCertificate(b)
		if _, err := tpm.ParseCertificate(der); err != nil {
			break // padding behind the last one
		}
		out = append(out, der)
		b = b[len(der):]
	}
	return out
}

// readNV reads a whole NV index with its own empty password, or the owner's.
func (t *TPM) readNV(index tpm2.TPMHandle) ([]byte, error) {
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(sender{t})
	if err != nil {
		return nil, fmt.Errorf("NV index 0x%08x: %w", uint32(index), explain(err))
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("NV index 0x%08x: %w", uint32(index), err)
	}
	auth := tpm2.AuthHandle{Handle: index, Name: r.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !public.Attributes.AuthRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	const chunk = 512 // every PC Client TPM reads that much at once
	out := make([]byte, 0, public.DataSize)
	for len(out) < int(public.DataSize) {
		part, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: r.NVName},
			Size:       uint16(min(chunk, int(public.DataSize)-len(out))),
			Offset:     uint16(len(out)),
		}.Execute(sender{t})
		if err != nil {
			return nil, fmt.Errorf("NV index 0x%08x: %w", uint32(index), explain(err))
		}
		if len(part.Data.Buffer) == 0 {
			return nil, fmt.Errorf("NV index 0x%08x: ends after %d of %d bytes", uint32(index), len(out), public.DataSize)
		}
		out = append(out, part.Data.Buffer...)
	}
	return out, nil
}

// Activate gets the secret out of a credential ([tpm.MakeCredential]) that was
// made for ek and ak. Only the TPM that holds both can.
func (t *TPM) Activate(ak *AK, ek EK, blob, encSecret []byte) (secret []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	secret, err = t.activate(ak, ek, blob, encSecret)
	if err != nil {
		return nil, fmt.Errorf("activating credential: %w", err)
	}
	return secret, nil
}

func (t *TPM) activate(ak *AK, ek EK, blob, encSecret []byte) (secret []byte, err error) {
	key, err := ak.auth()
	if err != nil {
		return nil, err
	}
	handle := ek.handle
	if handle == 0 {
		r, err := t.createPrimary(ek.template.Public)
		if err != nil {
			return nil, err
		}
		handle = r.ObjectHandle
		defer func() { err = errors.Join(err, t.flush(handle)) }()
	}
	auth := tpm2.PasswordAuth(nil)
	if ek.template.Policy {
		session, done, err := t.endorsementPolicy()
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, done()) }()
		auth = session
	}
	r, err := tpm2.ActivateCredential{
		ActivateHandle: key,
		KeyHandle:      tpm2.AuthHandle{Handle: handle, Name: tpm2.TPM2BName{Buffer: ek.Public.Name()}, Auth: auth},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: encSecret},
	}.Execute(sender{t})
	if err != nil {
		return nil, explain(err)
	}
	return r.CertInfo.Buffer, nil
}

// endorsementPolicy opens a session that satisfies PolicyA, the policy of
// low-range EKs: PolicySecret(endorsement). Call done on every path.
func (t *TPM) endorsementPolicy() (session tpm2.Session, done func() error, err error) {
	session, done, err = tpm2.PolicySession(sender{t}, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		return nil, nil, explain(err)
	}
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session.Handle(),
		NonceTPM:      session.NonceTPM(),
	}.Execute(sender{t})
	if err != nil {
		return nil, nil, errors.Join(explain(err), done())
	}
	return session, done, nil
}
