package appraisal_test

import (
	"encoding/hex"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// authorities are the certificates that allowed a recorded boot's programs.
func authorities(t *testing.T, boot string) []string {
	t.Helper()
	log, err := eventlog.Parse(recorded(t, boot).Evidence.Item(evidence.UEFILog).Content)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range log.Extract(tpm.AlgSHA256).SecureBoot.Authorities {
		out = append(out, hex.EncodeToString(a.Certificate.Fingerprint))
	}
	return out
}

// changed is the set learnt from c-grub-sb after a change.
func changed(t *testing.T, change func(*reference.Set)) *reference.Signed {
	t.Helper()
	raw := learn(t, "c-grub-sb").Marshal()
	set, err := reference.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	change(set)
	return signed(t, set)
}

func pcrOf(s *reference.Set, pcr int) *reference.PCR {
	return &s.PCRs[slices.IndexFunc(s.PCRs, func(p reference.PCR) bool { return p.PCR == pcr })]
}

// forget takes the digests of the last places of a PCR out.
func forget(s *reference.Set, pcr, n int) {
	events := pcrOf(s, pcr).Events
	for i := len(events) - n; i < len(events); i++ {
		events[i].Allow = []string{}
	}
}

// TestPinnedAuthority: the signer of what boots may stand for its digest, in PCR
// 4 alone and only if nobody else's signature counted (security rule 21).
func TestPinnedAuthority(t *testing.T) {
	signers := authorities(t, "c-grub-sb")
	if len(signers) != 2 {
		t.Fatalf("%d authorities", len(signers))
	}
	for _, c := range []struct {
		name   string
		change func(*reference.Set)
		want   []string
	}{
		{"unknown programs", func(s *reference.Set) { forget(s, 4, 3) }, []string{"boot/unknown-event 04"}},
		{"both signers pinned", func(s *reference.Set) { forget(s, 4, 3); s.Pins = &reference.Pins{Authorities: signers} }, nil},
		{"one signer pinned", func(s *reference.Set) { forget(s, 4, 3); s.Pins = &reference.Pins{Authorities: signers[1:]} }, []string{"boot/unknown-event 04"}},
		{"a program is denied", func(s *reference.Set) {
			s.Deny = []reference.Listed{{Digest: pcrOf(s, 4).Events[3].Allow[0], Why: "withdrawn"}}
			forget(s, 4, 3)
			s.Pins = &reference.Pins{Authorities: signers}
		}, []string{"boot/denied-event 04", "boot/missing-event 04"}},
		{"kernel and initrd are not signed", func(s *reference.Set) { forget(s, 9, 2); s.Pins = &reference.Pins{Authorities: signers} }, []string{"boot-files/unknown-event 09"}},
		{"the command line is not signed", func(s *reference.Set) { forget(s, 8, 1); s.Pins = &reference.Pins{Authorities: signers} }, []string{"command-line/unknown-event 08"}},
		{"no rule for initrd", func(s *reference.Set) {
			*pcrOf(s, 9) = reference.PCR{PCR: 9, Rule: reference.Ignore}
			s.Pins = &reference.Pins{Authorities: signers}
		}, []string{"reference/section 09"}},
		{"something in PCR 7 is unknown", func(s *reference.Set) {
			forget(s, 4, 3)
			forget(s, 7, 1)
			s.Pins = &reference.Pins{Authorities: signers}
		}, []string{"boot/unknown-event 04", "secure-boot/unknown-event 07"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := recorded(t, "c-grub-sb")
			in.References.Set = changed(t, c.change)
			v := appraisal.Appraise(in)
			if got := found(v); !slices.Equal(got, c.want) {
				t.Errorf("findings %q, want %q", got, c.want)
			}
			if v.Granted() != (c.want == nil) {
				t.Errorf("granted: %v\n%s", v.Granted(), v.Marshal())
			}
		})
	}
	t.Run("Secure Boot off", func(t *testing.T) {
		in := recorded(t, "d-uki")
		in.References.Set = changed(t, func(s *reference.Set) {
			s.SecureBoot = "any"
			s.Pins = &reference.Pins{Authorities: signers}
		})
		if v := appraisal.Appraise(in); !slices.Contains(found(v), "boot/unknown-event 04") {
			t.Errorf("findings %q", found(v))
		}
	})
}

// TestMinimumVersions: SBAT levels and firmware versions count where the log
// proves them, and an event above the minimum needs no digest.
func TestMinimumVersions(t *testing.T) {
	sbat := func(shim uint64) *reference.Pins {
		return &reference.Pins{SBAT: []reference.Component{{Name: "shim", Generation: shim}, {Name: "grub", Generation: 3}}}
	}
	place := func(s *reference.Set) *reference.Event { // SbatLevel
		p := pcrOf(s, 7)
		return &p.Events[len(p.Events)-2]
	}
	for _, c := range []struct {
		name   string
		change func(*reference.Set)
		want   []string
	}{
		{"level reached", func(s *reference.Set) { s.Pins = sbat(4) }, nil},
		{"level reached, digest not listed", func(s *reference.Set) { place(s).Allow = []string{}; s.Pins = sbat(4) }, nil},
		{"level not reached", func(s *reference.Set) { s.Pins = sbat(5) }, []string{"secure-boot/sbat-level 07"}},
		{"component not measured", func(s *reference.Set) {
			s.Pins = &reference.Pins{SBAT: []reference.Component{{Name: "systemd", Generation: 1}}}
		}, []string{"secure-boot/sbat-level 07"}},
		{"firmware old enough to have no version", func(s *reference.Set) { s.Pins = &reference.Pins{Firmware: "edk2-2022"} }, []string{"firmware/version 00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := recorded(t, "c-grub-sb")
			in.References.Set = changed(t, c.change)
			v := appraisal.Appraise(in)
			if got := found(v); !slices.Equal(got, c.want) || v.Granted() != (c.want == nil) {
				t.Errorf("granted %v, findings %q, want %q", v.Granted(), got, c.want)
			}
		})
	}
}

// values is a quote-only set of a recorded machine.
func values(t *testing.T, boot string) *reference.Set {
	t.Helper()
	s := &reference.Set{V: 1, Name: "lab", Generation: 1, Level: reference.QuoteOnly, Bank: "sha256", SecureBoot: "any",
		Required: []string{reference.InstanceIdentity, reference.Hardware, reference.Configuration}, TPM: reference.TPM{Vendors: []string{"id:00001014"}}}
	for p, v := range recorded(t, boot).Evidence.Quote.Values {
		rule := reference.PCR{PCR: p, Rule: reference.Match, Values: []string{hex.EncodeToString(v)}}
		if p == 10 {
			rule = reference.PCR{PCR: p, Rule: reference.Ignore, Why: "it grows"}
		}
		s.PCRs = append(s.PCRs, rule)
	}
	slices.SortFunc(s.PCRs, func(a, b reference.PCR) int { return a.PCR - b.PCR })
	return s
}

// TestQuoteOnly: a machine without a log can be judged by bare values, which
// affirm less and say so.
func TestQuoteOnly(t *testing.T) {
	in := recorded(t, "b-grub")
	in.References.Set = signed(t, values(t, "b-grub"))
	v := appraisal.Appraise(in)
	if !v.Granted() || v.Level != reference.QuoteOnly || v.Vector.Executables != 0 || v.Vector.Configuration != 3 {
		t.Errorf("%s", v.Marshal())
	}
	in = recorded(t, "e-grub-sb-initrd") // its log is not looked at
	in.References.Set = signed(t, values(t, "c-grub-sb"))
	v = appraisal.Appraise(in)
	if want := []string{"boot-files/unknown-value 09"}; !slices.Equal(found(v), want) {
		t.Errorf("findings %q, want %q", found(v), want)
	}
	s := values(t, "c-grub-sb")
	pcrOf(s, 7).Values = nil
	in.References.Set = signed(t, s)
	if v := appraisal.Appraise(in); v.Granted() || !slices.Contains(found(v), "secure-boot/unknown-value 07") {
		t.Errorf("an empty list of values allows: %q", found(v))
	}
	s = values(t, "c-grub-sb")
	s.PCRs = s.PCRs[1:]
	in.References.Set = signed(t, s)
	if v := appraisal.Appraise(in); v.Granted() || !slices.Contains(found(v), "reference/section 00") {
		t.Errorf("no rule for PCR 0: %q", found(v))
	}
}
