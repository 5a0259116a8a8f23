package reference

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Diff says in words how b differs from a, one line a change, in the order of
// the sets: what is newly allowed ("+"), no longer allowed ("-") or changed ("~").
func Diff(a, b *Set) []string {
	d := &diff{}
	d.value("name", a.Name, b.Name)
	d.value("generation", a.Generation, b.Generation)
	d.value("valid from", a.NotBefore, b.NotBefore)
	d.value("valid until", a.NotAfter, b.NotAfter)
	d.value("required claims", strings.Join(a.Required, ", "), strings.Join(b.Required, ", "))
	d.value("secure boot", a.SecureBoot, b.SecureBoot)
	d.value("level", cmp.Or(a.Level, "with logs"), cmp.Or(b.Level, "with logs"))
	d.value("key of proof of possession", cmp.Or(a.PoP, "anywhere"), cmp.Or(b.PoP, "anywhere"))
	d.list("pinned: ", pinned(a.Pins), pinned(b.Pins))
	d.list("builds on ", bases(a), bases(b))
	d.list("TPM vendor ", a.TPM.Vendors, b.TPM.Vendors)
	d.list("maker of devices ", a.TPM.DeviceMakers, b.TPM.DeviceMakers)
	d.pcrs(a, b)
	d.files(a, b)
	d.rules(a, b)
	d.list("denied everywhere: ", listed(a.Deny), listed(b.Deny))
	d.list("known to be vulnerable: ", listed(a.Vulnerable), listed(b.Vulnerable))
	d.list("name ", named(a.Names), named(b.Names))
	return d.lines
}

func named(names map[string]string) []string {
	var out []string
	for _, d := range slices.Sorted(maps.Keys(names)) {
		out = append(out, d+": "+names[d])
	}
	return out
}

type diff struct{ lines []string }

func (d *diff) say(format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diff) value(what string, a, b any) {
	if a != b {
		d.say("~ %s: %v, was %v", what, b, a)
	}
}

func (d *diff) list(what string, a, b []string) {
	for _, s := range a {
		if !slices.Contains(b, s) {
			d.say("- %s%s", what, s)
		}
	}
	for _, s := range b {
		if !slices.Contains(a, s) {
			d.say("+ %s%s", what, s)
		}
	}
}

func listed(l []Listed) []string {
	var out []string
	for _, x := range l {
		out = append(out, x.Digest+" ("+x.Why+")")
	}
	return out
}

func (d *diff) pcrs(a, b *Set) {
	for i := range 24 {
		p, q := a.PCR(i), b.PCR(i)
		switch {
		case p == nil && q == nil:
		case q == nil:
			d.say("- PCR %d: its rule (%s) is gone, so quotes that cover it are denied", i, p.Rule)
		case p == nil:
			d.say("+ PCR %d: %s, %d events", i, q.Rule, len(q.Events))
		default:
			d.value(fmt.Sprintf("PCR %d rule", i), p.Rule, q.Rule)
			d.list(fmt.Sprintf("PCR %d value ", i), p.Values, q.Values)
			d.places(i, p.Events, q.Events)
		}
	}
}

// places aligns two orders of events by what they allow, and calls a place that
// went and one that came in the same gap a change.
func (d *diff) places(pcr int, a, b []Event) {
	common := longestCommon(asSteps(a), asSteps(b))
	i, j := 0, 0
	for k := 0; k <= len(common); k++ {
		gone, came := until(a, &i, common, k), until(b, &j, common, k)
		for n := range max(len(gone), len(came)) {
			switch {
			case n >= len(came):
				d.say("- PCR %d: %s (%s)", pcr, gone[n].Label, allowed(gone[n]))
			case n >= len(gone):
				d.say("+ PCR %d: %s (%s)", pcr, came[n].Label, allowed(came[n]))
			default:
				d.say("~ PCR %d: %s (%s), was %s (%s)", pcr, came[n].Label, allowed(came[n]), gone[n].Label, allowed(gone[n]))
			}
		}
		i, j = i+1, j+1
	}
}

// until returns the places from *i up to the k-th common one, and moves *i there.
func until(events []Event, i *int, common []step, k int) []Event {
	from := *i
	for *i < len(events) && (k == len(common) || asStep(events[*i]).digest != common[k].digest) {
		*i++
	}
	return events[min(from, len(events)):*i]
}

