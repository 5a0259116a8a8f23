package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm"
)

// at is within the validity of the recorded EK certificates.
var at = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

func bootCA(t testing.TB, dir string) (roots, intermediates []*x509.Certificate) {
	t.Helper()
	return readPEM(t, dir, "ca", "swtpm-localca-rootca-cert.pem"), readPEM(t, dir, "ca", "issuercert.pem")
}

func TestRecordedEKCertificates(t *testing.T) {
	t.Parallel()
	for _, dir := range bootDirs(t) {
		roots, intermediates := bootCA(t, dir)
		for _, name := range []string{"ek_cert_rsa2048.der", "ek_cert_eccp384.der"} {
			c, err := tpm.CheckEKCertificate(read(t, dir, name), roots, intermediates, at)
			if err != nil {
				t.Errorf("%s/%s: %v", dir, name, err)
				continue
			}
			// Manufacturer 0x1014 is IBM's PCI vendor id, no text.
			if m, model, version := tpm.Vendor(c); m != "id:00001014" || model != "swtpm" || version != "id:20191023" {
				t.Errorf("%s/%s: vendor %q %q %q", dir, name, m, model, version)
			}
			if name != "ek_cert_rsa2048.der" {
				continue
			}
			if err := tpm.CheckEK(public(t, read(t, dir, "ek_pub_rsa2048.bin")), c); err != nil {
				t.Errorf("%s/%s: %v", dir, name, err)
			}
		}
	}
}

func TestEKCertificateWrongCA(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(boots, "c-grub-sb")
	der := read(t, dir, "ek_cert_rsa2048.der")
	roots, intermediates := bootCA(t, dir)
	otherRoots, _ := bootCA(t, filepath.Join(boots, "d-uki"))
	if bytes.Equal(roots[0].Raw, otherRoots[0].Raw) {
		otherRoots = []*x509.Certificate{newMaker(t).root}
	}
	for _, c := range []struct {
		name                 string
		roots, intermediates []*x509.Certificate
	}{
		{"other root", otherRoots, intermediates},
		{"no root: not the system's", nil, intermediates},
		{"intermediate is no root", nil, append(intermediates, roots...)},
		{"chain with a gap", roots, nil},
	} {
		_, err := tpm.CheckEKCertificate(der, c.roots, c.intermediates, at)
		t.Run(c.name, func(t *testing.T) { wantError(t, err, "unknown authority") })
	}
}

func TestEKCertificateExpired(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	der := m.issue(t, nil)
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{at, ""}, {at.AddDate(0, 0, 2), "expired or is not yet valid"}, {at.AddDate(0, 0, -2), "expired or is not yet valid"},
		{time.Time{}, "no time to check it at"},
	} {
		_, err := tpm.CheckEKCertificate(der, m.roots(), nil, c.at)
		if c.want == "" && err != nil {
			t.Fatal(err)
		}
		if c.want != "" {
			wantError(t, err, c.want)
		}
	}
}

func TestEKCertificateOfAnotherForm(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	dns := []byte{0x30, 0x05, 0x82, 0x03, 'a', '.', 'b'}
	for _, c := range []struct {
		name   string
		change func(*x509.Certificate)
		want   string
	}{
		{"MissingEKU", func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, "2.23.133.8.1"},
		{"OtherEKU", func(c *x509.Certificate) { c.UnknownExtKeyUsage[0] = asn1.ObjectIdentifier{2, 23, 133, 8, 3} }, "2.23.133.8.1"},
		{"IsCA", func(c *x509.Certificate) { c.IsCA = true }, "CA's certificate"},
		{"SignsCertificates", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }, "CA's certificate"},
		{"NoName", func(c *x509.Certificate) { c.ExtraExtensions = nil }, "TPM manufacturer"},
		{"NameOfAHost", func(c *x509.Certificate) { c.ExtraExtensions[0].Value = dns }, "TPM manufacturer"},
		{"NameAndHost", func(c *x509.Certificate) {
			san := c.ExtraExtensions[0].Value
			both := append(bytes.Clone(san), dns[2:]...)
			both[1] += 5
			c.ExtraExtensions[0].Value = both
		}, "TPM manufacturer"},
		{"UnknownCriticalExtension", func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}, "unhandled critical extension"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := tpm.CheckEKCertificate(m.issue(t, c.change), m.roots(), nil, at)
			wantError(t, err, c.want)
		})
	}
	for _, garbage := range [][]byte{nil, {0x30}, append(m.issue(t, nil), 0)} {
		if _, err := tpm.CheckEKCertificate(garbage, m.roots(), nil, at); err == nil {
			t.Errorf("%x accepted", garbage)
		}
	}
}

