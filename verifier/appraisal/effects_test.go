package appraisal

import (
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

// TestEveryFindingLowersSomething: no code there is, and none there will be,
// leaves a vector as it was (security rule 20: absence and surprise deny).
func TestEveryFindingLowersSomething(t *testing.T) {
	codes := []string{"", "/", "new", "new/code", "quote/new", "boot", "rule/unknown", "rule/"}
	for _, c := range Codes() {
		if c.Code != claimRequired && c.Code != tooMany { // they speak of other findings
			codes = append(codes, c.Code)
		}
	}
	for pcr := range 24 {
		for _, suffix := range []string{unknownEvent, missingEvent, vulnerableEvent, deniedEvent} {
			codes = append(codes, area(pcr)+suffix)
		}
	}
	for _, code := range codes {
		v := Vector{InstanceIdentity: 2, Configuration: 2, Executables: 2, Hardware: 2}
		for _, e := range effects(Finding{Code: code}) {
			v.lower(e.claim, e.value)
		}
		worst := Affirming
		for _, name := range Names() {
			worst = worse(worst, TierOf(v.Claim(name)))
		}
		if worst == Affirming {
			t.Errorf("%q lowers nothing: %+v", code, v)
		}
		if strings.HasSuffix(code, vulnerableEvent) && worst != Warning {
			t.Errorf("%q is %s, want a warning", code, worst)
		}
	}
}

// TestVectorNeverRises: whatever the order of findings, the worst stays.
func TestVectorNeverRises(t *testing.T) {
	values := []int8{-128, -97, -96, -33, -32, -2, -1, 0, 1, 2, 3, 31, 32, 33, 95, 96, 99, 127}
	rank := func(v int8) int { return slices.Index([]string{Affirming, None, Warning, Contraindicated}, TierOf(v)) }
	for _, a := range values {
		for _, b := range values {
			v := Vector{Executables: a}
			v.lower(reference.Executables, b)
			if got := rank(v.Executables); got < rank(a) || got < rank(b) {
				t.Errorf("%d lowered to %d is %d", a, b, v.Executables)
			}
		}
	}
	v := Vector{}
	v.lower("unknown", 2)
	if v != (Vector{}) || v.Claim("unknown") != 0 {
		t.Error("a claim that is not derived is made")
	}
}

func TestTiers(t *testing.T) {
	for value, want := range map[int8]string{
		-128: Contraindicated, -97: Contraindicated, -96: Warning, -33: Warning, -32: Affirming, -2: Affirming, -1: None, 0: None, 1: None,
		2: Affirming, 31: Affirming, 32: Warning, 95: Warning, 96: Contraindicated, 127: Contraindicated,
	} {
		if got := TierOf(value); got != want {
			t.Errorf("%d is %s, want %s", value, got, want)
		}
	}
}
