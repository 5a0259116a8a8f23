package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

// learnArgs learn a set from recorded machines into out.
func learnArgs(out string, boots ...string) []string {
	args := []string{"reference", "learn", "--name", "lab", "-o", out}
	for _, b := range boots {
		args = append(args, "--recorded", recordings+"/boots/"+b)
	}
	return args
}

func readLearnt(t *testing.T, path string) *reference.Set {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set, err := reference.Parse([]byte(strings.TrimSpace(string(raw))))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestLearntFromThreeBoots: what three good boots teach the command accepts the
// fourth, and denies each changed machine by the events that SOURCES.md says and by
// no others. Where boot PCRs differ so does the boot_aggregate, which is held against
// the quote and not against the set: it is what it should be, and no finding.
func TestLearntFromThreeBoots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := filepath.Join(dir, "lab.json")
	code, _, errs := writ(t, learnArgs(plain, "c-grub-sb", "g-again", "g-keep-1")...)
	if code != exitOK || !strings.Contains(errs, "0 questions") {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	for _, p := range readLearnt(t, plain).PCRs {
		if p.Rule != reference.Ignore {
			continue
		}
		if slices.Contains([]int{0, 2, 4, 7, 8, 9, 11, 14}, p.PCR) {
			t.Errorf("PCR %d is ignored unasked", p.PCR)
		}
		if p.Why == "" || !strings.Contains(errs, fmt.Sprintf("PCR %d: ignored: %s", p.PCR, p.Why)) {
			t.Errorf("why PCR %d is ignored (%q) is not said: %s", p.PCR, p.Why, errs)
		}
	}
	key, set := filepath.Join(dir, "key.pem"), filepath.Join(dir, "signed.json")
	if code, _, errs := writ(t, "reference", "sign", plain, "--key", key, "--create-key", "-o", set); code != exitOK {
		t.Fatalf("signing: %d: %s", code, errs)
	}
	_, trust := learnRecorded(t, t.TempDir(), "c-grub-sb") // for the makers of the TPMs
	trust = trusting(t, dir, trust, key)
	for boot, c := range map[string]struct {
		code  int
		where []string // "code@PCR", each once, claims left out
		named []string // in what was found
	}{
		"g-keep-2":          {exitPartial, nil, nil}, // all holds; a recording has no history
		"e-grub-sb-cmdline": {exitDenied, []string{"boot-files/unknown-event@9", "command-line/unknown-event@8"}, []string{"vmlinuz"}},
		"e-grub-sb-initrd":  {exitDenied, []string{"boot-files/unknown-event@9"}, []string{"initrd"}},
		"e-grub-sb-newexec": {exitDenied, []string{"ima/unknown-file@10"}, []string{"/cp ", "/chmod ", "/tmp/backdoor "}},
		"d-uki":             {exitDenied, nil, nil},
		"b-grub":            {exitDenied, nil, nil},
	} {
		code, out, errs := writ(t, "verify", "--recorded", recordings+"/boots/"+boot, "--reference", set, "--trust", trust, "--json")
		var r bundle.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != c.code {
			t.Errorf("%s: exit code %d, want %d: %v %s%s", boot, code, c.code, err, errs, out)
			continue
		}
		var where []string
		found := ""
		for _, f := range r.Verdict.Findings {
			if strings.HasPrefix(f.Code, "claim/") {
				continue
			}
			if f.Code != "boot/no-log" && f.PCR != nil && *f.PCR != 10 && f.Event == nil && !strings.HasSuffix(f.Code, "/missing-event") {
				t.Errorf("%s: no event is named: %+v", boot, f)
			}
			found += f.Found + " \n"
			if f.PCR != nil {
				where = append(where, fmt.Sprintf("%s@%d", f.Code, *f.PCR))
			} else {
				where = append(where, f.Code)
			}
		}
		count := len(where)
		slices.Sort(where)
		where = slices.Compact(where)
		switch boot {
		case "b-grub":
			if !slices.Contains(where, "boot/no-log") {
				t.Errorf("%s: %q", boot, where)
			}
		case "d-uki":
			if !slices.Contains(where, "boot/unknown-event@4") || !slices.Contains(where, "uki/unknown-event@11") {
				t.Errorf("%s: %q", boot, where)
			}
		default:
			if !slices.Equal(where, c.where) || boot == "e-grub-sb-newexec" && count != 3 {
				t.Errorf("%s: %d findings %q, want %q", boot, count, where, c.where)
			}
		}
		for _, name := range c.named {
			if !strings.Contains(found, name) {
				t.Errorf("%s: %q is not named in %s", boot, name, found)
			}
		}
	}
}

// trusting is a trust file that also accepts the key's signatures.
func trusting(t *testing.T, dir, base, key string) string {
	t.Helper()
	raw, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	file, err := bundle.ParseTrust(raw)
	if err != nil {
		t.Fatal(err)
	}
	code, public, errs := writ(t, "reference", "key", "-o", key)
	if code != exitOK {
		t.Fatalf("reading the key: %s", errs)
	}
	file.ReferenceKeys = append(file.ReferenceKeys, public)
	out := filepath.Join(dir, "trust.json")
	if err := os.WriteFile(out, file.Marshal(), 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLearnAsksAboutVariation: boots that differ where programs are measured give
// a set that denies there, and a question each; never an ignored PCR.
func TestLearnAsksAboutVariation(t *testing.T) {
	t.Parallel()
	for other, pcrs := range map[string][]int{"e-grub-sb-cmdline": {8, 9}, "e-grub-sb-initrd": {9}, "d-uki": {0, 4, 7, 8, 9, 11, 14}} {
		out := filepath.Join(t.TempDir(), "lab.json")
		code, _, errs := writ(t, learnArgs(out, "c-grub-sb", other)...)
		if code != exitOK {
			t.Fatalf("%s: exit code %d: %s", other, code, errs)
		}
		set := readLearnt(t, out)
		for _, p := range []int{0, 2, 4, 7, 8, 9, 11, 14} {
			if rule := set.PCR(p); rule == nil || rule.Rule != reference.Match {
				t.Errorf("%s: PCR %d: %+v", other, p, rule)
			}
			if asked := strings.Contains(errs, fmt.Sprintf("question PCR %d: ", p)); asked != slices.Contains(pcrs, p) {
				t.Errorf("%s: PCR %d: asked %v\n%s", other, p, asked, errs)
			}
		}
	}
}

// TestLearnRefusesForgeries: nothing is learnt from evidence that does not verify.
func TestLearnRefusesForgeries(t *testing.T) {
	t.Parallel()
	for file, code := range map[string]string{"sig.bin": "quote/", "nonce.hex": "quote/binding", "eventlog.bin": "boot/", "ima.bin": "ima/", "ak_pub.bin": "quote/"} {
		dir := filepath.Join(t.TempDir(), "forged")
		if err := os.CopyFS(dir, os.DirFS(recordings+"/boots/c-grub-sb")); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := len(b) / 2
		if file == "nonce.hex" {
			b[at] = map[bool]byte{true: '1', false: '0'}[b[at] == '0']
		} else {
			b[at] ^= 1
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "lab.json")
		got, _, errs := writ(t, "reference", "learn", "--name", "lab", "-o", out, "--recorded", dir)
		if _, err := os.Stat(out); got != exitInvalid || err == nil || !strings.Contains(errs, code) {
			t.Errorf("%s: exit code %d, set written: %v: %s", file, got, err == nil, errs)
		}
	}
}

// TestExplainLeavesNothingOut: each recorded machine's appraisal has every step once,
// with inputs, as pass, fail or skipped with a reason.
func TestExplainLeavesNothingOut(t *testing.T) {
	t.Parallel()
	set, trust := learnRecorded(t, t.TempDir(), "c-grub-sb")
	for _, boot := range []string{"a-direct", "b-grub", "c-grub-sb", "d-uki", "e-grub-sb-newexec", "f-ima-legacy", "g-keep-2", "h-sha384"} {
		_, out, errs := writ(t, "verify", "--recorded", recordings+"/boots/"+boot, "--reference", set, "--trust", trust, "--explain", "--json")
		var r bundle.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%s: %v: %s", boot, err, errs)
		}
		seen := map[string]string{}
		for _, s := range slices.Concat(r.Checks, r.Steps) {
			if s.Detail == "" || !slices.Contains([]string{bundle.Pass, bundle.Fail, bundle.Skipped}, s.Result) {
				t.Errorf("%s: %+v", boot, s)
			}
			seen[s.Name] = s.Result
		}
		want := []string{"ek-roots", "references", "history", "key", "signature", "binding", "pcr-values", "counters", "boot-log", "ek-certificate", "secure-boot", "ima", "rules"}
		for p := range 16 {
			if p != 10 {
				want = append(want, fmt.Sprintf("pcr-%d", p))
			}
		}
		for _, name := range want {
			if seen[name] == "" {
				t.Errorf("%s: nothing is said of %s", boot, name)
			}
		}
		if seen["history"] != bundle.Skipped || r.Result == bundle.ResultVerified {
			t.Errorf("%s: what was not checked is not said: %s, history %s", boot, r.Result, seen["history"])
		}
	}
}
