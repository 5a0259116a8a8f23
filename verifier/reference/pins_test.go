package reference_test

import (
	"slices"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		version, least string
		want           bool
	}{
		{"1.10", "1.9", true},
		{"1.9", "1.10", false},
		{"1.9", "1.9", true},
		{"1.9.1", "1.9", true},
		{"1.9", "1.9.1", false},
		{"1.09", "1.9", true},
		{"N40ET41W ", "N40ET40W", true},
		{"N40ET39W", "N40ET40W", false},
		{"N41ET01W", "N40ET40W", true},
		{"GCE Virtual Firmware v2", "GCE Virtual Firmware v1", true},
		{"Other Firmware v2", "GCE Virtual Firmware v1", false},
		{"v", "v1", false},
		{"", "1", false},
		{"99999999999999999999999999", "2", true},
	} {
		if got := reference.AtLeast(c.version, c.least); got != c.want {
			t.Errorf("%q is at least %q: %v", c.version, c.least, got)
		}
	}
}

func TestSBATLevel(t *testing.T) {
	p := reference.Pins{SBAT: []reference.Component{{Name: "shim", Generation: 4}, {Name: "grub", Generation: 3}}}
	for level, want := range map[string][]string{
		"sbat,1,2025021800\nshim,4\ngrub,5\n": nil,
		"sbat,1,2022052400\nshim,2\ngrub,3\n": {"shim,2, expected 4"},
		"sbat,1,2022052400\ngrub,3\n":         {"shim,0, expected 4"},
		"shim,1\nshim,4\ngrub,3\n":            {"shim,1, expected 4"}, // the first counts
		"shim,-4\ngrub,03x\n":                 {"shim,0, expected 4", "grub,0, expected 3"},
		"":                                    {"shim,0, expected 4", "grub,0, expected 3"},
	} {
		if got := p.Lacks(level); !slices.Equal(got, want) {
			t.Errorf("%q lacks %q, want %q", level, got, want)
		}
	}
}

// TestOpenLevel: a quote-only set that promises more than values can show, or a
// set whose values would be overlooked, is refused.
func TestOpenLevel(t *testing.T) {
	quote := func() *reference.Set {
		return &reference.Set{V: 1, Name: "lab", Generation: 1, Level: reference.QuoteOnly, Bank: "sha256", SecureBoot: "any", Required: []string{reference.Hardware},
			PCRs: []reference.PCR{{PCR: 0, Rule: reference.Match, Values: []string{digest("a")}}}}
	}
	check(t, quote())
	for name, change := range map[string]func(*reference.Set){
		"another level":      func(s *reference.Set) { s.Level = "none" },
		"values at no level": func(s *reference.Set) { s.Level = "" },
		"executables":        func(s *reference.Set) { s.Required = []string{reference.Executables} },
		"files":              func(s *reference.Set) { s.IMA = &reference.IMA{Files: []reference.File{}} },
		"Secure Boot":        func(s *reference.Set) { s.SecureBoot = "required" },
		"events":             func(s *reference.Set) { s.PCRs[0].Events = []reference.Event{event("x", digest("a"))} },
		"extend":             func(s *reference.Set) { s.PCRs[0].Rule = reference.Extend },
		"value in capitals":  func(s *reference.Set) { s.PCRs[0].Values[0] = digest("A") },
		"pins":               func(s *reference.Set) { s.Pins = &reference.Pins{Firmware: "1"} },
		"empty pins":         func(s *reference.Set) { s.Level, s.PCRs, s.Pins = "", nil, &reference.Pins{} },
		"authority's name": func(s *reference.Set) {
			s.Level, s.PCRs, s.Pins = "", nil, &reference.Pins{Authorities: []string{"Debian"}}
		},
	} {
		s := quote()
		change(s)
		if s.Check() == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}
