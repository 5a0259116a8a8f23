package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/bundle"
)

// deviceMachine is a machine whose TPM has an IAK and no EK certificate.
func deviceMachine(t *testing.T, maker *swtpm.CA) *machine {
	t.Helper()
	m := &machine{boot: "c-grub-sb", dir: t.TempDir()}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	log, list, err := m.logs()
	if err == nil {
		err = swtpm.Manufacture(t.Context(), filepath.Join(m.dir, "tpm"), maker, swtpm.Options{IAK: "H-3", Fault: swtpm.FaultNoCertificate})
	}
	if err == nil {
		m.tpm, err = swtpm.Start(t.Context(), filepath.Join(m.dir, "tpm"))
	}
	if err == nil {
		err = m.tpm.ReplayLog(log)
	}
	if err == nil {
		err = m.tpm.ReplayIMA(list)
	}
	if err == nil {
		m.server, err = m.tpm.Serve(filepath.Join(m.dir, "tpm.sock"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestLearnFromADevice: evidence collected on a device with an IAK teaches its
// maker, and writ verify grants it where that maker's root is trusted. Certificates
// in files go before those in the TPM.
func TestLearnFromADevice(t *testing.T) {
	t.Parallel()
	nv, owner := newMaker(t, "Example Devices"), newMaker(t, "Owner CA")
	m := deviceMachine(t, nv)
	dir := t.TempDir()
	iak, idevid := ownCertificates(t, m, owner, dir)
	for maker, flags := range map[*swtpm.CA][]string{nv: nil, owner: {"--iak-cert", iak, "--idevid-cert", idevid}} {
		name := maker.Root().Subject.Organization[0]
		at := func(file string) string { return filepath.Join(dir, name+" "+file) }
		must := func(want int, args ...string) string {
			t.Helper()
			code, out, errs := writ(t, args...)
			if code != want {
				t.Fatalf("%q: exit code %d, want %d: %s%s", args, code, want, errs, out)
			}
			return out
		}
		must(exitOK, append([]string{"collect", "--tpm", m.device(), "--eventlog", m.eventlog(), "--ima", m.ima(), "--domain", "lab.invalid", "--nonce", strings.Repeat("ab", 32), "-o", at("bundle")}, flags...)...)
		must(exitOK, "reference", "learn", "--name", "lab", "-o", at("learnt"), at("bundle"))
		if s := readLearnt(t, at("learnt")); !slices.Equal(s.TPM.DeviceMakers, []string{name}) || len(s.TPM.Vendors) > 0 {
			t.Errorf("learnt %+v of a device of %s", s.TPM, name)
		}
		must(exitOK, "reference", "sign", at("learnt"), "--key", at("key"), "--create-key", "-o", at("set"))
		file := bundle.Trust{V: 1, Domain: "lab.invalid", IAKRoots: []string{string(maker.RootPEM())}}
		if err := os.WriteFile(at("roots"), file.Marshal(), 0o600); err != nil {
			t.Fatal(err)
		}
		trust := trusting(t, dir, at("roots"), at("key"))
		// All holds; collected evidence has no history.
		if out := must(exitPartial, "verify", at("bundle"), "--reference", at("set"), "--trust", trust, "--explain"); !strings.Contains(out, "iak-certificate") {
			t.Errorf("the IAK is not explained: %s", out)
		}
		file.IAKRoots = nil
		if err := os.WriteFile(at("roots"), file.Marshal(), 0o600); err != nil {
			t.Fatal(err)
		}
		trust = trusting(t, dir, at("roots"), at("key"))
		if out := must(exitDenied, "verify", at("bundle"), "--reference", at("set"), "--trust", trust); !strings.Contains(out, "tpm/iak-certificate") {
			t.Errorf("denied for another reason: %s", out)
		}
	}
}

func newMaker(t *testing.T, name string) *swtpm.CA {
	t.Helper()
	ca, err := swtpm.NewCA(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// ownCertificates are files in which an owner certifies the keys of a device anew.
func ownCertificates(t *testing.T, m *machine, owner *swtpm.CA, dir string) (iak, idevid string) {
	t.Helper()
	d, err := device.Open(m.device())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	k, err := d.IAK()
	if err != nil {
		t.Fatal(err)
	}
	other, err := tpm.ParseCertificate(k.IDevID)
	if err != nil {
		t.Fatal(err)
	}
	a, b, err := owner.DeviceCertificates(k.Public.Key(), other.PublicKey, "OWN-1", swtpm.FaultNone)
	if err != nil {
		t.Fatal(err)
	}
	iak, idevid = filepath.Join(dir, "iak.pem"), filepath.Join(dir, "idevid.der")
	chain := bundle.CertificatePEM(a) + bundle.CertificatePEM(owner.Publish(""))
	for path, raw := range map[string][]byte{iak: []byte(chain), idevid: b} {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return iak, idevid
}