func TestEKCertificateKeyMismatch(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(boots, "c-grub-sb")
	roots, intermediates := bootCA(t, dir)
	cert, err := tpm.CheckEKCertificate(read(t, dir, "ek_cert_rsa2048.der"), roots, intermediates, at)
	if err != nil {
		t.Fatal(err)
	}
	other := public(t, read(t, boots, "d-uki", "ek_pub_rsa2048.bin"))
	wantError(t, tpm.CheckEK(other, cert), "another key")
	wantError(t, tpm.CheckEK(other, nil), "another key")
	wantError(t, tpm.CheckEK(public(t, read(t, dir, "ek_pub_eccp256.bin")), cert), "another key")
}

// A revoked node that comes back with a changed public area around the same key
// would have another node id.
func TestEKWithChangedPublicArea(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(boots, "c-grub-sb")
	roots, intermediates := bootCA(t, dir)
	cert, err := tpm.CheckEKCertificate(read(t, dir, "ek_cert_rsa2048.der"), roots, intermediates, at)
	if err != nil {
		t.Fatal(err)
	}
	good := public(t, read(t, dir, "ek_pub_rsa2048.bin"))
	if err := tpm.CheckEK(good, cert); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte){
		"attribute": func(b []byte) { b[7] ^= 0x40 },
		"policy":    func(b []byte) { b[20] ^= 1 },
		"exponent":  func(b []byte) { binary.BigEndian.PutUint32(b[52:], 65537) },
		"AES-256":   func(b []byte) { b[44], b[45] = 1, 0 },
	} {
		b := good.Marshal()
		change(b)
		changed, err := tpm.ParsePublic(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tpm.NodeID(changed) == tpm.NodeID(good) {
			t.Errorf("%s: same node id", name)
		}
		wantError(t, tpm.CheckEK(changed, cert), "equals no default EK template")
	}
}

// Infineon's certificates mark the key as usable for OAEP only.
func TestEKCertificateWithOAEPKey(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	m.subject = k.Public()
	der := m.issue(t, nil)
	var cert struct {
		TBS asn1.RawValue
		Alg pkix.AlgorithmIdentifier
		Sig asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		t.Fatal(err)
	}
	// The OID's last byte: rsaEncryption is ...1.1.1, id-RSAES-OAEP ...1.1.7.
	oid := []byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01}
	cert.TBS.FullBytes = bytes.Replace(cert.TBS.FullBytes, oid, append(bytes.Clone(oid[:10]), 7), 1)
	sum := sha256.Sum256(cert.TBS.FullBytes)
	sig, err := ecdsa.SignASN1(rand.Reader, m.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	cert.Sig = asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}
	if der, err = asn1.Marshal(cert); err != nil {
		t.Fatal(err)
	}
	c, err := tpm.CheckEKCertificate(der, m.roots(), nil, at)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	template := tpm.EKTemplates()[3]
	ek := public(t, append(bytes.Clone(template.Public[:len(template.Public)-256]), k.N.FillBytes(make([]byte, 256))...))
	if err := tpm.CheckEK(ek, plain); err != nil || template.Label != "L-1" {
		t.Errorf("%s: %v", template.Label, err)
	}
	if !k.PublicKey.Equal(c.PublicKey) {
		t.Errorf("key %v, want the one certified", c.PublicKey)
	}
}

