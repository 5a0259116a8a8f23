package appraisal_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

// TestVectorReferences: the sets beside the golden verdicts are made from what the
// good boots teach by the changes written here.
func TestVectorReferences(t *testing.T) {
	good := []string{"c-grub-sb", "g-again", "g-keep-1"}
	fresh := func() *reference.Set {
		set, err := reference.Parse(learn(t, good...).Marshal())
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	edit := func(change func(*reference.Set)) []byte {
		s := fresh()
		change(s)
		return signed(t, s).Envelope
	}
	for name, raw := range map[string][]byte{
		"composed": composed(t, fresh()),
		"window": edit(func(s *reference.Set) {
			f := &s.IMA.Files[0]
			f.Valid = []reference.Dated{{Digest: f.Allow[0], NotAfter: at + 100}, {Digest: "sha256:" + strings.Repeat("ab", 32), NotBefore: at - 100}}
			f.Allow = []string{}
		}),
		"pinned": edit(func(s *reference.Set) {
			forget(s, 4, 3)
			s.Pins = &reference.Pins{Authorities: authorities(t, "c-grub-sb")}
		}),
		"quote-only": signed(t, values(t, "b-grub")).Envelope,
		"excluded": edit(func(s *reference.Set) {
			for _, p := range []string{"/bin/chmod", "/bin/cp", "/tmp/backdoor"} {
				s.IMA.Exclude = append(s.IMA.Exclude, reference.Exclude{Pattern: p, Why: "a test", Executables: true})
			}
		}),
		"vulnerable": edit(func(s *reference.Set) {
			p := pcrOf(s, 4)
			e := &p.Events[slices.IndexFunc(p.Events, func(e reference.Event) bool { return strings.HasPrefix(e.Label, "EV_EFI_BOOT_SERVICES_APPLICATION") })]
			e.Vulnerable, e.Allow = e.Allow, []string{strings.Repeat("cd", 32)}
			s.Names = map[string]string{e.Vulnerable[0]: "shim 15.7", e.Allow[0]: "shim 15.8"}
		}),
	} {
		path := vectors + name + ".reference.json"
		if update() {
			if err := os.WriteFile(path, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || !bytes.Equal(raw, want) {
			t.Errorf("%s is not what is made now (%v); run with -update", path, err)
		}
	}
}

// composed splits a set: firmware and keys to a base, the loader to a site, the
// files to the class.
func composed(t *testing.T, s *reference.Set) []byte {
	t.Helper()
	base := &reference.Set{V: 1, Name: "base", Generation: 1, Bank: s.Bank, Required: s.Required, TPM: s.TPM, SecureBoot: s.SecureBoot, PCRs: []reference.PCR{}}
	site := &reference.Set{V: 1, Name: "site", Generation: 1, Bank: s.Bank, Required: s.Required, TPM: s.TPM, SecureBoot: s.SecureBoot, PCRs: []reference.PCR{}}
	for _, p := range s.PCRs {
		to := base
		if slices.Contains([]int{4, 8, 9, 11, 12, 14}, p.PCR) {
			to = site
		}
		to.PCRs = append(to.PCRs, p)
	}
	s.PCRs, s.Base = []reference.PCR{}, []reference.Base{{Name: "base", Generation: 1}, {Name: "site", Generation: 1}}
	return reference.Pack(signed(t, s), []*reference.Signed{signed(t, base), signed(t, site)}, nil)
}
