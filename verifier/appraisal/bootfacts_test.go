package appraisal_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/rules"
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
	for machine, exprs := range all {
		for expr, holds := range exprs {
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

// TestNothingFollowsFromTheUnproven: a rule that an empty list would satisfy does not
// hold where the list is empty because nothing proves it; every member has its PCRs.
func TestNothingFollowsFromTheUnproven(t *testing.T) {
	for expr, pcrs := range map[string][]int{
		`boot.firmware.all(f, f.early)`: {0}, `boot.locality == 0`: {0}, `boot.firmware_version != "x"`: {0},
		`boot.drivers.all(d, d.digest == "")`: {2}, `boot.applications.all(a, a.digest != "")`: {4},
		`boot.exited || !boot.exited`: {5}, `boot.disks.size() >= 0`: {5},
		`!boot.dma_protection_off`: {7}, `!boot.debugger`: {7}, `!("x" in boot.pk)`: {7}, `!("x" in boot.kek)`: {7}, `!("x" in boot.db)`: {7}, `!("x" in boot.dbx)`: {7},
		`boot.authorities.all(a, a != "")`: {7}, `boot.sbat_level != "x"`: {7},
		`boot.commands.all(c, c != "x")`: {8, 12}, `boot.command_lines.all(c, c != "x")`: {8, 12},
		`boot.files.all(f, f.digest != "")`: {9}, `boot.sections.size() == 0`: {11}, `boot.mok.all(m, m.digest != "")`: {14},
		`boot.variables.all(v, v.name != "x")`: {1, 3, 5, 6, 7}, `boot.actions.all(a, a != "x")`: {1, 2, 3, 4, 5, 6, 7},
		`boot.separators.all(s, s < 8)`: {0, 1, 2, 3, 4, 5, 6, 7}, `boot.other.all(o, o.digest != "")`: {0, 15},
	} {
		if v := ruled(boot(t, "c-grub-sb"), expr); !v.Granted() {
			t.Errorf("%s: %q", expr, listed(v))
		}
		for _, p := range pcrs {
			s := boot(t, "c-grub-sb")
			s.values[p] = bytes.Repeat([]byte{1}, 32)
			s.sign()
			if !has(ruled(s, expr), "rule/it") {
				t.Errorf("PCR %d is not proven, and yet: %s", p, expr)
			}
		}
	}
	known := map[string]bool{}
	for _, name := range appraisal.BootMembers() {
		known[name] = true
	}
	for f := range reflect.TypeFor[rules.Boot]().Fields() {
		if name := f.Tag.Get("cel"); !known[name] {
			t.Errorf("boot.%s rests on no PCR", name)
		}
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
