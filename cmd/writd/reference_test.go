package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

// TestReferenceExchange exports a set as CoRIM and reads it back as values.
func TestReferenceExchange(t *testing.T) {
	dir := t.TempDir()
	in, rim, out := filepath.Join(dir, "set.json"), filepath.Join(dir, "set.corim"), filepath.Join(dir, "back.json")
	s := &reference.Set{V: 1, Name: "web", Generation: 7, Bank: "sha256", Required: []string{reference.Hardware}, SecureBoot: "any",
		PCRs: []reference.PCR{{PCR: 0, Rule: reference.Match, Events: []reference.Event{{Label: "firmware", Allow: []string{strings.Repeat("a", 64)}}}}}}
	write(t, in, append(s.Marshal(), '\n'))
	if code, _, stderr := writd(t, "reference", "export", in, "-o", rim); code != 0 {
		t.Fatalf("export: exit code %d: %s", code, stderr)
	}
	if code, _, stderr := writd(t, "reference", "import", rim, "--name", "web", "-o", out); code != 0 || !strings.Contains(stderr, "no TPM vendor") {
		t.Fatalf("import: exit code %d: %s", code, stderr)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	back, err := reference.Parse(b[:len(b)-1])
	if err != nil || back.Level != reference.QuoteOnly || len(back.PCR(0).Values) != 1 {
		t.Errorf("%v: %s", err, b)
	}
	if code, _, _ := writd(t, "reference", "import", in, "--name", "web", "-o", out); code != 1 {
		t.Errorf("importing what is no CoRIM: exit code %d", code)
	}
	if code, _, _ := writd(t, "reference", "import", rim, "-o", out); code != 2 {
		t.Errorf("importing without a name: exit code %d", code)
	}
}
