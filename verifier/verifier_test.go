package verifier_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
)

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func verdictOf(t testing.TB, o *protocol.Outcome) appraisal.Verdict {
	t.Helper()
	var v appraisal.Verdict
	if err := json.Unmarshal(o.Verdict, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func codes(v appraisal.Verdict) []string {
	var out []string
	for _, f := range v.Findings {
		out = append(out, f.Code)
	}
	return out
}

// TestFirstToken goes the whole way: a bare TPM, provisioning, references learnt
// from another machine, a token, renewals, a derived token, an offline bundle.
func TestFirstToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	d.learn("grub", d.machine("c-grub-sb"))
	n := d.machine("g-keep-2")
	d.enrol(n, "grub")
	first := d.mustGrant(n)
	c := d.claims(first.Token)
	if c.Writ.Seq != 1 || c.Subject != d.NodeSubject(n.id) || c.Writ.Prev != "" {
		t.Errorf("first token: %+v", c)
	}
	for range 3 { // renewals send the log by digest and the list from an offset
		s := d.shot(n)
		s.byDigest, s.offset = true, len(n.list)-100
		d.mustGrantShot(n, s)
	}
	out := d.mustGrant(n)
	if c := d.claims(out.Token); c.Writ.Seq != 5 || c.Writ.Prev == "" {
		t.Errorf("fifth token: seq %d prev %q", c.Writ.Seq, c.Writ.Prev)
	}
	g, err := d.Token(context.Background(), d.claims(out.Token), evidence.Request{Audience: d.EnclaveAudience(), Execution: "job-1", Level: "E3", R: random(32), ID: "lease-1"})
	if err != nil {
		t.Fatal(err)
	}
	if c := d.claims(g.Token); c.Writ.Seq != 6 || c.Writ.Execution != "job-1" {
		t.Errorf("derived token: %+v", c.Writ)
	}
	b, err := d.Bundle(context.Background(), n.id, -1)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := bundle.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if r := bundle.Verify(back, d.trust()); r.Result != bundle.ResultVerified {
		t.Errorf("bundle: %+v", r)
	}
}

// denied attests and requires a recorded denial with a finding.
func (d *domain) denied(n *node, code string) *protocol.Refusal {
	d.t.Helper()
	_, err := d.attest(n)
	r := refused(d.t, err, protocol.PolicyDenied)
	v := verdictOf(d.t, r.Denied)
	if !slices.Contains(codes(v), code) {
		d.t.Fatalf("findings %v, want %s among them", codes(v), code)
	}
	node, err := d.Node(context.Background(), n.id)
	if err != nil {
		d.t.Fatal(err)
	}
	if node.Legitimate(d.now()) || node.State != verifier.FailClosed {
		d.t.Fatalf("denied, but the node is %s", node.State)
	}
	return r
}

func TestNoReferenceNoToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n := d.machine("c-grub-sb")
	d.enrol(n, "grub")
	d.denied(n, "reference/none")
}