func TestVendor(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	c, err := x509.ParseCertificate(m.issue(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if manufacturer, model, version := tpm.Vendor(c); manufacturer != "IFX" || model != "SLB 9670" || version != "id:0000000d" {
		t.Errorf("vendor %q %q %q", manufacturer, model, version)
	}
	if manufacturer, _, _ := tpm.Vendor(m.root); manufacturer != "" {
		t.Errorf("manufacturer %q in a certificate without one", manufacturer)
	}
}

func TestTrimCertificate(t *testing.T) {
	t.Parallel()
	der := read(t, boots, "c-grub-sb", "ek_cert_rsa2048.der")
	header := []byte{0x10, 0x01, 0x00, byte(len(der) >> 8), byte(len(der))}
	for name, nv := range map[string][]byte{
		"plain":   der,
		"padded":  append(bytes.Clone(der), bytes.Repeat([]byte{0xff}, 100)...),
		"zeros":   append(bytes.Clone(der), 0, 0),
		"wrapped": append(header, der...),
	} {
		if got := tpm.TrimCertificate(nv); !bytes.Equal(got, der) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(der))
		}
	}
	for _, garbage := range [][]byte{nil, {0x10, 0x01, 0x00}, {0xff, 0xff}} {
		tpm.TrimCertificate(garbage)
	}
}

func TestNodeID(t *testing.T) {
	t.Parallel()
	// sha256sum ek_pub_eccp256.bin | cut -c1-32
	const want = "fdbba4b78157ab0a082a365f6e0cc1a3"
	if got := tpm.NodeID(public(t, read(t, boots, "c-grub-sb", "ek_pub_eccp256.bin"))); got != want {
		t.Errorf("node id %s, want %s", got, want)
	}
}

// Activation itself is tested with TPMs, in tpm/device.
func TestCredentialForNoStorageKey(t *testing.T) {
	t.Parallel()
	secret := make([]byte, 32)
	for _, name := range []string{"ak_pub.bin", "ak_pub_ecc.bin"} {
		_, _, err := tpm.MakeCredential(rand.Reader, public(t, read(t, boots, "c-grub-sb", name)), nil, secret)
		wantError(t, err, "not those of a storage key")
	}
	_, _, err := tpm.MakeCredential(rand.Reader, new(tpm.Public), nil, secret)
	wantError(t, err, "not those of a storage key")
	ek := public(t, read(t, boots, "c-grub-sb", "ek_pub_eccp256.bin"))
	for _, size := range []int{0, 33} {
		_, _, err := tpm.MakeCredential(rand.Reader, ek, nil, make([]byte, size))
		wantError(t, err, "want 1 to 32")
	}
}

// maker is a TPM maker with one root that issues for subject.
type maker struct {
	root    *x509.Certificate
	key     *ecdsa.PrivateKey
	subject crypto.PublicKey
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &maker{key: k, subject: k.Public()}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker"}, NotBefore: at.AddDate(-1, 0, 0),
		NotAfter: at.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	m.root = m.sign(t, template, template, k.Public())
	return m
}

func (m *maker) roots() []*x509.Certificate { return []*x509.Certificate{m.root} }

func (m *maker) sign(t testing.TB, c, parent *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, m.key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// issue returns an EK certificate, valid for a day around at, that change may
// alter before it is signed. All names are in one set, as some makers have them.
func (m *maker) issue(t testing.TB, change func(*x509.Certificate)) []byte {
	t.Helper()
	name, err := asn1.Marshal(pkix.RDNSequence{{
		{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:49465800"},
		{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: "SLB 9670"},
		{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 3}, Value: "id:0000000d"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: at.AddDate(0, 0, -1), NotAfter: at.AddDate(0, 0, 1), BasicConstraintsValid: true,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions:    []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}}}
	if change != nil {
		change(c)
	}
	return m.sign(t, c, m.root, m.subject).Raw
}
