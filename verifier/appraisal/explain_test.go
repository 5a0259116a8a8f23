package appraisal_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestExplainChangesNothing: the explained verdict is the verdict, each check is
// there once with its inputs, and a step fails exactly where findings say why.
func TestExplainChangesNothing(t *testing.T) {
	cases := map[string]func(s *subject){
		"good":       func(*subject) {},
		"no set":     func(s *subject) { s.in.References.Set = nil },
		"no log":     func(s *subject) { s.log = nil; s.sign() },
		"forged":     func(s *subject) { s.in.Evidence.Quote.Signature[20] ^= 1 },
		"other PCR":  func(s *subject) { s.in.Evidence.Quote.Values[4] = make([]byte, 32) },
		"other boot": func(s *subject) { s.values[4] = make([]byte, 32); s.sign() },
		"no TPM":     func(s *subject) { s.in.Prior.EKCertificates = nil },
		"no IMA":     func(s *subject) { s.refs(func(set *reference.Set) { set.IMA = nil }) },
		"a rule": func(s *subject) {
			s.refs(func(set *reference.Set) {
				set.Rules = []reference.Rule{{Name: "class", Expr: `node.class == "other"`, Claim: reference.Executables, Value: 33, Why: "x"}}
			})
		},
	}
	expect := map[string][]string{ // steps that fail
		"good": nil, "no set": {"references"}, "no log": {"boot-log", "claims"}, "forged": {"signature"}, "other PCR": {"pcr-values"},
		"other boot": {"pcr-4", "ima", "claims"}, "no TPM": {"ek-certificate", "claims"}, "no IMA": nil, "a rule": {"rule-class", "claims"},
	}
	for name, change := range cases {
		s := boot(t, "c-grub-sb")
		change(s)
		want := appraisal.Appraise(s.in)
		got, steps := appraisal.Explain(s.in)
		if !bytes.Equal(got.Marshal(), want.Marshal()) {
			t.Errorf("%s: explained, the verdict is another", name)
		}
		var failed []string
		seen := map[string]bool{}
		for _, st := range steps {
			if st.Detail == "" || seen[st.Name] {
				t.Errorf("%s: step %+v has no inputs or comes twice", name, st)
			}
			seen[st.Name] = true
			if st.Result == appraisal.StepFail {
				failed = append(failed, st.Name)
			}
		}
		for _, n := range expect[name] {
			if !slices.Contains(failed, n) {
				t.Errorf("%s: failed are %q, expected %q among them", name, failed, n)
			}
		}
		if (len(failed) == 0) != want.Granted() {
			t.Errorf("%s: failed are %q and the decision is %s", name, failed, want.Decision)
		}
		for _, n := range []string{"key", "signature"} {
			if !seen[n] {
				t.Errorf("%s: nothing is said of %s", name, n)
			}
		}
		if name == "forged" {
			continue
		}
		for _, n := range []string{"binding", "counters", "boot-log", "references", "ek-certificate", "secure-boot", "ima"} {
			if !seen[n] {
				t.Errorf("%s: nothing is said of %s", name, n)
			}
		}
	}
}

// TestExplainNamesInputs: the digests that went in, and what each event was
// found to be.
func TestExplainNamesInputs(t *testing.T) {
	s := boot(t, "c-grub-sb")
	_, steps := appraisal.Explain(s.in)
	for name, want := range map[string]string{
		"binding":    hexed(s.in.Challenge.Nonce),
		"pcr-values": "bank sha256",
		"boot-log":   "15047 bytes",
		"pcr-8":      "event ",
		"ima":        "entries",
		"pcr-5":      "the set ignores it: ",
	} {
		i := slices.IndexFunc(steps, func(st appraisal.Step) bool { return st.Name == name })
		if i < 0 || !strings.Contains(steps[i].Detail, want) {
			t.Errorf("step %s lacks %q: %+v", name, want, steps)
		}
	}
	sum := s.in.Evidence.Item(evidence.UEFILog).SHA256()
	if !slices.ContainsFunc(steps, func(st appraisal.Step) bool {
		return st.Name == "binding" && strings.Contains(st.Detail, hexed(sum[:]))
	}) {
		t.Error("the binding does not name the log it covers")
	}
}

