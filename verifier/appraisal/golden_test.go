package appraisal_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

const (
	vectors = "../../testdata/vectors/verdicts/"
	grubSet = "grub.reference.json" // learnt from c-grub-sb, g-again and g-keep-1
)

// golden is one of testdata/vectors/verdicts: what must come out, written by
// hand from testdata/SOURCES.md, and the bytes it came out in. The input is the
// recorded machine, the reference set beside it, the machine's own root, and at.
type golden struct {
	Boot string `json:"boot"`
	Why  string `json:"why"`
	At   int64  `json:"at"`

	Reference string `json:"reference,omitempty"` // file beside it; the grub set if empty
	OSLog     string `json:"os_log,omitempty"`    // what the node sent as systemd's log

	Expect struct {
		Decision string   `json:"decision"`
		Tier     string   `json:"tier"`
		Findings []string `json:"findings"` // "code PCR", sorted, each once, claims left out
	} `json:"expect"`
	Verdict string `json:"verdict"`
}

// TestGoldenVerdicts: the same input gives the same bytes, in this release and
// in ten years. -update may write other bytes, never another outcome.
func TestGoldenVerdicts(t *testing.T) {
	paths, err := filepath.Glob(vectors + "*.verdict.json")
	if err != nil || len(paths) < 21 {
		t.Fatalf("%d vectors, %v", len(paths), err)
	}
	for _, p := range paths {
		t.Run(filepath.Base(p), func(t *testing.T) {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			var g golden
			if err := json.Unmarshal(b, &g); err != nil {
				t.Fatal(err)
			}
			in := recorded(t, g.Boot)
			in.At, in.References.Set = g.At, published(t, cmp.Or(g.Reference, grubSet))
			if g.OSLog != "" {
				in.Evidence.Set(evidence.OSLog, evidence.Item{Content: []byte(g.OSLog)})
			}
			v := appraisal.Appraise(in)
			if got := kinds(v); v.Decision != g.Expect.Decision || v.Tier != g.Expect.Tier || !slices.Equal(got, g.Expect.Findings) {
				t.Fatalf("%s, %s, %q\nwant %s, %s, %q", v.Decision, v.Tier, got, g.Expect.Decision, g.Expect.Tier, g.Expect.Findings)
			}
			for range 99 {
				if again := appraisal.Appraise(in); !bytes.Equal(again.Marshal(), v.Marshal()) {
					t.Fatalf("the same input gives\n%s\nand\n%s", again.Marshal(), v.Marshal())
				}
			}
			if got := string(v.Marshal()); got != g.Verdict {
				if !update() {
					i := 0
					for i < min(len(got), len(g.Verdict)) && got[i] == g.Verdict[i] {
						i++
					}
					t.Fatalf("from byte %d on the verdict is %.200q, want %.200q", i, got[i:], g.Verdict[i:])
				}
				g.Verdict = got
				out, err := json.MarshalIndent(g, "", " ")
				if err == nil {
					err = os.WriteFile(p, append(out, '\n'), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// published is a set of a vector, with what it names.
func published(t *testing.T, name string) *reference.Signed {
	t.Helper()
	raw, err := os.ReadFile(vectors + name)
	if err != nil {
		t.Fatal(err)
	}
	set, layers, lists, err := reference.Open(raw)
	if err == nil && !set.Whole() {
		set, err = set.Complete(layers, lists)
	}
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func update() bool {
	f := flag.Lookup("update")
	return f != nil && f.Value.String() == "true"
}

// kinds are the findings as "code PCR", sorted, each once.
func kinds(v appraisal.Verdict) []string {
	out := []string{}
	for _, f := range listed(v) {
		parts := strings.Fields(f)
		out = append(out, strings.Join(parts[:min(len(parts), 2)], " "))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestGrubReference: the set beside the vectors is what the three good boots
// teach, with no question left.
func TestGrubReference(t *testing.T) {
	var samples []reference.Sample
	for _, b := range []string{"c-grub-sb", "g-again", "g-keep-1"} {
		samples = append(samples, sample(t, b))
	}
	set, notes, err := reference.Learn("lab", samples, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		if n.Question {
			t.Errorf("question on PCR %d: %s", n.PCR, n.Text)
		}
	}
	env := signed(t, set).Envelope
	if update() {
		if err := os.WriteFile(vectors+grubSet, env, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(vectors + grubSet); err != nil || !bytes.Equal(env, want) {
		t.Errorf("%s is not what is learnt now (%v); run with -update", grubSet, err)
	}
}

// TestNewExecutablesAreNamed: a program made after boot is named by its path.
func TestNewExecutablesAreNamed(t *testing.T) {
	in := recorded(t, "e-grub-sb-newexec")
	in.References.Set = learn(t, "c-grub-sb", "g-again", "g-keep-1")
	v := appraisal.Appraise(in)
	var names []string
	for _, f := range v.Findings {
		if f.Code == "ima/unknown-file" {
			path, _, _ := strings.Cut(f.Found, " ")
			names = append(names, path)
		}
	}
	if want := []string{"/bin/cp", "/bin/chmod", "/tmp/backdoor"}; !slices.EqualFunc(names, want, strings.HasSuffix) {
		t.Errorf("named %q, want %q", names, want)
	}
}

// shuffled is the input as another verifier has it: through JSON, and with
// every item set in another order.
func shuffled(t *testing.T, in *appraisal.Input) *appraisal.Input {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := new(appraisal.Input)
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	ev := evidence.New(out.Evidence.Quote)
	for _, l := range []string{evidence.UEFILog, evidence.Ask, evidence.BindKey, evidence.IMALog} {
		ev.Set(l, out.Evidence.Item(l))
	}
	out.Evidence = ev
	return out
}

type lockedMemory struct{ sync.Map }

func (m *lockedMemory) Recall(key string) any     { v, _ := m.Load(key); return v }
func (m *lockedMemory) Keep(key string, fact any) { m.Store(key, fact) }

// TestSameInputSameBytes: 100 times, at once, with facts remembered and without.
func TestSameInputSameBytes(t *testing.T) {
	memory := new(lockedMemory)
	for _, name := range []string{"c-grub-sb", "g-keep-2", "d-uki", "e-grub-sb-newexec"} {
		s := boot(t, name)
		want := appraisal.Appraise(s.in)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				in := *s.in
				if i%25 == 0 {
					in = *shuffled(t, s.in)
				}
				if i%2 == 0 {
					in.Memory = memory
				}
				if v := appraisal.Appraise(&in); !bytes.Equal(v.Marshal(), want.Marshal()) {
					t.Errorf("%s: verdict %d is\n%s\nwant\n%s", name, i, v.Marshal(), want.Marshal())
				}
			})
		}
		wg.Wait()
	}
}

// TestVerdictNamesItsInputs: any other input has another digest in the verdict,
// and a verdict comes back from JSON as it went.
func TestVerdictNamesItsInputs(t *testing.T) {
	for name, bend := range map[string]func(*subject){
		"evidence":   func(s *subject) { s.in.Evidence.Set(evidence.OSLog, evidence.Item{Content: []byte("x")}) },
		"challenge":  func(s *subject) { s.in.Challenge.Issued++ },
		"prior":      func(s *subject) { s.in.Prior.EK = append(bytes.Clone(s.in.Prior.EK), 0) },
		"references": func(s *subject) { s.refs(func(r *reference.Set) { r.Generation++ }) },
		"roots":      func(s *subject) { s.in.References.EKRoots = append(s.in.References.EKRoots, []byte("x")) },
		"time":       func(s *subject) { s.in.At++ },
	} {
		s := boot(t, "c-grub-sb")
		first := appraisal.Appraise(s.in)
		bend(s)
		if v := appraisal.Appraise(s.in); v.Inputs == first.Inputs && v.At == first.At {
			t.Errorf("another %s gives the same digests", name)
		}
	}
	before := boot(t, "d-uki").denies()
	var back appraisal.Verdict
	if err := json.Unmarshal(before.Marshal(), &back); err != nil || !bytes.Equal(back.Marshal(), before.Marshal()) {
		t.Errorf("does not come back as it went: %v", err)
	}
}
