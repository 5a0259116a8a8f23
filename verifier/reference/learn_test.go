package reference_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/reference"
)

// machine is a boot of the given events ("4:kernel") and files ("/a=1"). PCRs 0
// to 15 are proven, those of the events with some value and the rest with zeros.
func machine(name string, events []string, files ...string) reference.Sample {
	s := reference.Sample{Name: name, Vendor: "WRIT", Log: new(eventlog.Log), PCRs: map[int][]byte{}}
	for p := range 16 {
		s.PCRs[p] = make([]byte, 32)
	}
	for _, e := range events {
		at, text, _ := strings.Cut(e, ":")
		pcr := uint32(slices.Index(strings.Fields("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"), at))
		s.Log.Events = append(s.Log.Events, eventlog.Event{PCR: pcr, Type: eventlog.IPL, Data: []byte(text), Digests: []eventlog.Digest{{Alg: tpm.AlgSHA256, Sum: sum(text)}}})
		s.PCRs[int(pcr)] = bytes.Repeat([]byte{1}, 32)
	}
	for _, f := range files {
		path, content, _ := strings.Cut(f, "=")
		s.IMA = append(s.IMA, ima.Entry{Path: path, FileAlg: tpm.AlgSHA256, FileDigest: sum(content)})
	}
	return s
}

func sum(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

func learn(t *testing.T, vary []int, samples ...reference.Sample) (*reference.Set, []reference.Note) {
	t.Helper()
	s, notes, err := reference.Learn("lab", samples, vary)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reference.Parse(s.Marshal()); err != nil {
		t.Errorf("what was learnt cannot be read: %v", err)
	}
	return s, notes
}

func questions(notes []reference.Note) (pcrs []int) {
	for _, n := range notes {
		if n.Question {
			pcrs = append(pcrs, n.PCR)
		}
	}
	return pcrs
}

// allowed are the digests of a PCR's places, in order.
func allowed(s *reference.Set, pcr int) (out []string) {
	for _, e := range s.PCR(pcr).Events {
		out = append(out, strings.Join(e.Allow, "|"))
	}
	return out
}

func hexed(texts ...string) (out []string) {
	for _, t := range texts {
		out = append(out, hex.EncodeToString(sum(t)))
	}
	return out
}

func TestLearnCommon(t *testing.T) {
	boot := []string{"0:firmware", "4:shim", "4:kernel", "8:cmdline"}
	s, notes := learn(t, nil, machine("a", boot, "/x=1"), machine("b", boot, "/x=1", "/y=2"))
	if got := allowed(s, 4); !slices.Equal(got, hexed("shim", "kernel")) {
		t.Errorf("PCR 4 allows %q", got)
	}
	if q := questions(notes); len(q) > 0 {
		t.Errorf("questions on PCRs %v", q)
	}
	for p := range 16 {
		switch rule := s.PCR(p); {
		case p == 10:
			if rule != nil {
				t.Error("PCR 10 is judged by its list, and there is a rule for its events")
			}
		case p == 1 || p == 5:
			if rule.Rule != reference.Ignore || rule.Why == "" {
				t.Errorf("PCR %d: %+v", p, rule)
			}
		case rule.Rule != reference.Match:
			t.Errorf("PCR %d: %+v", p, rule)
		}
	}
	if len(s.IMA.Files) != 2 || s.IMA.Violations != 0 {
		t.Errorf("IMA: %+v", s.IMA)
	}
	if s.SecureBoot != "any" || s.TPM.Vendors[0] != "WRIT" {
		t.Errorf("Secure Boot %s, vendors %v", s.SecureBoot, s.TPM.Vendors)
	}
}

// TestVariationBecomesIgnore: what varies between good boots is denied with a
// question, never ignored unasked (security rule 21).
func TestVariationBecomesIgnore(t *testing.T) {
	for _, pcr := range []string{"0", "2", "4", "7", "8", "9", "11", "14", "3", "12"} {
		p := slices.Index(strings.Fields("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14"), pcr)
		a, b := machine("a", []string{pcr + ":same", pcr + ":one"}), machine("b", []string{pcr + ":same", pcr + ":two"})
		s, notes := learn(t, nil, a, b)
		if got := allowed(s, p); s.PCR(p).Rule != reference.Match || !slices.Equal(got, []string{hexed("same")[0], ""}) {
			t.Errorf("PCR %s: %s %q", pcr, s.PCR(p).Rule, got)
		}
		if q := questions(notes); !slices.Equal(q, []int{p}) {
			t.Errorf("PCR %s: questions on %v", pcr, q)
		}
		s, notes = learn(t, []int{p}, a, b) // asked for
		if got := allowed(s, p); !slices.Equal(got, []string{hexed("same")[0], strings.Join(hexed("one", "two"), "|")}) || len(questions(notes)) > 0 {
			t.Errorf("PCR %s, as asked: %q, questions %v", pcr, got, questions(notes))
		}
		s, notes = learn(t, []int{p}, a, machine("c", []string{pcr + ":same"})) // of another length
		if got := allowed(s, p); !slices.Equal(got, hexed("same")) || !slices.Equal(questions(notes), []int{p}) {
			t.Errorf("PCR %s, another number of events: %q, questions %v", pcr, got, questions(notes))
		}
	}
}

// TestUnexplainedPCR: a PCR that was extended though no log speaks of it is
// ignored where that is harmless, and denied with a question where it is not.
func TestUnexplainedPCR(t *testing.T) {
	for p := range 16 {
		m := machine("a", nil)
		m.PCRs[p] = bytes.Repeat([]byte{1}, 32)
		s, notes := learn(t, nil, m)
		core := slices.Contains([]int{0, 2, 4, 7, 8, 9, 11, 14}, p)
		if rule := s.PCR(p).Rule; (rule == reference.Match) != core || (len(questions(notes)) == 1) != core {
			t.Errorf("PCR %d: %s, questions on %v", p, rule, questions(notes))
		}
	}
}

func TestLearnWithoutIMA(t *testing.T) {
	with, without := machine("a", nil, "/x=1"), machine("b", nil)
	for _, samples := range [][]reference.Sample{{without}, {with, without}, {without, with}} {
		s, _ := learn(t, nil, samples...)
		if s.IMA != nil || s.PCR(10) == nil {
			t.Errorf("from %d samples: files are judged (%v), or nothing is said of PCR 10 (%v)", len(samples), s.IMA, s.PCR(10))
		}
	}
}

func TestLearnFiles(t *testing.T) {
	a := machine("a", nil, "boot_aggregate=1", "/x=1", "/x=2", "/weak=1", "/raced=1")
	a.IMA[3].FileAlg, a.IMA[4].Violation = 0, true
	s, notes := learn(t, nil, a)
	if len(s.IMA.Files) != 1 || s.IMA.Files[0].Path != "/x" || len(s.IMA.Files[0].Allow) != 2 {
		t.Errorf("files: %+v", s.IMA.Files)
	}
	if !slices.Equal(questions(notes), []int{10}) { // a digest that proves nothing
		t.Errorf("questions on %v", questions(notes))
	}
}

func TestLearnFromNothing(t *testing.T) {
	if _, _, err := reference.Learn("lab", nil, nil); err == nil {
		t.Error("learnt from nothing")
	}
	if _, _, err := reference.Learn("Not a name", []reference.Sample{machine("a", nil)}, nil); err == nil {
		t.Error("learnt under a name that cannot be published")
	}
}
