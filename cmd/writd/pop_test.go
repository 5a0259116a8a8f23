package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/attestor"
)

// TestProofsByTPM: a real agent proves possession of a key in its TPM to a real
// verifier, and gets leases.
func TestProofsByTPM(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "writd", filepath.Join(t.TempDir(), "data"))
	n := d.machine("a-direct")
	d.learn(n)
	trust, err := n.http.Domain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ak.Close(); err != nil { // a TPM has three slots
		t.Fatal(err)
	}
	a, err := attestor.New(attestor.Config{Enrolment: n.enrol, Trust: trust, Dir: t.TempDir(), TPM: n.tpm, Logs: n.logs(), Verifiers: []attestor.Verifier{n.http}, Level: "E2", KeyInTPM: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for range 3 {
		g, err := a.Lease(context.Background(), n.request())
		if err != nil || g.Token == "" {
			t.Fatalf("%+v, %v", g, err)
		}
	}
}
