package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// TestUnwitnessedBundle: a bundle whose checkpoints lack the quorum that the trust
// file demands ends with 8, and with 0 once the witness has cosigned them.
func TestUnwitnessedBundle(t *testing.T) {
	t.Parallel()
	const vectors = recordings + "/vectors/bundles/"
	dir := t.TempDir()
	w, err := ledger.NewWitness("witness.invalid", ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(vectors + "trust.json")
	if err != nil {
		t.Fatal(err)
	}
	trust, err := bundle.ParseTrust(raw)
	if err != nil {
		t.Fatal(err)
	}
	trust.WitnessPolicy = fmt.Sprintf("witness w1 %s\nquorum w1\n", w.VerifierKey())
	policy := filepath.Join(dir, "trust.json")
	if err := os.WriteFile(policy, trust.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	if raw, err = os.ReadFile(vectors + "renewed.writ.json"); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "b.writ.json")
	for _, c := range []struct {
		cosign     func()
		code       int
		result     string
		witnesses  string
		underQuiet int // exit code by the policy that demands nothing
	}{
		{func() {}, exitPartial, bundle.ResultPartial, bundle.Skipped, exitOK},
		{func() { b.Receipt = cosigned(t, w, b.Receipt) }, exitPartial, bundle.ResultPartial, bundle.Skipped, exitOK},
		{func() { b.Enrolment.Receipt = cosigned(t, w, b.Enrolment.Receipt) }, exitOK, bundle.ResultVerified, bundle.Pass, exitOK},
		{func() { b.Enrolment = nil }, exitPartial, bundle.ResultPartial, bundle.Pass, exitPartial},
	} {
		c.cosign()
		raw, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errs := writ(t, "verify", file, "--trust", policy, "--json")
		var r bundle.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v: %s%s", err, out, errs)
		}
		found := ""
		for _, check := range r.Checks {
			if check.Name == "witnesses" {
				found = check.Result
			}
		}
		if code != c.code || r.Result != c.result || found != c.witnesses {
			t.Errorf("exit code %d, %s, witnesses %s; expected %d, %s, %s", code, r.Result, found, c.code, c.result, c.witnesses)
		}
		if code, out, _ := writ(t, "verify", file, "--trust", vectors+"trust.json"); code != c.underQuiet || !bytes.Contains([]byte(out), []byte(" enrolment ")) {
			t.Errorf("where nothing is demanded: exit code %d, expected %d\n%s", code, c.underQuiet, out)
		}
	}
}

// cosigned is a proof with a witness's cosignature.
func cosigned(t *testing.T, w *ledger.Witness, receipt string) string {
	t.Helper()
	p, err := ledger.ParseProof(receipt)
	if err != nil {
		t.Fatal(err)
	}
	line, err := w.Cosign(p.Note, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return receipt + string(line)
}
