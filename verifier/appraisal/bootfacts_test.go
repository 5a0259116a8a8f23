package appraisal_test

import (
	"testing"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestRulesSeeTheBoot: what real boots prove can be spoken of in rules, and what no
// quoted PCR proves cannot.
func TestRulesSeeTheBoot(t *testing.T) {
	all := map[string]map[string]bool{
		"c-grub-sb": {
			`boot.exited && !boot.dma_protection_off && !boot.debugger && boot.locality == 0`:            true,
			`boot.pk.size() == 1 && boot.kek.size() >= 1 && boot.db.size() >= 1 && boot.dbx.size() >= 1`: true,
			`boot.authorities.size() >= 1 && boot.authorities.all(a, a in boot.db || a.size() == 64)`:    true,
			`boot.applications.filter(a, a.pcr == 4).size() == boot.applications.size()`:                 true,
			`boot.applications.size() >= 2`:                                         true,
			`boot.command_lines.exists(c, c.contains("ima_policy=tcb"))`:            true,
			`boot.command_lines.all(c, c.contains("init=/bin/sh"))`:                 false,
			`boot.commands.size() > boot.command_lines.size()`:                      true,
			`boot.files.size() >= 2 && boot.files.all(f, f.pcr == 9)`:               true,
			`boot.variables.exists(v, v.pcr == 1 && v.name == "" && v.value != "")`: true,
			`[0, 1, 2, 3, 4, 5, 6, 7].all(p, p in boot.separators)`:                 true,
			`boot.disks.all(d, d.partitions.size() >= 1)`:                           true,
			`boot.firmware.size() + (boot.firmware_version != "" ? 1 : 0) >= 1`:     true,
			`boot.sections.size() == 0`:                                             true,
		},
		"d-uki": {
			`boot.sections.exists(s, s.name == ".linux" && s.digest.size() == 64)`: true,
			`boot.sections.exists(s, s.name == ".cmdline")`:                        true,
		},
	}
	for machine, rules := range all {
		for expr, holds := range rules {
			s := boot(t, machine)
			if v := ruled(s.taught(), expr); v.Granted() != holds {
				t.Errorf("%s: %s: holds %v, expected %v: %q", machine, expr, v.Granted(), holds, listed(v))
			}
		}
	}
	// A PCR that the log does not replay to proves nothing, whatever the log says.
	s := boot(t, "c-grub-sb")
	s.values[8] = make([]byte, 32)
	s.sign()
	if v := ruled(s, `boot.command_lines.size() > 0`); v.Granted() || !has(v, "rule/it") {
		t.Errorf("a command line of an unproven PCR counts: %q", listed(v))
	}
}

// ruled appraises the subject by its set with one rule more.
func ruled(s *subject, expr string) appraisal.Verdict {
	set, err := reference.Parse(s.in.References.Set.Marshal())
	if err != nil {
		s.t.Fatal(err)
	}
	set.Rules = []reference.Rule{{Name: "it", Expr: expr, Claim: reference.Executables, Value: 33, Why: "x"}}
	s.in.References.Set = signed(s.t, set)
	return appraisal.Appraise(s.in)
}

func has(v appraisal.Verdict, code string) bool {
	for _, f := range v.Findings {
		if f.Code == code {
			return true
		}
	}
	return false
}
