package appraisal_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestTimelineIsTheVerdicts: a component is allowed exactly where no finding says
// otherwise, every measured event is there once and in order, and the verdict is the
// same.
func TestTimelineIsTheVerdicts(t *testing.T) {
	s := boot(t, "c-grub-sb")
	log, err := eventlog.Parse(s.log)
	if err != nil {
		t.Fatal(err)
	}
	first := slices.IndexFunc(log.Events, func(e eventlog.Event) bool { return e.PCR == 4 && e.Type == eventlog.BootServicesApp })
	program := hexed(log.Events[first].Digest(tpm.AlgSHA256))
	edit := func(change func(e *reference.Event)) func(*reference.Set) {
		return func(set *reference.Set) {
			p := rule(set, 4)
			change(&p.Events[slices.IndexFunc(p.Events, func(e reference.Event) bool { return slices.Contains(e.Allow, program) })])
		}
	}
	for name, c := range map[string]struct {
		change    func(s *subject)
		judgement string
	}{
		"good": {func(*subject) {}, appraisal.ComponentAllowed},
		"unknown": {func(s *subject) {
			s.refs(edit(func(e *reference.Event) { e.Allow = []string{hexed(make([]byte, 32))} }))
		}, appraisal.ComponentUnknown},
		"vulnerable": {func(s *subject) { s.refs(edit(func(e *reference.Event) { e.Allow, e.Vulnerable = nil, e.Allow })) }, appraisal.ComponentVulnerable},
		"denied":     {func(s *subject) { s.refs(edit(func(e *reference.Event) { e.Allow, e.Deny = nil, e.Allow })) }, appraisal.ComponentDenied},
		"no set":     {func(s *subject) { s.in.References.Set = nil }, appraisal.ComponentUnjudged},
		"ignored": {func(s *subject) {
			s.refs(func(set *reference.Set) { *rule(set, 4) = reference.PCR{PCR: 4, Rule: reference.Ignore, Why: "x"} })
		}, appraisal.ComponentUnjudged},
		"not replayed": {func(s *subject) { s.values[4] = make([]byte, 32); s.sign() }, appraisal.ComponentUnknown},
	} {
		s := boot(t, "c-grub-sb")
		c.change(s)
		verdict, steps, components := appraisal.Timeline(s.in)
		want := appraisal.Appraise(s.in)
		if !bytes.Equal(verdict.Marshal(), want.Marshal()) || len(steps) == 0 {
			t.Errorf("%s: the verdict is another, or has no steps", name)
		}
		at := 0
		for i := range log.Events {
			if !log.Events[i].Measured() {
				continue
			}
			if at == len(components) || components[at].Event != i || components[at].Digest != hexed(log.Events[i].Digest(tpm.AlgSHA256)) || components[at].Why == "" {
				t.Fatalf("%s: event %d is not in its place among %d components", name, i, len(components))
			}
			at++
		}
		x := components[slices.IndexFunc(components, func(c appraisal.Component) bool { return c.Event == first })]
		if x.Judgement != c.judgement {
			t.Errorf("%s: the program is %s (%s), want %s", name, x.Judgement, x.Why, c.judgement)
		}
		for _, f := range verdict.Findings {
			if f.Event == nil || f.PCR == nil || *f.PCR == 10 {
				continue
			}
			if i := slices.IndexFunc(components, func(c appraisal.Component) bool { return c.Event == *f.Event }); i < 0 || components[i].Judgement == appraisal.ComponentAllowed {
				t.Errorf("%s: %s at event %d, which is shown as allowed", name, f.Code, *f.Event)
			}
		}
	}
}