func asStep(e Event) step {
	return step{digest: strings.Join(e.Allow, " ") + "|" + strings.Join(e.Vulnerable, " ") + "|" + strings.Join(e.Deny, " ") + fmt.Sprint("|", e.Optional), label: e.Label}
}

func asSteps(events []Event) []step {
	out := make([]step, len(events))
	for i, e := range events {
		out[i] = asStep(e)
	}
	return out
}

func allowed(e Event) string {
	if len(e.Allow) == 0 {
		return "nothing allowed"
	}
	var short []string
	for _, d := range e.Allow {
		short = append(short, d[:min(len(d), 12)])
	}
	return strings.Join(short, " or ")
}

func (d *diff) files(a, b *Set) {
	if (a.IMA == nil) != (b.IMA == nil) {
		d.say("~ IMA: files are judged: %v, was %v", b.IMA != nil, a.IMA != nil)
	}
	if a.IMA == nil || b.IMA == nil {
		return
	}
	d.value("IMA violations tolerated", a.IMA.Violations, b.IMA.Violations)
	d.value("signed files", cmp.Or(a.IMA.Signed, "not allowed by their signature"), cmp.Or(b.IMA.Signed, "not allowed by their signature"))
	d.list("file signer ", keyNames(a.IMA.Keys), keyNames(b.IMA.Keys))
	d.list("excluded: ", excluded(a.IMA), excluded(b.IMA))
	d.list("allow list ", listNames(a.IMA), listNames(b.IMA))
	d.judged("buffer ", a.IMA.Buffers, b.IMA.Buffers, a.buffers, b.buffers)
	d.judged("file ", a.IMA.Files, b.IMA.Files, a.files, b.files)
}

func (d *diff) judged(what string, a, b []File, ofA, ofB map[string]*File) {
	for _, f := range a {
		if ofB[f.Path] == nil {
			d.say("- %s%s", what, f.Path)
		}
	}
	for _, f := range b {
		old := ofA[f.Path]
		if old == nil {
			d.say("+ %s%s", what, f.Path)
			continue
		}
		d.list(what+f.Path+": ", old.Allow, f.Allow)
		d.list(what+f.Path+", for a time: ", dated(old.Valid), dated(f.Valid))
		d.list(what+f.Path+", vulnerable: ", old.Vulnerable, f.Vulnerable)
		d.list(what+f.Path+", denied: ", old.Deny, f.Deny)
	}
}

func dated(l []Dated) (out []string) {
	for _, v := range l {
		out = append(out, fmt.Sprintf("%s from %d to %d", v.Digest, v.NotBefore, v.NotAfter))
	}
	return out
}

func pinned(p *Pins) (out []string) {
	if p == nil {
		return nil
	}
	for _, a := range p.Authorities {
		out = append(out, "programs signed by the certificate "+a)
	}
	if p.Firmware != "" {
		out = append(out, "firmware "+p.Firmware+" or later")
	}
	for _, c := range p.SBAT {
		out = append(out, fmt.Sprintf("SBAT %s,%d or later", c.Name, c.Generation))
	}
	return out
}

func bases(s *Set) (out []string) {
	for _, b := range s.Base {
		out = append(out, strings.TrimRight(fmt.Sprintf("%s generation %d or more %s", b.Name, b.Generation, b.Digest), " "))
	}
	return out
}

func excluded(m *IMA) (out []string) {
	for _, x := range m.Exclude {
		out = append(out, x.Pattern+" ("+x.Why+")")
	}
	return out
}

func listNames(m *IMA) (out []string) {
	for _, l := range m.Lists {
		out = append(out, l.Name+" "+l.Digest)
	}
	return out
}

// keyNames shows keys by the digest of their text.
func keyNames(keys []string) (out []string) {
	for _, k := range keys {
		out = append(out, fmt.Sprintf("SHA-256 %x", sha256.Sum256([]byte(k))))
	}
	return out
}

func (d *diff) rules(a, b *Set) {
	for _, r := range a.Rules {
		if b.rules[r.Name] == nil {
			d.say("- rule %s", r.Name)
		}
	}
	for _, r := range b.Rules {
		switch old := a.rules[r.Name]; {
		case old == nil:
			d.say("+ rule %s: %s", r.Name, r.Expr)
		case old.Expr != r.Expr || old.Claim != r.Claim || old.Value != r.Value:
			d.say("~ rule %s: %s lowers %s to %d, was %s lowers %s to %d", r.Name, r.Expr, r.Claim, r.Value, old.Expr, old.Claim, old.Value)
		}
	}
}