// TestNearMiss: a finding names the nearest known value in the words of the set.
func TestNearMiss(t *testing.T) {
	s := boot(t, "c-grub-sb")
	log, err := eventlog.Parse(s.log)
	if err != nil {
		t.Fatal(err)
	}
	var shim string // the first program of PCR 4
	var place int
	for i := range log.Events {
		if e := &log.Events[i]; e.PCR == 4 && e.Type == eventlog.BootServicesApp {
			shim = hexed(e.Digest(tpm.AlgSHA256))
			break
		}
	}
	next := strings.Repeat("ab", 32)
	edit := func(change func(e *reference.Event)) func(*reference.Set) {
		return func(set *reference.Set) {
			p := rule(set, 4)
			place = slices.IndexFunc(p.Events, func(e reference.Event) bool { return slices.Contains(e.Allow, shim) })
			change(&p.Events[place])
			set.Names = map[string]string{shim: "shim 15.7", next: "shim 15.8"}
		}
	}
	for what, c := range map[string]struct {
		change          func(e *reference.Event)
		code            string
		expected, found string
	}{
		"vulnerable": {func(e *reference.Event) { e.Allow, e.Vulnerable = []string{next}, []string{shim} }, "boot/vulnerable-event", "allowed is shim 15.8, " + next, "shim 15.7, " + shim},
		"denied":     {func(e *reference.Event) { e.Allow, e.Deny = []string{next}, []string{shim} }, "boot/denied-event", "allowed is shim 15.8, " + next, "shim 15.7, " + shim},
		"unknown":    {func(e *reference.Event) { e.Allow = []string{next} }, "boot/unknown-event", "shim 15.8, " + next, "shim 15.7, " + shim},
	} {
		s.refs(edit(c.change))
		v := s.denies(c.code)
		for _, f := range v.Findings {
			if f.Code == c.code && (!strings.Contains(f.Expected, c.expected) || !strings.Contains(f.Found, c.found)) {
				t.Errorf("%s: expected %q, found %q; want %q and %q in them", what, f.Expected, f.Found, c.expected, c.found)
			}
		}
	}

	file := ""
	s.refs(func(set *reference.Set) {
		f := &set.IMA.Files[0]
		file = f.Path
		_, sum, _ := strings.Cut(f.Allow[0], ":")
		set.Names = map[string]string{sum: "old build", next: "coreutils 9.1-1"}
		f.Allow = []string{"sha256:" + next}
	})
	v := s.denies("ima/unknown-file")
	for _, f := range v.Findings {
		if f.Code == "ima/unknown-file" && (!strings.Contains(f.Expected, "coreutils 9.1-1") || !strings.Contains(f.Found, file) || !strings.Contains(f.Found, "old build")) {
			t.Errorf("IMA: expected %q, found %q", f.Expected, f.Found)
		}
	}
}

// TestNearMissInAList: a file that an allow list knows with another digest is named
// with the list, a package's say, and the digest there; a path that only ends like
// one of the list's is not.
func TestNearMissInAList(t *testing.T) {
	in := recorded(t, "e-grub-sb-newexec")
	set := learn(t, "c-grub-sb", "g-again", "g-keep-1").Set
	known, other := strings.Repeat("12", 32), strings.Repeat("34", 32)
	list, err := reference.NewList([]string{known + "  /bin/cp", known + "  /bin/chmod  ", other + "  x  /tmp/backdoor"})
	if err != nil {
		t.Fatal(err)
	}
	copied := *set
	ima := *set.IMA
	sum := list.Digest()
	ima.Lists = []reference.ListRef{{Digest: hexed(sum[:]), Name: "coreutils 9.1-1"}}
	copied.IMA = &ima
	whole, err := signed(t, &copied).Complete(nil, []*reference.List{list})
	if err != nil {
		t.Fatal(err)
	}
	in.References.Set = whole
	named := 0
	for _, f := range appraisal.Appraise(in).Findings {
		if f.Code != "ima/unknown-file" {
			continue
		}
		if strings.Contains(f.Expected, "coreutils 9.1-1 has sha256:"+known) {
			named++
			if !strings.HasPrefix(f.Found, "/bin/cp ") {
				t.Errorf("%q is taken for a file of the list", f.Found)
			}
		}
	}
	if named != 1 {
		t.Errorf("%d files are named with their package, want 1", named)
	}
}

// TestNamesake: an event that stands where another is expected, but describes itself
// like one that the set knows elsewhere, is held against that one in the finding.
func TestNamesake(t *testing.T) {
	s := boot(t, "c-grub-sb")
	var label string
	s.events(func(l *eventlog.Log) {
		for i := range l.Events {
			if e := &l.Events[i]; e.PCR == 4 && e.Type == eventlog.BootServicesApp {
				label = e.Type.String() + " " + e.Description()
				more := *e
				more.Digests = event(l, 4, e.Type, "another program").Digests
				l.Events = slices.Insert(l.Events, i+1, more)
				return
			}
		}
	})
	s.replay()
	s.sign()
	v := s.denies("boot/unknown-event 4")
	if !slices.ContainsFunc(v.Findings, func(f appraisal.Finding) bool {
		return f.Code == "boot/unknown-event" && strings.Contains(f.Expected, "; known as "+label+" is ")
	}) {
		t.Errorf("%q is not named in %+v", label, v.Findings)
	}
}
