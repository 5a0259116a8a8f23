package verifier_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

// demanding is a domain whose nodes must keep their keys in the TPM, and one that may
// attest.
func demanding(t testing.TB) (*domain, *node) {
	t.Helper()
	d := newDomain(t)
	n := d.machine("a-direct")
	d.enrol(n, "a-direct")
	set := d.learn("a-direct", n)
	set.PoP, set.Generation = reference.PoPTPM, set.Generation+1
	d.publish(set)
	return d, n
}

// resident makes a key in the node's TPM.
func (n *node) resident() *device.Key {
	n.t.Helper()
	k, err := n.dev.Key()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { k.Close() })
	return k
}

// certify is key-cert of a key, by the node's attestation key.
func (n *node) certify(k *device.Key, domain, node string, nonce []byte) *evidence.KeyCertificate {
	n.t.Helper()
	attest, sig, err := k.Certify(n.ak, tpm.KeyBinding(domain, node, nonce))
	if err != nil {
		n.t.Fatal(err)
	}
	return &evidence.KeyCertificate{Public: k.Area(), Attest: attest, Signature: sig}
}

func (n *node) form(public crypto.PublicKey) []byte {
	n.t.Helper()
	b, err := token.MarshalJWK(public)
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// TestKeyInTPM: a key that the TPM certifies is granted where the reference set demands
// one, once certified it need not be again in that boot, and every token says where its
// key lives.
func TestKeyInTPM(t *testing.T) {
	t.Parallel()
	d, n := demanding(t)
	k := n.resident()
	s := d.shot(n)
	s.key, s.cert = n.form(k.Public()), n.certify(k, d.cfg.Domain, n.id, s.nonce).Marshal()
	first := d.claims(d.mustGrantShot(n, s).Token)
	want, err := token.Thumbprint(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	if first.Writ.Key != "tpm" || first.Confirm.JKT != want {
		t.Errorf("key %q, cnf %+v", first.Writ.Key, first.Confirm)
	}
	again := d.shot(n)
	again.key, again.cert = s.key, s.cert
	renewed := d.claims(d.mustGrantShot(n, again).Token)
	further, err := d.Token(ctx, renewed, request(d, "lease"))
	if err != nil {
		t.Fatal(err)
	}
	if c := d.claims(further.Token); renewed.Writ.Key != "tpm" || c.Writ.Key != "tpm" {
		t.Errorf("renewed: key %q, further: key %q", renewed.Writ.Key, c.Writ.Key)
	}
	anew := d.shot(n) // the answer to the first may have been lost
	anew.key, anew.cert = s.key, n.certify(k, d.cfg.Domain, n.id, anew.nonce).Marshal()
	d.mustGrantShot(n, anew)
}

// TestSoftwareKeyAsTPMKey: nothing but a key that this TPM made, in this boot, for this
// node and under this challenge passes for a key in the TPM (security rule 3).
func TestSoftwareKeyAsTPMKey(t *testing.T) {
	t.Parallel()
	d, n := demanding(t)
	other := d.machine("a-direct")
	d.enrol(other, "a-direct")
	software, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stale := d.shot(n).nonce
	// of is what is claimed of a key that is made and certified, for a moment: a TPM
	// has three slots.
	of := func(m *node, node, domain string, nonce []byte) (jwk []byte, cert *evidence.KeyCertificate) {
		k := m.resident()
		defer k.Close()
		return m.form(k.Public()), m.certify(k, domain, node, nonce)
	}
	for name, attack := range map[string]struct {
		code string
		why  string
		make func(nonce []byte) (jwk []byte, cert *evidence.KeyCertificate)
	}{
		"a key in software": {"key/not-resident", "a key in software", func([]byte) ([]byte, *evidence.KeyCertificate) { return n.form(software.Public()), nil }},
		"a key in software with the certificate of one in the TPM": {"key/certificate", "another key than that of bind-key", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			_, c := of(n, n.id, d.cfg.Domain, nonce)
			return n.form(software.Public()), c
		}},
		"the certificate of another key": {"key/certificate", "the certification is of the key", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			jwk, c := of(n, n.id, d.cfg.Domain, nonce)
			_, second := of(n, n.id, d.cfg.Domain, nonce)
			return jwk, &evidence.KeyCertificate{Public: c.Public, Attest: second.Attest, Signature: second.Signature}
		}},
		"a replayed certificate": {"key/certificate", "under a challenge", func([]byte) ([]byte, *evidence.KeyCertificate) {
			return of(n, n.id, d.cfg.Domain, stale)
		}},
		"a certificate for another node": {"key/certificate", "under a challenge", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			return of(n, other.id, d.cfg.Domain, nonce)
		}},
		"a certificate for another domain": {"key/certificate", "under a challenge", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			return of(n, n.id, "other.invalid", nonce)
		}},
		"a key of another TPM": {"key/certificate", "signature does not match", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			return of(other, n.id, d.cfg.Domain, nonce)
		}},
		"a key in software, loaded into the TPM": {"key/certificate", "it may exist outside of the TPM", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			return n.form(software.Public()), n.loaded(software, tpm.KeyBinding(d.cfg.Domain, n.id, nonce))
		}},
		"a key that may leave the TPM": {"key/certificate", "it may exist outside of the TPM", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			return n.made(func(a *tpm2.TPMAObject) { a.FixedTPM, a.FixedParent = false, false }, tpm.KeyBinding(d.cfg.Domain, n.id, nonce))
		}},
		"a restricted key": {"key/certificate", "it is restricted", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			return n.made(func(a *tpm2.TPMAObject) { a.Restricted = true }, tpm.KeyBinding(d.cfg.Domain, n.id, nonce))
		}},
		"a changed certificate": {"key/certificate", "signature does not match", func(nonce []byte) ([]byte, *evidence.KeyCertificate) {
			jwk, c := of(n, n.id, d.cfg.Domain, nonce)
			c.Attest[len(c.Attest)-1] ^= 1
			return jwk, c
		}},
	} {
		s := d.shot(n)
		var cert *evidence.KeyCertificate
		if s.key, cert = attack.make(s.nonce); cert != nil {
			s.cert = cert.Marshal()
		}
		d.deniedShot(n, s, name, attack.code, attack.why)
	}
	k := n.resident()
	s := d.shot(n)
	s.key, s.cert = n.form(k.Public()), append(n.certify(k, d.cfg.Domain, n.id, s.nonce).Marshal(), ' ')
	d.deniedShot(n, s, "another form", "key/certificate", "not in the form")
	s = d.shot(n)
	s.key, s.cert = n.form(k.Public()), n.certify(k, d.cfg.Domain, n.id, s.nonce).Marshal()
	d.mustGrantShot(n, s)
	n.reboot()
	again := d.shot(n)
	again.key, again.cert = s.key, s.cert
	d.deniedShot(n, again, "a key of the boot before", "key/certificate", "certified at reset")
}

