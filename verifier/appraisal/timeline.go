package appraisal

import (
	"fmt"
	"slices"

	"github.com/writ-attestation/writ/verifier/reference"
)

// What became of a component.
const (
	ComponentAllowed    = "allowed"
	ComponentVulnerable = "vulnerable"
	ComponentDenied     = "denied"
	ComponentUnknown    = "unknown"
	ComponentUnjudged   = "unjudged" // nothing compared it, and Why says why
)

var judgements = map[reference.Judgement]string{reference.Unknown: ComponentUnknown, reference.Allowed: ComponentAllowed, reference.Weak: ComponentVulnerable, reference.Denied: ComponentDenied}

// A Component is one measured event of a boot, and what became of it.
type Component struct {
	Event     int    `json:"event"` // index in the boot log; those of the system's own log are numbered on
	PCR       int    `json:"pcr"`
	Type      string `json:"type"`   // no digest covers it
	What      string `json:"what"`   // as the event describes itself
	Digest    string `json:"digest"` // hexadecimal, of the quoted bank
	Judgement string `json:"judgement"`
	Why       string `json:"why"` // the place in the set, or why nothing was compared
}

// Timeline is [Explain] that also lists every measured event of the boot in the order
// it was measured. What is missing of a boot is in the verdict's findings alone.
func Timeline(in *Input) (Verdict, []Step, []Component) {
	t := &trace{found: map[int]Component{}}
	v := t.explain(in)
	return v, t.steps, t.components()
}

// judged notes what became of an event.
func (t *trace) judged(e logged, judgement, why string) {
	if t != nil && t.found != nil {
		t.found[e.Index] = component(e, judgement, why)
	}
}

func component(e logged, judgement, why string) Component {
	return Component{Event: e.Index, PCR: int(e.PCR), Type: e.Type.String(), What: e.Description(), Digest: e.digest, Judgement: judgement, Why: why}
}

func (t *trace) components() []Component {
	r := t.run
	if r == nil || r.log == nil {
		return nil
	}
	var out []Component
	for pcr := range 24 {
		judgement, why := r.uncompared(pcr)
		for _, e := range r.events(pcr) {
			c, ok := t.found[e.Index]
			if !ok {
				c = component(e, judgement, why)
			}
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Component) int { return a.Event - b.Event })
	return out
}

// uncompared says what the events of a PCR are that were compared with nothing, and
// why they were not: unknown where the log explains nothing of what was quoted.
func (r *run) uncompared(pcr int) (judgement, why string) {
	if r.set == nil {
		return ComponentUnjudged, "there is no reference set to judge by"
	}
	switch rule := r.set.PCR(pcr); {
	case r.quoteOnly():
		return ComponentUnjudged, "the set judges bare PCR values (quote-only)"
	case !slices.Contains(r.quote.PCRs, pcr):
		return ComponentUnjudged, fmt.Sprintf("PCR %d is not quoted", pcr)
	case rule == nil:
		return ComponentUnknown, fmt.Sprintf("the set has no rule for PCR %d", pcr)
	case rule.Rule == reference.Ignore:
		return ComponentUnjudged, r.unjudged(rule)
	case !r.proven(pcr):
		return ComponentUnknown, fmt.Sprintf("the log does not replay to the quoted value of PCR %d", pcr)
	default:
		return ComponentUnjudged, r.unjudged(rule)
	}
}
