package appraisal

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/verifier/reference"
)

// Results of a step.
const (
	StepPass    = "pass"
	StepFail    = "fail"    // the findings say why
	StepSkipped = "skipped" // nothing was looked at, and Detail says why
)

// A Step is one check of an appraisal with what went into it.
type Step struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

// Explain is [Appraise] that also says what it did, in order: each check, its
// inputs and its result. The verdict is the same, byte for byte.
func Explain(in *Input) (Verdict, []Step) {
	t := new(trace)
	return t.explain(in), t.steps
}

func (t *trace) explain(in *Input) Verdict {
	r := report{trace: t}
	q := authenticate(in, &r)
	if len(r.findings) > 0 {
		t.skip("the quote is not authentic: nothing else would mean anything", append([]string{"pcr-values", "counters", "boot-log", "references"}, judging(in)...)...)
		return conclude(in, &run{report: r})
	}
	a := &Authentic{in: in, quote: q}
	return a.appraise(t)
}

// judging names the steps of judge.
func judging(in *Input) []string {
	if in.Prior.IAK == nil {
		return []string{"ek-certificate", "pcrs", "secure-boot", "ima", "rules"}
	}
	return []string{"ek-certificate", "iak-certificate", "pcrs", "secure-boot", "ima", "rules"}
}

// trace collects steps; nil collects none.
type trace struct {
	steps   []Step
	matches []string // what the PCR's events were found to be

	found map[int]Component // by event; nil: components are not wanted
	run   *run              // what was appraised
}

func (t *trace) skip(why string, names ...string) {
	if t == nil {
		return
	}
	for _, n := range names {
		t.steps = append(t.steps, Step{n, StepSkipped, why})
	}
}

// matched notes what an event was found to be.
func (t *trace) matched(e logged, j reference.Judgement, what string) {
	if t == nil {
		return
	}
	t.matches = append(t.matches, fmt.Sprintf("event %d %s: %s", e.Index, e.digest, what))
	t.judged(e, judgements[j], what)
}

// mark and did bracket a step: it fails when there are findings since the mark.
func (r *report) mark() int { return len(r.findings) + r.dropped }

func (r *report) did(name string, mark int, inputs func() string) {
	if r.trace == nil {
		return
	}
	s := Step{name, StepPass, inputs()}
	if r.mark() > mark {
		s.Result = StepFail
	}
	r.trace.steps = append(r.trace.steps, s)
}

// bound lists the items that the binding covers.
func bound(ev *evidence.Evidence) string {
	var items []string
	for _, label := range []string{evidence.BindKey, evidence.EKCert, evidence.KeyCert, evidence.Ask, evidence.UEFILog} {
		if it := ev.Item(label); it.Present() {
			items = append(items, fmt.Sprintf("%s SHA-256 %x", label, it.SHA256()))
		}
	}
	if len(items) == 0 {
		return "no items"
	}
	return strings.Join(items, ", ")
}

func (c *Challenge) words() string {
	return fmt.Sprintf("nonce %x for %s of %s, purpose %d", c.Nonce, c.Node, c.Domain, c.Purpose)
}

func (r *run) countersWords() string {
	q := r.quote
	now := fmt.Sprintf("reset %d, restart %d, clock %d ms", q.ResetCount, q.RestartCount, q.Clock)
	p := r.in.Prior.Boot
	if p == nil {
		return now + "; nothing was proven of this key before"
	}
	return now + fmt.Sprintf("; before: reset %d, restart %d, clock %d ms", p.ResetCount, p.RestartCount, p.Clock)
}

func (r *run) bootLogWords() string {
	content := r.in.Evidence.Item(evidence.UEFILog).Content
	if r.log == nil {
		return fmt.Sprintf("%d bytes", len(content))
	}
	s := fmt.Sprintf("SHA-256 %s, %d bytes, %d events", r.log.sum, len(content), len(r.log.log.Events))
	if os := r.in.Evidence.Item(evidence.OSLog); os.Present() {
		n := 0
		for _, e := range r.later.events {
			n += len(e)
		}
		s += fmt.Sprintf("; the system's log, SHA-256 %x: %d records proven", os.SHA256(), n)
	}
	return s
}

