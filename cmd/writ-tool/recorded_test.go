package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
)

// writ runs a command within the test and returns what it printed.
func writ(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, nil, &out, &errs)
	return code, out.String(), errs.String()
}

// TestRecordedMachines judges every recorded machine by references that were
// learnt from one of them: what differs is found in the PCRs that SOURCES.md
// says, and nowhere else.
func TestRecordedMachines(t *testing.T) {
	t.Parallel()
	const partial = exitPartial // all holds, but no history is there to check
	for _, c := range []struct {
		boot, learnt string
		code         int
		findings     string // by code and PCR, with how many there are
	}{
		{"a-direct", "a-direct", partial, ""},
		{"c-grub-sb", "c-grub-sb", partial, ""},
		{"d-uki", "d-uki", partial, ""},
		{"d-uki-sb", "d-uki-sb", partial, ""},
		{"g-again", "c-grub-sb", partial, ""},
		{"g-keep-1", "g-again", partial, ""},
		{"g-keep-2", "g-again", partial, ""},
		{"f-ima-ng", "f-ima-ng", partial, ""},
		{"h-sha384", "c-grub-sb", partial, ""}, // in its sha256 bank
		{"f-ima-legacy", "f-ima-legacy", exitDenied, "189×ima/weak-digest@10 ima/boot-aggregate@10"},
		{"b-grub", "c-grub-sb", exitDenied, "boot/no-log"},
		{"e-grub-sb-cmdline", "c-grub-sb", exitDenied, "3×command-line/unknown-event@8 boot-files/unknown-event@9"},
		{"e-grub-sb-initrd", "c-grub-sb", exitDenied, "boot-files/unknown-event@9"},
		{"e-grub-sb-newexec", "c-grub-sb", exitDenied, "3×ima/unknown-file@10"},
		{"e-grub-sb-race", "c-grub-sb", exitDenied, "quote/pcr-digest"}, // pcrs.json was read later
		{"d-uki", "d-uki-sb", exitDenied, "2×boot/unknown-event@4 2×firmware/unknown-event@0 5×secure-boot/unknown-event@7 secure-boot/missing-event@7 secure-boot/off@7"},
	} {
		t.Run(c.boot+" by "+c.learnt, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			set, trust := learnRecorded(t, dir, c.learnt)
			code, out, errs := writ(t, "verify", "--recorded", recordings+"/boots/"+c.boot, "--reference", set, "--trust", trust, "--json")
			var r bundle.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("exit code %d, %v\n%s%s", code, err, out, errs)
			}
			if code != c.code || r.Verdict.Binding != "raw-nonce" {
				t.Errorf("exit code %d, expected %d; %s", code, c.code, out)
			}
			if got := tally(&r); got != c.findings {
				t.Errorf("findings %s, expected %s", got, c.findings)
			}
		})
	}
}

// tally counts findings by code and PCR.
func tally(r *bundle.Report) string {
	count := map[string]int{}
	for _, f := range r.Verdict.Findings {
		name := f.Code
		if f.PCR != nil {
			name += fmt.Sprintf("@%d", *f.PCR)
		}
		if f.Code != "claim/not-affirming" { // follows from the others
			count[name]++
		}
	}
	var out []string
	for name, n := range count {
		if n > 1 {
			name = fmt.Sprintf("%d×%s", n, name)
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// learnRecorded makes a signed reference set from a recorded machine, and a trust
// file with its signer and the makers of all recorded TPMs.
func learnRecorded(t *testing.T, dir, boot string) (set, trust string) {
	t.Helper()
	plain, key := filepath.Join(dir, "set.json"), filepath.Join(dir, "key.pem")
	set, trust = filepath.Join(dir, "set.signed.json"), filepath.Join(dir, "trust.json")
	if code, _, errs := writ(t, "reference", "learn", "--name", "lab", "-o", plain, "--recorded", recordings+"/boots/"+boot); code != 0 {
		t.Fatalf("learning from %s: exit code %d\n%s", boot, code, errs)
	}
	code, _, errs := writ(t, "reference", "sign", plain, "--key", key, "--create-key", "-o", set)
	if code != 0 {
		t.Fatalf("signing: exit code %d\n%s", code, errs)
	}
	_, public, _ := strings.Cut(errs, "its public key:\n")
	public, _, _ = strings.Cut(public, "signed ")
	file := bundle.Trust{V: 1, Domain: "recorded.invalid", ReferenceKeys: []string{public}}
	for _, path := range glob(t, "boots/*/ca/swtpm-localca-rootca-cert.pem") {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file.EKRoots = append(file.EKRoots, string(raw))
	}
	if err := os.WriteFile(trust, file.Marshal(), 0o644); err != nil {
		t.Fatal(err)
	}
	return set, trust
}
