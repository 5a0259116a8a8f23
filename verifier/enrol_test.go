package verifier_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// enrollRequest is what the machine would send.
func (n *node) enrollRequest(join string) (protocol.EnrollRequest, []device.EK) {
	n.t.Helper()
	eks, err := n.dev.EKs()
	if err != nil {
		n.t.Fatal(err)
	}
	req := protocol.EnrollRequest{JoinToken: join, AK: n.ak.Public(), Generation: 1}
	for _, ek := range eks {
		req.EKs = append(req.EKs, protocol.EK{Public: ek.Public.Marshal(), Certificate: ek.Certificate, Chain: ek.Chain})
	}
	return req, eks
}

// open activates the credentials of an enrolment.
func (n *node) open(c *protocol.EnrollChallenge, eks []device.EK) (secrets [][]byte) {
	n.t.Helper()
	for i, cred := range c.Credentials {
		s, err := n.dev.Activate(n.ak, eks[i], cred.Blob, cred.Secret)
		if err != nil {
			n.t.Fatal(err)
		}
		secrets = append(secrets, s)
	}
	return secrets
}

// TestJoinTokenSpentTwice: two machines with one token, at once: one enrols
// (security rule 17).
func TestJoinTokenSpentTwice(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	join := d.mint("grub", "")
	machines := []*node{d.machine("c-grub-sb"), d.machine("c-grub-sb"), d.machine("c-grub-sb")}
	var mu sync.Mutex
	enrolled := 0
	var wg sync.WaitGroup
	for _, n := range machines {
		wg.Go(func() {
			_, err := d.provision(n, join)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				enrolled++
			} else if r := (*protocol.Refusal)(nil); !errors.As(err, &r) || r.Code != protocol.JoinTokenRefused {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	nodes, err := d.Nodes(ctx, "", 10)
	if err != nil || enrolled != 1 || len(nodes) != 1 {
		t.Errorf("%d enrolled, %d nodes, %v", enrolled, len(nodes), err)
	}
}

// TestForeignJoinToken and TestExpiredJoinToken: checked before anything of the
// keys is looked at, and refused alike.
func TestForeignJoinToken(t *testing.T) {
	t.Parallel()
	d, other := newDomain(t), newDomain(t)
	n := d.machine("c-grub-sb")
	good := d.mint("grub", "")
	foreign := other.mint("grub", "")
	forged := good[:len(good)-3] + "AAA"
	parsed, err := keys.ParseJoinToken(good)
	if err != nil {
		t.Fatal(err)
	}
	revoked := d.mint("grub", "")
	if r, err := keys.ParseJoinToken(revoked); err != nil || d.RevokeJoinToken(ctx, operator, r.ID) != nil {
		t.Fatal(err)
	}
	size := d.log.Size()
	for name, join := range map[string]string{
		"nothing": "", "its id": parsed.ID, "another domain's": foreign, "another secret": forged, "one that was revoked": revoked, "too short": good[:20],
	} {
		req := protocol.EnrollRequest{JoinToken: join} // no keys: the token alone refuses
		_, err := d.Enroll(ctx, req)
		t.Log(name)
		refused(t, err, protocol.JoinTokenRefused)
	}
	if d.log.Size() != size {
		t.Error("the log grew")
	}
	d.pass(24*time.Hour + time.Second)
	_, err = d.provision(n, good) // expired
	refused(t, err, protocol.JoinTokenRefused)
}

// TestExpiredJoinToken: a token that ends between its two uses is not spent.
func TestExpiredJoinToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n := d.machine("c-grub-sb")
	join, err := d.MintJoinToken(ctx, operator, keys.Pin{}, protocol.NewJoinToken{Class: "grub", Life: 30})
	if err != nil {
		t.Fatal(err)
	}
	req, eks := n.enrollRequest(join.Token)
	c, err := d.Enroll(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	secrets := n.open(c, eks)
	d.pass(31 * time.Second)
	_, err = d.Activate(ctx, c.ID, secrets)
	refused(t, err, protocol.JoinTokenRefused)
}

// TestJoinTokenForAnotherTPM: a token bound to one EK enrols no other.
func TestJoinTokenForAnotherTPM(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, other := d.machine("c-grub-sb"), d.machine("c-grub-sb")
	join := d.mint("grub", other.ek)
	_, err := d.provision(n, join)
	refused(t, err, protocol.JoinTokenRefused)
	if _, err := d.provision(other, join); err != nil {
		t.Errorf("the refusal spent the token: %v", err)
	}
}

// TestJoinWithoutEKEndsPending: a leaked token that names no TPM lets in nobody
// that an operator has not seen.
func TestJoinWithoutEKEndsPending(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n := d.machine("c-grub-sb")
	d.learn("grub", n)
	out, err := d.provision(n, d.mint("grub", ""))
	if err != nil || out.Status != verifier.Pending {
		t.Fatalf("%+v, %v", out, err)
	}
	n.id = out.Node
	d.unmoved(n, d.shot(n).take(n), protocol.NodeNotActive)
	if _, err := d.SetStatus(ctx, operator, n.id, verifier.Active, "seen"); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n)
}

// TestUnknownVendorEndsPending: also with a token for its EK; approved by hand,
// its hardware is still not affirmed.
func TestUnknownVendorEndsPending(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	d.learn("grub", d.machine("c-grub-sb"))
	maker, err := swtpm.NewCA("test maker", time.Now()) // of the same name
	if err != nil {
		t.Fatal(err)
	}
	for _, opts := range []swtpm.Options{{}, {Fault: swtpm.FaultExpired}} {
		if opts.Fault == swtpm.FaultNone {
			d.maker, maker = maker, d.maker
		}
		n := d.machine("c-grub-sb", opts)
		if opts.Fault == swtpm.FaultNone {
			d.maker, maker = maker, d.maker
		}
		out, err := d.provision(n, d.mint("grub", n.ek))
		if err != nil || out.Status != verifier.Pending {
			t.Fatalf("%+v, %v", out, err)
		}
		n.id = out.Node
		d.unmoved(n, d.shot(n).take(n), protocol.NodeNotActive)
		if _, err := d.SetStatus(ctx, operator, n.id, verifier.Active, "by hand"); err != nil {
			t.Fatal(err)
		}
		d.denied(n, "tpm/ek-certificate")
	}
}

// TestSecondTPMUnderExistingName: whoever presents another's EK cannot open what
// is sealed to it, and the node of that name stays as it is.
func TestSecondTPMUnderExistingName(t *testing.T) {
	t.Parallel()
	d, victim := ready(t)
	row := d.row(victim.id)
	thief := d.machine("c-grub-sb")
	join := d.mint("grub", victim.ek)
	mine, eks := thief.enrollRequest(join)
	theirs, _ := victim.enrollRequest(join)
	mixed := mine
	mixed.EKs = theirs.EKs
	c, err := d.Enroll(ctx, mixed)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := thief.dev.Activate(thief.ak, eks[0], c.Credentials[0].Blob, c.Credentials[0].Secret); err == nil {
		t.Errorf("another TPM opened the credential: %x", s)
	}
	_, err = d.Activate(ctx, c.ID, [][]byte{make([]byte, 32)})
	refused(t, err, protocol.EnrollmentRefused)
	both := mine // its own EK first, the other's behind it
	both.EKs = append(both.EKs, theirs.EKs...)
	if c, err = d.Enroll(ctx, both); err == nil {
		own, err := thief.dev.Activate(thief.ak, eks[0], c.Credentials[0].Blob, c.Credentials[0].Secret)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Activate(ctx, c.ID, [][]byte{own})
		refused(t, err, protocol.EnrollmentRefused)
	}
	if d.row(victim.id) != row {
		t.Error("the node moved")
	}
	d.mustGrant(victim)
}

// TestEKWithAnotherPublicArea: one key, presented with other attributes, would
// have another name; only the default templates are names.
func TestEKWithAnotherPublicArea(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, other := d.machine("c-grub-sb"), d.machine("c-grub-sb")
	req, _ := n.enrollRequest(d.mint("grub", ""))
	foreign, _ := other.enrollRequest("")
	for name, bend := range map[string]func(*protocol.EnrollRequest){
		"another attribute":     func(r *protocol.EnrollRequest) { r.EKs[0].Public[6] ^= 4 },
		"another policy":        func(r *protocol.EnrollRequest) { r.EKs[0].Public[12] ^= 1 },
		"trailing bytes":        func(r *protocol.EnrollRequest) { r.EKs[0].Public = append(r.EKs[0].Public, 0) },
		"another's certificate": func(r *protocol.EnrollRequest) { r.EKs[0].Certificate = foreign.EKs[0].Certificate },
		"a broken certificate":  func(r *protocol.EnrollRequest) { r.EKs[0].Certificate = []byte{0x30} },
		"no EK":                 func(r *protocol.EnrollRequest) { r.EKs = nil },
		"one EK twice":          func(r *protocol.EnrollRequest) { r.EKs = append(r.EKs, r.EKs[0]) },
		"too many EKs":          func(r *protocol.EnrollRequest) { r.EKs = make([]protocol.EK, 9) },
		"an AK that decrypts":   func(r *protocol.EnrollRequest) { r.AK = r.EKs[0].Public },
		"an unrestricted AK":    func(r *protocol.EnrollRequest) { r.AK[5] &^= 1 },
		"no AK":                 func(r *protocol.EnrollRequest) { r.AK = nil },
	} {
		bent := req
		bent.AK = bytes.Clone(req.AK)
		bent.EKs = []protocol.EK{{Public: bytes.Clone(req.EKs[0].Public), Certificate: req.EKs[0].Certificate, Chain: req.EKs[0].Chain}}
		bend(&bent)
		_, err := d.Enroll(ctx, bent)
		t.Log(name)
		refused(t, err, protocol.EnrollmentRefused)
	}
	if _, err := d.provision(n, req.JoinToken); err != nil {
		t.Errorf("the refusals spent the token: %v", err)
	}
}

// TestActivationTriedTwice: one wrong answer spends the try, not the join token.
func TestActivationTriedTwice(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n := d.machine("c-grub-sb")
	req, eks := n.enrollRequest(d.mint("grub", n.ek))
	for _, wrong := range [][][]byte{nil, {}, {make([]byte, 32)}, {nil, nil}} {
		c, err := d.Enroll(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		right := n.open(c, eks)
		for _, s := range [][][]byte{wrong, right} {
			_, err := d.Activate(ctx, c.ID, s)
			refused(t, err, protocol.EnrollmentRefused)
		}
	}
	c, err := d.Enroll(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	right := n.open(c, eks)
	split := [][]byte{right[0][:16], right[0][16:]} // the same bytes in other pieces
	_, err = d.Activate(ctx, c.ID, split)
	refused(t, err, protocol.EnrollmentRefused)
	if c, err = d.Enroll(ctx, req); err != nil {
		t.Fatal(err)
	}
	right = n.open(c, eks)
	if _, err := d.Activate(ctx, c.ID, right); err != nil {
		t.Fatal(err)
	}
	_, err = d.Activate(ctx, c.ID, right)
	refused(t, err, protocol.EnrollmentRefused)
	_, err = d.Activate(ctx, strings.Repeat("0", 32), right)
	refused(t, err, protocol.EnrollmentRefused)
}

// TestActivationTooLate: a minute, then the try is spent.
func TestActivationTooLate(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n := d.machine("c-grub-sb")
	req, eks := n.enrollRequest(d.mint("grub", n.ek))
	c, err := d.Enroll(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	right := n.open(c, eks)
	d.pass(61 * time.Second)
	_, err = d.Activate(ctx, c.ID, right)
	refused(t, err, protocol.EnrollmentRefused)
	if c, err = d.Enroll(ctx, req); err != nil {
		t.Fatal(err)
	}
	right = n.open(c, eks)
	d.pass(58 * time.Second)
	if _, err := d.Activate(ctx, c.ID, right); err != nil {
		t.Error(err)
	}
}

// TestEnrollmentsPileUp: one nobody answered is removed by a later one.
func TestEnrollmentsPileUp(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n := d.machine("c-grub-sb")
	req, _ := n.enrollRequest(d.mint("grub", n.ek))
	for range 5 {
		if _, err := d.Enroll(ctx, req); err != nil {
			t.Fatal(err)
		}
		d.pass(61 * time.Second)
	}
	rows, err := d.log.List(ctx, "enrollment", "", 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 {
		t.Errorf("%d enrolments are kept, want the last one", len(rows))
	}
}

// TestRevokedNodeStaysRevoked: neither a good quote, nor a new join token, nor
// another EK of the same TPM brings a revoked node back (security rules 12, 17).
func TestRevokedNodeStaysRevoked(t *testing.T) {
	t.Parallel()
	for _, final := range []string{verifier.Revoked, verifier.Retired} {
		d := newDomain(t)
		n := d.machine("c-grub-sb", swtpm.Options{RSA: true})
		d.learn("grub", n)
		first, eks := n.enrollRequest(d.mint("grub", n.ek))
		first.EKs = first.EKs[:1] // the RSA EK is kept for later
		c, err := d.Enroll(ctx, first)
		if err != nil {
			t.Fatal(err)
		}
		out, err := d.Activate(ctx, c.ID, n.open(c, eks[:1]))
		if err != nil {
			t.Fatal(err)
		}
		n.id = out.Node
		base := d.claims(d.mustGrant(n).Token)
		events, cancel := d.Events(n.id)
		defer cancel()
		if _, err := d.SetStatus(ctx, operator, n.id, final, "stolen"); err != nil {
			t.Fatal(err)
		}
		if e := <-events; e.Data == "" {
			t.Error("no signed event")
		}
		if _, ended, err := d.Ended(ctx, base); err != nil || !ended {
			t.Errorf("the token is alive (%v)", err)
		}
		_, err = d.Token(ctx, base, request(d, "after"))
		refused(t, err, protocol.TokenRevoked)
		d.unmoved(n, d.shot(n).take(n), protocol.NodeNotActive)
		for _, to := range []string{verifier.Active, verifier.Pending, verifier.Suspended, verifier.Revoked, verifier.Retired, ""} {
			_, err := d.SetStatus(ctx, operator, n.id, to, "back")
			refused(t, err, protocol.IllegalAct)
		}
		_, err = d.provision(n, d.mint("grub", ""))
		refused(t, err, protocol.EnrollmentRefused)
		req, _ := n.enrollRequest(d.mint("grub", ""))
		req.EKs, eks = req.EKs[1:], eks[1:]
		if c, err = d.Enroll(ctx, req); err != nil {
			t.Fatal(err)
		}
		_, err = d.Activate(ctx, c.ID, n.open(c, eks))
		refused(t, err, protocol.EnrollmentRefused)
		d.unmoved(n, d.shot(n).take(n), protocol.NodeNotActive)
	}
}
