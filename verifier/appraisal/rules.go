package appraisal

import (
	"encoding/hex"

	"github.com/writ-attestation/writ/verifier/rules"
)

// rules evaluates the set's own conditions on what is proven so far.
func (r *run) rules() {
	if len(r.set.Rules) == 0 {
		return
	}
	f := r.facts()
	for i := range r.set.Rules {
		rule := &r.set.Rules[i]
		ok, err := rule.Holds(f)
		if r.trace != nil {
			r.trace.steps = append(r.trace.steps, Step{"rule-" + rule.Name, map[bool]string{true: StepPass, false: StepFail}[ok && err == nil], rule.Expr})
		}
		if ok && err == nil {
			continue
		}
		found := "it does not hold"
		if err != nil {
			found = "it has no answer for this evidence: something it speaks of is missing, or it costs too much"
		}
		r.say(ruleFailed+rule.Name, rule.Expr, found, rule.Why)
	}
}

// facts are what rules may speak of: proven values and verified text only.
func (r *run) facts() *rules.Facts {
	q := r.quote
	f := &rules.Facts{Node: rules.Node{Class: r.in.Prior.Class}, PCRs: map[int64]string{},
		TPM: rules.TPM{Firmware: q.Firmware, ResetCount: int64(q.ResetCount), RestartCount: int64(q.RestartCount)}}
	for _, der := range r.in.Prior.EKCertificates {
		if e, err := r.endorsement(der); err == nil {
			f.TPM.Vendor, f.TPM.Model, f.TPM.Version = e.vendor, e.model, e.version
			break
		}
	}
	for p, v := range r.in.Evidence.Quote.Values {
		f.PCRs[int64(p)] = hex.EncodeToString(v)
	}
	f.Unproven = r.unproven()
	if r.log != nil {
		f.Boot = r.bootFacts()
		if r.proven(7) {
			f.SecureBoot = rules.State{Known: r.log.secureBoot.Known, Enabled: r.log.secureBoot.Enabled}
		}
		for _, e := range append(r.log.rules[:len(r.log.rules):len(r.log.rules)], r.laterRules()...) { // of other PCRs they are the node's word alone
			if r.proven(int(e.PCR)) {
				f.Events = append(f.Events, e)
			}
		}
	}
	if r.boot.IMA != nil {
		f.IMA = rules.IMA{Entries: int64(r.boot.IMA.Entries), Violations: int64(r.boot.IMA.Violations)}
	}
	return f
}
