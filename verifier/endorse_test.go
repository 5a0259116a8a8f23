package verifier_test

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/writ-attestation/writ/tpm/ekroots"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/aia"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// ekKinds are the templates of each kind of endorsement key.
var ekKinds = map[string]string{"P-256": "L-2", "P-384": "H-3", "RSA-2048": "L-1", "RSA-3072": "H-6"}

// TestGoodEKOfEveryKind: each enrols, active, and is granted.
func TestGoodEKOfEveryKind(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	d.learn("grub", d.machine("c-grub-sb"))
	for kind, label := range ekKinds {
		n := d.machine("c-grub-sb", swtpm.Options{EKs: []string{label}})
		d.enrol(n, "grub")
		d.mustGrant(n)
		t.Log(kind)
	}
}

// enrolFaulty manufactures a TPM of each kind with a fault and wants it pending
// for that reason, and denied even when an operator lets it in.
func enrolFaulty(t *testing.T, fault swtpm.Fault, reason string) {
	t.Parallel()
	d := newDomain(t)
	d.learn("grub", d.machine("c-grub-sb"))
	for kind, label := range ekKinds {
		n := d.machine("c-grub-sb", swtpm.Options{EKs: []string{label}, Fault: fault})
		out, err := d.provision(n, d.mint("grub", n.ek))
		if err != nil || out.Status != verifier.Pending || !strings.Contains(out.Reason, reason) {
			t.Errorf("%s: %+v, %v, want pending because of %q", kind, out, err, reason)
			continue
		}
		n.id = out.Node
		d.unmoved(n, d.shot(n).take(n), protocol.NodeNotActive)
		if _, err := d.SetStatus(ctx, operator, n.id, verifier.Active, "by hand"); err != nil {
			t.Fatal(err)
		}
		d.denied(n, "tpm/ek-certificate")
	}
}

func TestEKOfWrongCA(t *testing.T)  { enrolFaulty(t, swtpm.FaultWrongCA, "unknown authority") }
func TestExpiredEK(t *testing.T)    { enrolFaulty(t, swtpm.FaultExpired, "expired") }
func TestEKWithoutEKU(t *testing.T) { enrolFaulty(t, swtpm.FaultMissingEKU, "2.23.133.8.1") }
func TestEKThatIsACA(t *testing.T)  { enrolFaulty(t, swtpm.FaultIsCA, "CA's certificate") }
func TestEKUnlikeItsCertificate(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	for kind, label := range ekKinds {
		n := d.machine("c-grub-sb", swtpm.Options{EKs: []string{label}, Fault: swtpm.FaultOtherKey})
		_, err := d.provision(n, d.mint("grub", n.ek))
		if r := refused(t, err, protocol.EnrollmentRefused); !strings.Contains(r.Detail, "issued for another key") {
			t.Errorf("%s: %s", kind, r.Detail)
		}
	}
}

// TestTPMWithoutCertificate is pending whatever its join token says; approved by
// hand, nothing that requires the claim hardware is granted. Taking the
// certificate away gives a TPM no second identity.
func TestTPMWithoutCertificate(t *testing.T) {
	enrolFaulty(t, swtpm.FaultNoCertificate, "no certificate")
}

func TestCertificateTakenAway(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n := d.machine("c-grub-sb")
	d.enrol(n, "grub")
	if _, err := d.SetStatus(ctx, operator, n.id, verifier.Revoked, "stolen"); err != nil {
		t.Fatal(err)
	}
	req, eks := n.enrollRequest(d.mint("grub", n.ek))
	req.EKs[0].Certificate, req.EKs[0].Chain = nil, nil
	c, err := d.Enroll(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Activate(ctx, c.ID, n.open(c, eks))
	refused(t, err, protocol.EnrollmentRefused)
}

// TestVendorAbsentFromBundle: with the bundle selected, a node of a maker it does
// not have is pending and told which maker and which bundle.
func TestVendorAbsentFromBundle(t *testing.T) {
	t.Parallel()
	roots, err := ekroots.Roots()
	if err != nil {
		t.Fatal(err)
	}
	d := newDomain(t, func(c *verifier.Config) {
		c.EKRoots, c.EKVendors, c.EKIntermediates = nil, ekroots.Version, ekroots.Intermediates()
		for _, r := range roots {
			c.EKRoots = append(c.EKRoots, r.DER)
		}
	})
	n := d.machine("c-grub-sb")
	out, err := d.provision(n, d.mint("grub", n.ek))
	if err != nil || out.Status != verifier.Pending {
		t.Fatalf("%+v, %v", out, err)
	}
	if want := `no root for vendor "WRIT"`; !strings.Contains(out.Reason, want) || !strings.Contains(out.Reason, ekroots.Version) {
		t.Errorf("reason %q, want %q and the bundle's version", out.Reason, want)
	}
}

// TestChainCompletedFromBundle: a TPM whose NV lacks its issuer enrols when the
// verifier holds that intermediate, which vouches for nothing without the root.
func TestChainCompletedFromBundle(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{true, false} {
		d := newDomain(t)
		n := d.machine("c-grub-sb")
		d.learn("grub", n)
		req, eks := n.enrollRequest(d.mint("grub", n.ek))
		issuer := req.EKs[0].Chain
		req.EKs[0].Chain = nil
		d.cfg.EKIntermediates = issuer
		if !trusted {
			d.cfg.EKRoots = nil
		}
		if err := d.restart(); err != nil {
			t.Fatal(err)
		}
		c, err := d.Enroll(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		out, err := d.Activate(ctx, c.ID, n.open(c, eks))
		if err != nil || (out.Status == verifier.Active) != trusted {
			t.Fatalf("trusted %v: %+v, %v", trusted, out, err)
		}
		if n.id = out.Node; trusted {
			d.mustGrant(n)
		}
	}
}

// TestMakerNames: every maker of a bundled root is one the bundle has.
func TestMakerNames(t *testing.T) {
	t.Parallel()
	if why := ekroots.Absent(new(x509.Certificate)); why == "" {
		t.Error("a certificate without a maker has a root")
	}
}

// TestIssuerFetched: only from a listed host, and what comes back vouches only
// under a configured root.
func TestIssuerFetched(t *testing.T) {
	t.Parallel()
	var body atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(body.Load().([]byte)) }))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	for name, c := range map[string]struct {
		hosts           []string
		trusted, active bool
		junk            []byte
	}{
		"listed": {hosts: []string{host}, trusted: true, active: true}, "none": {trusted: true}, "another host": {hosts: []string{"example.org"}, trusted: true},
		"not trusted": {hosts: []string{host}}, "too long": {hosts: []string{host}, trusted: true, junk: make([]byte, 1<<20)},
	} {
		d := newDomain(t)
		body.Store(d.maker.Publish(srv.URL))
		if c.junk != nil {
			body.Store(c.junk)
		}
		n := d.machine("c-grub-sb")
		if c.hosts != nil {
			d.cfg.Issuers = aia.New(c.hosts).Issuers
		}
		if !c.trusted {
			d.cfg.EKRoots = nil
		}
		if err := d.restart(); err != nil {
			t.Fatal(err)
		}
		req, eks := n.enrollRequest(d.mint("grub", n.ek))
		req.EKs[0].Chain = nil
		ch, err := d.Enroll(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		out, err := d.Activate(ctx, ch.ID, n.open(ch, eks))
		if err != nil || (out.Status == verifier.Active) != c.active {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
}
