package verifier_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// deviceDomain trusts the test maker's devices, and no TPM maker.
func deviceDomain(t *testing.T, change ...func(*verifier.Config)) *domain {
	t.Helper()
	d := newDomain(t)
	d.cfg.IAKRoots, d.cfg.EKRoots = d.cfg.EKRoots, nil
	for _, c := range change {
		c(&d.cfg)
	}
	if err := d.restart(); err != nil {
		t.Fatal(err)
	}
	set := d.learn("grub", d.machine("c-grub-sb"))
	set.TPM.DeviceMakers, set.Generation = []string{"test maker"}, 2
	d.publish(set)
	return d
}

// device is a machine whose TPM has no EK certificate, and an IAK.
func (d *domain) device(label string, fault swtpm.Fault) *node {
	return d.machine("c-grub-sb", swtpm.Options{Fault: swtpm.FaultNoCertificate, IAK: label, IAKFault: fault})
}

// TestIAKInsteadOfEKCertificate: an IAK of each template enrols, active, is
// granted, and its bundle verifies where its maker's root is trusted.
func TestIAKInsteadOfEKCertificate(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	var other []byte // the IAK certificate of the device before
	for _, template := range tpm.DeviceTemplates() {
		n := d.device(template.Label, swtpm.FaultNone)
		d.enrol(n, "grub")
		d.mustGrant(n)
		b := d.verifies(n, bundle.ResultVerified)
		if p := b.Input.Prior; p.IAK == nil || len(p.EKCertificates) > 0 {
			t.Errorf("%s: %+v", template.Label, p)
		}
		foreign := *b.Input.Prior.IAK // another device's, in the place of the enrolled one's
		foreign.Certificate = other
		b.Input.Prior.IAK, other = &foreign, b.Input.Prior.IAK.Certificate
		if foreign.Certificate != nil && !failing(bundle.Verify(b, d.trust()), "enrolment") {
			t.Errorf("%s: the bundle of another device is of this enrolment", template.Label)
		}
		foreign.Certificate = other
		untrusting := d.trust()
		untrusting.IAKRoots = nil
		if r := bundle.Verify(b, untrusting); r.Result != bundle.ResultInvalid {
			t.Errorf("%s: without the maker's root the bundle is %s", template.Label, r.Result)
		}
	}
}

// TestEKCertificateBesideIAK: where both are known the TPM's own maker counts.
func TestEKCertificateBesideIAK(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t, func(c *verifier.Config) { c.EKRoots = c.IAKRoots })
	n := d.machine("c-grub-sb", swtpm.Options{IAK: "H-2"})
	d.enrol(n, "grub")
	d.mustGrant(n)
	if p := d.verifies(n, bundle.ResultVerified).Input.Prior; p.IAK != nil || len(p.EKCertificates) != 1 {
		t.Errorf("%+v", p)
	}
	got, err := d.Node(ctx, n.id)
	if err != nil || got.Device == nil || got.Device.Serial != "W000001" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestDeviceMakerUnlisted: a trusted root is not enough, the class must accept
// the maker.
func TestDeviceMakerUnlisted(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	d.learn("other", d.machine("c-grub-sb"))
	n := d.device("H-2", swtpm.FaultNone)
	d.enrol(n, "other")
	d.denied(n, "tpm/device-maker")
}

// pending wants a device to be pending for a reason, and denied even when an
// operator lets it in.
func (d *domain) pending(n *node, reason string) {
	d.t.Helper()
	out, err := d.provision(n, d.mint("grub", n.ek))
	if err != nil || out.Status != verifier.Pending || !strings.Contains(out.Reason, reason) {
		d.t.Errorf("%+v, %v, want pending because of %q", out, err, reason)
		return
	}
	n.id = out.Node
	if _, err := d.SetStatus(ctx, operator, n.id, verifier.Active, "by hand"); err != nil {
		d.t.Fatal(err)
	}
	d.denied(n, "tpm/ek-certificate")
}

func TestUnknownIAKRoot(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	d.pending(d.device("H-2", swtpm.FaultWrongCA), "unknown authority")
	none := deviceDomain(t, func(c *verifier.Config) { c.IAKRoots = nil })
	none.pending(none.device("H-2", swtpm.FaultNone), "unknown authority")
	d.offline("tpm/iak-certificate", func(in, _ *appraisal.Input) { in.References.IAKRoots = nil })
}

func TestExpiredIAK(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	d.pending(d.device("H-2", swtpm.FaultExpired), "expired")
	d.offline("tpm/iak-certificate", func(in, _ *appraisal.Input) { in.At += 20 * 365 * 24 * 60 * 60 })
}

func TestIDevIDOfAnotherDevice(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	d.pending(d.device("H-2", swtpm.FaultOtherDevice), `is of device "W`)
	d.offline("tpm/iak-certificate", func(in, other *appraisal.Input) { in.Prior.IAK.IDevID = other.Prior.IAK.IDevID })
	d.offline("tpm/iak-certificate", func(in, _ *appraisal.Input) { in.Prior.IAK.IDevID = in.Prior.IAK.Certificate })
	d.offline("tpm/iak-certificate", func(in, _ *appraisal.Input) { in.Prior.IAK.IDevID = nil })
}

// TestIDevIDAsIAK: a key that signs anything forges certifications too.
func TestIDevIDAsIAK(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	d.pending(d.device("H-2", swtpm.FaultSigns), "may sign anything")
}