// deniedShot requires a denial with a finding of a code.
func (d *domain) deniedShot(n *node, s *shot, name, code, why string) {
	d.t.Helper()
	_, err := d.Attest(ctx, s.take(n))
	r := refused(d.t, err, protocol.PolicyDenied)
	var v appraisal.Verdict
	if err := json.Unmarshal(r.Denied.Verdict, &v); err != nil {
		d.t.Fatal(err)
	}
	for _, f := range v.Findings {
		if f.Code == code && strings.Contains(f.Found, why) {
			return
		}
	}
	d.t.Errorf("%s: denied for %+v, expected %s: %s", name, v.Findings, code, why)
}

// made makes a signing key of other attributes in the TPM and has it certified. The
// attestation key signs what is true, so all of it holds but the attributes.
func (n *node) made(change func(*tpm2.TPMAObject), extra []byte) (jwk []byte, cert *evidence.KeyCertificate) {
	n.t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](tpm.SigningTemplate([32]byte{1}))
	if err != nil {
		n.t.Fatal(err)
	}
	change(&public.ObjectAttributes)
	r, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHNull, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(*public),
	}.Execute(n.tpm)
	if err != nil {
		n.t.Fatal(err)
	}
	p, err := tpm.ParsePublic(r.OutPublic.Bytes())
	if err != nil {
		n.t.Fatal(err)
	}
	return n.form(p.Key()), n.certifyHandle(r.ObjectHandle, r.Name, r.OutPublic.Bytes(), extra)
}

// loaded loads a key of ours into the TPM and has it certified.
func (n *node) loaded(key *ecdsa.PrivateKey, extra []byte) *evidence.KeyCertificate {
	n.t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		n.t.Fatal(err)
	}
	secret, err := key.Bytes()
	if err != nil {
		n.t.Fatal(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](tpm.SigningTemplate([32]byte(point[1:33])))
	if err != nil {
		n.t.Fatal(err)
	}
	public.ObjectAttributes.FixedTPM, public.ObjectAttributes.FixedParent, public.ObjectAttributes.SensitiveDataOrigin = false, false, false
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	r, err := tpm2.LoadExternal{
		InPrivate: tpm2.New2B(tpm2.TPMTSensitive{SensitiveType: tpm2.TPMAlgECC, Sensitive: tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgECC, &tpm2.TPM2BECCParameter{Buffer: secret})}),
		InPublic:  tpm2.New2B(*public),
		Hierarchy: tpm2.TPMRHNull,
	}.Execute(n.tpm)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.certifyHandle(r.ObjectHandle, r.Name, tpm2.Marshal(public), extra)
}

func (n *node) certifyHandle(handle tpm2.TPMHandle, name tpm2.TPM2BName, public, extra []byte) *evidence.KeyCertificate {
	n.t.Helper()
	defer tpm2.FlushContext{FlushHandle: handle}.Execute(n.tpm)
	ak, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](tpm.AKTemplate(n.domain, 1)),
	}.Execute(n.tpm)
	if err != nil {
		n.t.Fatal(err)
	}
	defer tpm2.FlushContext{FlushHandle: ak.ObjectHandle}.Execute(n.tpm)
	if !bytes.Equal(ak.Name.Buffer, n.ak.Name()) {
		n.t.Fatal("another attestation key")
	}
	c, err := tpm2.Certify{
		ObjectHandle:   tpm2.AuthHandle{Handle: handle, Name: name, Auth: tpm2.PasswordAuth(nil)},
		SignHandle:     tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: extra},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(n.tpm)
	if err != nil {
		n.t.Fatal(err)
	}
	return &evidence.KeyCertificate{Public: public, Attest: c.CertifyInfo.Bytes(), Signature: tpm2.Marshal(c.Signature)}
}
