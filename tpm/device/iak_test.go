package device_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/swtpm"
)

// TestIAK: the key of each template is found by its certificates, certifies the
// attestation key for one domain, and its maker's word is accepted.
func TestIAK(t *testing.T) {
	t.Parallel()
	for _, template := range tpm.DeviceTemplates() {
		t.Run(template.Label, func(t *testing.T) {
			t.Parallel()
			i, ca := manufacture(t, swtpm.Options{IAK: template.Label, Fault: swtpm.FaultNoCertificate})
			dev := open(t, i)
			ak, err := dev.AK("test.invalid", 1)
			if err != nil {
				t.Fatal(err)
			}
			defer ak.Close()
			iak, err := dev.IAK()
			if err != nil || iak == nil || iak.IDevID == nil || len(iak.Chain) != 1 {
				t.Fatalf("%+v, %v", iak, err)
			}
			if err := tpm.CheckIAK(iak.Public, iak.Certificate); err != nil {
				t.Error(err)
			}
			d, err := tpm.CheckDevice(iak.Certificate, iak.IDevID, []*x509.Certificate{ca.Root()}, parsed(t, iak.Chain), time.Now())
			if err != nil || d.Maker != "test" || d.Serial != "W000001" {
				t.Errorf("%+v, %v", d, err)
			}
			attest, sig, err := dev.Certify(iak, ak, tpm.CertifyBinding("test.invalid", ak.Name()))
			if err != nil {
				t.Fatal(err)
			}
			p, err := tpm.ParsePublic(ak.Public())
			if err != nil {
				t.Fatal(err)
			}
			if err := tpm.CheckCertify(iak.Public, p, "test.invalid", attest, sig); err != nil {
				t.Error(err)
			}
			if err := tpm.CheckCertify(iak.Public, p, "other.invalid", attest, sig); err == nil {
				t.Error("a certification for another domain is accepted")
			}
			if err := tpm.CheckCertify(p, p, "test.invalid", attest, sig); err == nil {
				t.Error("a certification by another key is accepted")
			}
			bent := bytes.Clone(attest)
			bent[len(bent)-1] ^= 1
			if err := tpm.CheckCertify(iak.Public, p, "test.invalid", bent, sig); err == nil {
				t.Error("a changed certification is accepted")
			}
			if c, err := tpm.ParseCertify(attest); err != nil || !bytes.Equal(c.Marshal(), attest) {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// TestIAKFromFiles: certificates that NV lacks are given; those of another TPM
// are of no key of this one.
func TestIAKFromFiles(t *testing.T) {
	t.Parallel()
	i, _ := manufacture(t, swtpm.Options{IAK: "H-2"})
	given, err := open(t, i).IAK()
	if err != nil {
		t.Fatal(err)
	}
	j, _ := manufacture(t, swtpm.Options{})
	dev := open(t, j)
	for _, more := range [][][]byte{nil, {given.Certificate, given.IDevID}, {[]byte("x"), nil}} {
		if iak, err := dev.IAK(more...); iak != nil || err != nil {
			t.Errorf("%+v, %v", iak, err)
		}
	}
	// The keys of a device are its TPM's, so a certificate made later fits too.
	k, ca := manufacture(t, swtpm.Options{IAK: "H-3", IAKFault: swtpm.FaultOtherKey})
	dev = open(t, k)
	if iak, err := dev.IAK(); iak != nil || err != nil {
		t.Fatalf("%+v, %v", iak, err)
	}
	iak, idevid := deviceKeys(t, k, "H-3")
	a, b, err := ca.DeviceCertificates(iak.Key(), idevid.Key(), "1", swtpm.FaultNone)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := dev.IAK(a, b); err != nil || found == nil || !bytes.Equal(found.Certificate, a) || !bytes.Equal(found.IDevID, b) {
		t.Errorf("%+v, %v", found, err)
	}
}

func parsed(t testing.TB, der [][]byte) (out []*x509.Certificate) {
	t.Helper()
	for _, d := range der {
		c, err := tpm.ParseCertificate(d)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// deviceKeys derives the IAK and the IDevID of a template.
func deviceKeys(t testing.TB, i *swtpm.Instance, label string) (iak, idevid *tpm.Public) {
	t.Helper()
	var keys []*tpm.Public
	for _, template := range tpm.DeviceTemplates() {
		if template.Label != label {
			continue
		}
		for _, b := range [][]byte{template.IAK, template.IDevID} {
			r, err := tpm2.CreatePrimary{
				PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
				InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](b),
			}.Execute(i)
			if err != nil {
				t.Fatal(err)
			}
			p, err := tpm.ParsePublic(r.OutPublic.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := (tpm2.FlushContext{FlushHandle: r.ObjectHandle}).Execute(i); err != nil {
				t.Fatal(err)
			}
			keys = append(keys, p)
		}
	}
	return keys[0], keys[1]
}

// TestDeviceTemplates holds the templates against the words of other
// implementations: swtpm_setup's attributes, tpm2-tools' policies and schemes.
func TestDeviceTemplates(t *testing.T) {
	t.Parallel()
	for _, template := range tpm.DeviceTemplates() {
		for name, b := range map[string][]byte{"IAK": template.IAK, "IDEVID": template.IDevID} {
			p, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
			if err != nil {
				t.Fatal(err)
			}
			attrs := binary.BigEndian.Uint32(tpm2.Marshal(p.ObjectAttributes))
			if want := map[string]uint32{"IAK": 0x000500f2, "IDEVID": 0x000400f2}[name]; attrs != want {
				t.Errorf("%s %s: attributes 0x%08x, want 0x%08x", template.Label, name, attrs, want)
			}
			policy := hex.EncodeToString(p.AuthPolicy.Buffer)[:8]
			if want := map[string]string{"IAK SHA256": "54371823", "IAK SHA384": "129d94eb", "IDEVID SHA256": "ad6b3a22", "IDEVID SHA384": "4db1aa83"}[name+" "+map[tpm2.TPMAlgID]string{tpm2.TPMAlgSHA256: "SHA256", tpm2.TPMAlgSHA384: "SHA384"}[p.NameAlg]]; policy != want {
				t.Errorf("%s %s: policy %s, want %s", template.Label, name, policy, want)
			}
			if ecc, err := p.Unique.ECC(); err == nil && (string(ecc.X.Buffer) != name || string(ecc.Y.Buffer) != name) {
				t.Errorf("%s %s: unique %+v", template.Label, name, ecc)
			}
			if rsa, err := p.Unique.RSA(); err == nil && string(rsa.Buffer) != name {
				t.Errorf("%s %s: unique %q", template.Label, name, rsa.Buffer)
			}
		}
	}
}