func TestIAKThatIsACA(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	d.pending(d.device("H-2", swtpm.FaultIsCA), "no certificate") // it is taken for an issuer
	d.offline("tpm/iak-certificate", func(in, _ *appraisal.Input) { in.Prior.IAK.Certificate = in.Prior.IAK.Chain[0] })
}

// TestIAKOfAnotherTPM: an IAK vouches for the AK beside it and for no other.
func TestIAKOfAnotherTPM(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	victim, thief := d.device("H-2", swtpm.FaultNone), d.device("H-2", swtpm.FaultNone)
	req, _ := thief.enrollRequest(d.mint("grub", thief.ek))
	stolen := victim.identity(d.cfg.Domain)
	req.IAK = stolen
	_, err := d.Enroll(ctx, req)
	if r := refused(t, err, protocol.EnrollmentRefused); !strings.Contains(r.Detail, "another domain or attestation key") {
		t.Error(r.Detail)
	}
	bent := *stolen // the name of the thief's key in the victim's statement
	bent.Attest = slices.Concat(stolen.Attest[:len(stolen.Attest)-72], thief.identity(d.cfg.Domain).Attest[len(stolen.Attest)-72:])
	req.IAK = &bent
	_, err = d.Enroll(ctx, req)
	refused(t, err, protocol.EnrollmentRefused)
	req.IAK = thief.identity("other.invalid")
	_, err = d.Enroll(ctx, req)
	refused(t, err, protocol.EnrollmentRefused)
	d.offline("tpm/iak-certificate", func(in, other *appraisal.Input) { in.Prior.IAK = other.Prior.IAK })
}

// TestIAKCertificateOfAnotherKey: the certificate is of the key that certifies.
func TestIAKCertificateOfAnotherKey(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	n, other := d.device("H-2", swtpm.FaultNone), d.device("H-2", swtpm.FaultNone)
	req, _ := n.enrollRequest(d.mint("grub", n.ek))
	req.IAK = n.identity(d.cfg.Domain)
	req.IAK.Certificate = other.identity(d.cfg.Domain).Certificate
	_, err := d.Enroll(ctx, req)
	if r := refused(t, err, protocol.EnrollmentRefused); !strings.Contains(r.Detail, "issued for another key") {
		t.Error(r.Detail)
	}
	req.IAK = n.identity(d.cfg.Domain)
	req.IAK.Public = n.ak.Public() // restricted and of this TPM, but no IAK
	_, err = d.Enroll(ctx, req)
	refused(t, err, protocol.EnrollmentRefused)
	d.offline("tpm/iak-certificate", func(in, other *appraisal.Input) { in.Prior.IAK.Certificate = other.Prior.IAK.Certificate })
}

// TestRevokedDeviceWithAnotherTPM: a device is one node, whatever keys it shows.
func TestRevokedDeviceWithAnotherTPM(t *testing.T) {
	t.Parallel()
	d := deviceDomain(t)
	n := d.device("H-2", swtpm.FaultNone)
	d.enrol(n, "grub")
	if _, err := d.SetStatus(ctx, operator, n.id, verifier.Revoked, "stolen"); err != nil {
		t.Fatal(err)
	}
	again := d.device("H-3", swtpm.FaultNone)
	iak, err := again.dev.IAK()
	if err != nil {
		t.Fatal(err)
	}
	keys := parsedKeys(t, iak.Certificate, iak.IDevID)
	a, b, err := d.maker.DeviceCertificates(keys[0], keys[1], "W000001", swtpm.FaultNone)
	if err != nil {
		t.Fatal(err)
	}
	_, err = attestor.Provision(ctx, again.dev, enroller{d.Service}, d.cfg.Domain, 1, d.mint("grub", again.ek), a, b)
	if r := refused(t, err, protocol.EnrollmentRefused); !strings.Contains(r.Detail, n.id) {
		t.Error(r.Detail)
	}
}

func parsedKeys(t *testing.T, der ...[]byte) (out []any) {
	t.Helper()
	for _, b := range der {
		c, err := tpm.ParseCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c.PublicKey)
	}
	return out
}

func (n *node) identity(domain string) *protocol.IAK {
	n.t.Helper()
	k, err := attestor.DeviceIdentity(n.dev, domain, 1)
	if err != nil || k == nil {
		n.t.Fatalf("%+v, %v", k, err)
	}
	return k
}

// offline grants two devices, changes what was recorded of the first with the
// help of the second, and wants the appraisal made again to deny it by a code.
func (d *domain) offline(code string, change func(in, other *appraisal.Input)) {
	d.t.Helper()
	var inputs []*appraisal.Input
	for range 2 {
		n := d.device("H-2", swtpm.FaultNone)
		d.enrol(n, "grub")
		d.mustGrant(n)
		b, err := d.Bundle(ctx, n.id, -1)
		if err != nil {
			d.t.Fatal(err)
		}
		inputs = append(inputs, b.Input)
	}
	change(inputs[0], inputs[1])
	v := appraisal.Appraise(inputs[0])
	if v.Granted() || !slices.ContainsFunc(v.Findings, func(f appraisal.Finding) bool { return f.Code == code }) {
		d.t.Errorf("%s, %+v, want denied by %s", v.Decision, v.Findings, code)
	}
}

func failing(r *bundle.Report, check string) bool {
	return slices.ContainsFunc(r.Checks, func(c bundle.Check) bool { return c.Name == check && c.Result == bundle.Fail })
}
