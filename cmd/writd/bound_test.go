package main

import (
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestBoundByCertificate: a real agent gets a token from a real verifier that is bound
// to the certificate it comes with, and to no key of the node's.
func TestBoundByCertificate(t *testing.T) {
	t.Parallel()
	const jobs = "https://jobs.example"
	d := newDomain(t, "writd", filepath.Join(t.TempDir(), "data"), "--set", `audiences = ["`+jobs+`"]`)
	n := d.machine("a-direct")
	d.learn(n)
	trust, err := n.http.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, err := attestor.New(attestor.Config{Enrolment: n.enrol, Trust: trust, Dir: t.TempDir(), TPM: n.tpm, Logs: n.logs(), Verifiers: []attestor.Verifier{n.http}, Level: "E2", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	seen := map[string]bool{}
	for range 2 {
		got, err := a.Bound(t.Context(), jobs)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair([]byte(got.Certificate), []byte(got.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		want := token.Confirm{X5T: token.CertificateThumbprint(pair.Certificate[0])}
		c, err := token.Verify(got.Token, trust.TokenKeys, token.Expect{Issuer: trust.IssuerURL(), Domain: trust.Domain, Audience: jobs}, time.Now())
		if err != nil || c.Confirm != want || seen[c.Confirm.X5T] {
			t.Errorf("%+v, expected to be bound to %+v (%v)", c, want, err)
		}
		seen[c.Confirm.X5T] = true
	}
	if _, err := a.Bound(t.Context(), "spiffe://"+trust.Domain+"/enclave"); err == nil {
		t.Error("a token for the enclave is bound to a certificate")
	}
}