func (r *run) referencesWords() string {
	s := r.in.References.Set
	if s == nil {
		return "none for class " + r.in.Prior.Class
	}
	return fmt.Sprintf("%s generation %d, SHA-256 %x, valid from %s to %s, judged at %s", s.Name, s.Generation, s.Digest(), stamp(s.NotBefore), stamp(s.NotAfter), stamp(r.in.At))
}

func (r *run) tpmWords() string {
	var out []string
	for _, der := range r.in.Prior.EKCertificates {
		s := "certificate SHA-256 " + hexSum(der)
		if e, err := r.endorsement(der); err == nil {
			s += fmt.Sprintf(" of %s %s %s, chain valid from %s to %s", e.vendor, e.model, e.version, stamp(e.from), stamp(e.to))
		}
		out = append(out, s)
	}
	if len(out) == 0 && r.in.Prior.IAK != nil {
		return "none is asked for: the maker of the device vouches for the TPM"
	}
	if len(out) == 0 {
		return "no certificate"
	}
	return strings.Join(out, "; ") + fmt.Sprintf("; %d roots", len(r.in.References.EKRoots))
}

// pcrWords says what a PCR was compared with and what its events were found to be.
func (r *run) pcrWords(p int, rule *reference.PCR) func() string {
	return func() string {
		value := hex.EncodeToString(r.in.Evidence.Quote.Values[p])
		if rule == nil {
			return value + ", no rule"
		}
		if r.log == nil {
			return fmt.Sprintf("%s: %s", rule.Rule, value)
		}
		s := fmt.Sprintf("%s: %s, %d events, %d places in the set", rule.Rule, value, len(r.events(p)), len(rule.Events))
		return strings.Join(append([]string{s}, r.trace.matches...), "\n")
	}
}

func (r *run) secureBootWords() string {
	if r.log == nil || !r.log.secureBoot.Known {
		return r.set.SecureBoot + ": not known"
	}
	return fmt.Sprintf("%s: event %d says enabled=%t", r.set.SecureBoot, r.log.secureBoot.Event, r.log.secureBoot.Enabled)
}

func (r *run) imaWords() string {
	content := r.in.Evidence.Item(evidence.IMALog).Content
	s := fmt.Sprintf("%d bytes, PCR 10 %x", len(content), r.in.Evidence.Quote.Values[imaPCR])
	if r.boot == nil || r.boot.IMA == nil {
		return s
	}
	i := r.boot.IMA
	s += fmt.Sprintf(": proven are %d entries, %d bytes; violations %d, unjudged by exclusion %d", i.Entries, i.Offset, i.Violations, i.Excluded)
	if r.resumed != nil && r.resumed.References == i.References && r.resumed.Offset <= i.Offset {
		s += fmt.Sprintf("; the first %d entries were judged before", r.resumed.Entries)
	}
	if rest := uint64(len(content)) - i.Offset; rest > 0 {
		s += fmt.Sprintf("; the last %d bytes came after the quote and prove nothing", rest)
	}
	return s
}

// leftOut are the steps that the set asks nothing of.
func (r *run) leftOut() {
	if r.trace == nil {
		return
	}
	if r.quoteOnly() {
		r.trace.skip("the set judges bare PCR values (quote-only)", "boot-log", "secure-boot", "ima")
		return
	}
	if r.set != nil && r.set.IMA == nil {
		r.trace.skip("the set has no ima section: what ran after boot is not judged", "ima")
	}
	if r.set != nil && r.set.SecureBoot == "any" {
		r.trace.skip(`the set says secure_boot "any"`, "secure-boot")
	}
	if r.set != nil && len(r.set.Rules) == 0 {
		r.trace.skip("the set has no rules of its own", "rules")
	}
}

// claims says what the vector came to.
func (v *Verdict) claims(required []string) string {
	var out []string
	for _, name := range Names() {
		value := v.Vector.Claim(name)
		s := fmt.Sprintf("%s %d %s", name, value, TierOf(value))
		if slices.Contains(required, name) {
			s += " (required)"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ") + "; until " + stamp(v.Until)
}

// algorithm names how the enrolled key signs.
func algorithm(k *tpm.Public) string { return fmt.Sprintf("%T", k.Key())[1:] }
