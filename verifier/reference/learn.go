package reference

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
)

// Sample is one good boot of a reference machine. The caller has proven it:
// its quote verifies, its log replays to PCRs, its IMA entries to PCR 10.
type Sample struct {
	Name   string // where it came from, for notes
	Vendor string // the TPM's manufacturer id
	Maker  string // of the device, if it has an IAK
	Log    *eventlog.Log
	Later  []eventlog.Event // what the operating system measured after it, proven too
	Bank   tpm.Alg          // of the quote; 0 stands for SHA-256
	PCRs   map[int][]byte   // the proven values of that bank
	IMA    []ima.Entry      // the proven prefix; nil when the machine keeps none
}

func (s *Sample) bank() tpm.Alg {
	if s.Bank == 0 {
		return tpm.AlgSHA256
	}
	return s.Bank
}

// Note tells a person what was decided and why. A Question is a decision Learn
// refused to take: until it is answered the set denies.
type Note struct {
	PCR      int
	Question bool
	Text     string
}

// perMachine are the PCRs that hold one machine's settings rather than what
// runs on it; the reason is shown.
var perMachine = map[int]string{
	1: "boot order and setup options differ between machines of one class",
	5: "the partition table's identifiers differ between disks",
}

// core are the PCRs that hold what runs on a machine and by whose leave. They
// are never ignored unasked (security rule 21).
var core = []int{0, 2, 4, 7, 8, 9, 11, 14}

const imaPCR = 10

// Learn makes a set from good boots. Events common to all samples, in their
// order, are allowed. What varies between them is left denied with a question,
// never ignored, unless its PCR is in vary: then every variant is allowed.
func Learn(name string, samples []Sample, vary []int) (*Set, []Note, error) {
	if len(samples) == 0 {
		return nil, nil, fmt.Errorf("learning %s: no evidence given", name)
	}
	bank := samples[0].bank()
	for _, sm := range samples {
		if sm.bank() != bank {
			return nil, nil, fmt.Errorf("learning %s: %s quotes the %s bank and %s the %s bank; a set speaks of one", name, samples[0].Name, bank, sm.Name, sm.bank())
		}
	}
	s := &Set{V: 1, Name: name, Generation: 1, Bank: bank.String(), SecureBoot: "required", TPM: TPM{Vendors: []string{}},
		Required: []string{InstanceIdentity, Configuration, Executables, Hardware}}
	var notes []Note
	for _, sm := range samples {
		if sm.Maker != "" && !slices.Contains(s.TPM.DeviceMakers, sm.Maker) {
			s.TPM.DeviceMakers = append(s.TPM.DeviceMakers, sm.Maker)
		}
		if !slices.Contains(s.TPM.Vendors, sm.Vendor) && (sm.Vendor != "" || sm.Maker == "") {
			s.TPM.Vendors = append(s.TPM.Vendors, sm.Vendor)
		}
		if state := sm.Log.SecureBoot(); s.SecureBoot == "required" && !(state.Known && state.Enabled) {
			s.SecureBoot = "any"
			notes = append(notes, Note{PCR: 7, Text: "Secure Boot was not on in " + sm.Name + ": it is not required, and configuration can be affirmed at most at 3"})
		}
	}
	slices.Sort(s.TPM.Vendors)
	slices.Sort(s.TPM.DeviceMakers)
	for _, p := range quoted(samples) {
		if p == imaPCR && !slices.ContainsFunc(samples, func(s Sample) bool { return s.IMA == nil }) {
			continue // learnIMA speaks of it
		}
		rule, n := learnPCR(p, samples, slices.Contains(vary, p))
		s.PCRs = append(s.PCRs, rule)
		notes = append(notes, n...)
	}
	s.IMA, notes = learnIMA(samples, notes)
	if err := s.Check(); err != nil {
		return nil, nil, err
	}
	return s, notes, nil
}

// quoted lists the PCRs that every sample proves.
func quoted(samples []Sample) []int {
	var out []int
	for p := range samples[0].PCRs {
		if !slices.ContainsFunc(samples, func(s Sample) bool { return s.PCRs[p] == nil }) {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

type step struct{ digest, label string }

func learnPCR(p int, samples []Sample, vary bool) (PCR, []Note) {
	if why, ok := perMachine[p]; ok {
		return PCR{PCR: p, Rule: Ignore, Why: why}, []Note{{PCR: p, Text: "ignored: " + why}}
	}
	var runs [][]step
	for _, s := range samples {
		run := steps(&s, p)
		if len(run) == 0 && !zero(s.PCRs[p]) {
			if slices.Contains(core, p) {
				return PCR{PCR: p, Rule: Match}, []Note{{PCR: p, Question: true,
					Text: "measured, but no log explains its value in " + s.Name + ": denied. Which log speaks of it?"}}
			}
			why := "measured, but no log explains its value"
			return PCR{PCR: p, Rule: Ignore, Why: why}, []Note{{PCR: p, Text: "ignored: " + why + " in " + s.Name}}
		}
		runs = append(runs, run)
	}
	rule := PCR{PCR: p, Rule: Match}
	if same := sameLength(runs); same {
		var notes []Note
		for i := range runs[0] {
			e, n := place(p, i, runs, samples, vary)
			rule.Events = append(rule.Events, e)
			notes = append(notes, n...)
		}
		return rule, notes
	}
	common := runs[0]
	for _, r := range runs[1:] {
		common = longestCommon(common, r)
	}
	for _, st := range common {
		rule.Events = append(rule.Events, Event{Label: st.label, Allow: []string{st.digest}})
	}
	var counts []string
	for i, r := range runs {
		counts = append(counts, fmt.Sprintf("%d in %s", len(r), samples[i].Name))
	}
	return rule, []Note{{PCR: p, Question: true,
		Text: fmt.Sprintf("the number of events varies (%s): only the %d common to all are allowed, the others are denied. Are these machines of one class?", strings.Join(counts, ", "), len(common))}}
}

// place is the i-th event of every sample: one digest, or a question.
func place(p, i int, runs [][]step, samples []Sample, vary bool) (Event, []Note) {
	e := Event{Label: runs[0][i].label, Allow: []string{}}
	for _, r := range runs {
		if !slices.Contains(e.Allow, r[i].digest) {
			e.Allow = append(e.Allow, r[i].digest)
		}
	}
	if len(e.Allow) == 1 {
		return e, nil
	}
	if vary {
		return e, []Note{{PCR: p, Text: fmt.Sprintf("%s varies and every variant seen is allowed, as asked", e.Label)}}
	}
	var seen []string
	for j, r := range runs {
		seen = append(seen, fmt.Sprintf("%.12s (%s) in %s", r[i].digest, r[i].label, samples[j].Name))
	}
	e.Allow = []string{}
	return e, []Note{{PCR: p, Question: true,
		Text: fmt.Sprintf("event %d varies: %s. All are denied. Allow them with --vary %d, or learn from machines of one class", i, strings.Join(seen, ", "), p)}}
}

func steps(s *Sample, pcr int) []step {
	var out []step
	events := slices.Concat(s.Log.Events, s.Later)
	for i := range events {
		if e := &events[i]; int(e.PCR) == pcr && e.Measured() {
			out = append(out, step{hex.EncodeToString(e.Digest(s.bank())), e.Type.String() + " " + e.Description()})
		}
	}
	return out
}

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

func sameLength(runs [][]step) bool {
	return !slices.ContainsFunc(runs, func(r []step) bool { return len(r) != len(runs[0]) })
}

// longestCommon is the longest common subsequence by digest.
func longestCommon(a, b []step) []step {
	n := make([][]int, len(a)+1)
	for i := range n {
		n[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i].digest == b[j].digest {
				n[i][j] = n[i+1][j+1] + 1
			} else {
				n[i][j] = max(n[i+1][j], n[i][j+1])
			}
		}
	}
	var out []step
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i].digest == b[j].digest:
			out = append(out, a[i])
			i, j = i+1, j+1
		case n[i+1][j] >= n[i][j+1]:
			i++
		default:
			j++
		}
	}
	return out
}

// learnIMA allows every file any sample measured, with each digest seen. The
// boot_aggregate is computed anew at each appraisal.
func learnIMA(samples []Sample, notes []Note) (*IMA, []Note) {
	files, buffers := map[string]*File{}, map[string]*File{}
	for _, s := range samples {
		if s.IMA == nil {
			return nil, append(notes, Note{PCR: imaPCR, Text: s.Name + " has no IMA list: files are not judged, and executables can be affirmed at most at 3"})
		}
		for i := range s.IMA {
			e := &s.IMA[i]
			if e.Violation || e.IsBootAggregate() {
				continue
			}
			if e.FileAlg.Size() <= tpm.AlgSHA1.Size() {
				notes = append(notes, Note{PCR: imaPCR, Question: true,
					Text: fmt.Sprintf("%q was measured in %s with a hash that proves nothing: it is denied. Boot with ima_hash=sha256", e.Path, s.Name)})
				continue
			}
			in := files
			if e.Template == BufferTemplate {
				in = buffers
			}
			f := in[e.Path]
			if f == nil {
				f = &File{Path: e.Path}
				in[e.Path] = f
			}
			if d := DigestOf(e); !slices.Contains(f.Allow, d) {
				f.Allow = append(f.Allow, d)
			}
		}
	}
	out := &IMA{Files: []File{}}
	for _, f := range buffers {
		out.Buffers = append(out.Buffers, *f)
	}
	for _, f := range files {
		out.Files = append(out.Files, *f)
		if len(f.Allow) > 1 {
			notes = append(notes, Note{PCR: imaPCR, Text: fmt.Sprintf("%q was seen with %d digests; all are allowed", f.Path, len(f.Allow))})
		}
	}
	for _, l := range [][]File{out.Files, out.Buffers} {
		slices.SortFunc(l, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	}
	slices.SortFunc(notes, func(a, b Note) int {
		if a.PCR != b.PCR {
			return a.PCR - b.PCR
		}
		return strings.Compare(a.Text, b.Text)
	})
	return out, notes
}
