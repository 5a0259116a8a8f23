package reference_test

import (
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

func read(t testing.TB, s *reference.Set) *reference.Signed {
	t.Helper()
	env, err := reference.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	out, err := reference.Read(env)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// layer is a set with one file and one place of PCR 4.
func layer(name string, change func(*reference.Set), base ...reference.Base) *reference.Set {
	s := &reference.Set{V: 1, Name: name, Generation: 3, Base: base, Bank: "sha256", Required: []string{reference.Executables}, PCRs: []reference.PCR{}}
	if change != nil {
		change(s)
	}
	return s
}

func event(label string, allow ...string) reference.Event {
	return reference.Event{Label: label, Allow: append([]string{}, allow...)}
}

// TestDenyBeatsAllowInEveryLayer: whatever the layer or order (security rule 20).
func TestDenyBeatsAllowInEveryLayer(t *testing.T) {
	allow := func(s *reference.Set) {
		s.IMA = &reference.IMA{Violations: 2, Files: []reference.File{{Path: "/f", Allow: []string{"sha256:" + digest("a"), "sha256:" + digest("b"), "sha256:" + digest("c")}}}}
		s.PCRs = []reference.PCR{{PCR: 4, Rule: reference.Extend, Events: []reference.Event{event("shim", digest("1")), event("kernel", digest("2"))}}}
		s.SecureBoot, s.NotAfter = "any", 200
	}
	deny := func(s *reference.Set) {
		s.IMA = &reference.IMA{Files: []reference.File{{Path: "/g", Allow: []string{}, Deny: []string{"sha256:" + digest("a")}}}}
		s.Vulnerable = []reference.Listed{{Digest: digest("b"), Why: "old"}}
		s.PCRs = []reference.PCR{{PCR: 4, Rule: reference.Match, Events: []reference.Event{event("kernel", digest("3"))}}}
		s.SecureBoot, s.NotAfter, s.Required = "required", 100, []string{reference.Hardware}
	}
	for name, changes := range map[string][2]func(*reference.Set){"the base denies": {allow, deny}, "the class denies": {deny, allow}} {
		t.Run(name, func(t *testing.T) {
			top := read(t, layer("web", changes[0], reference.Base{Name: "base", Generation: 3}))
			s, err := top.Complete([]*reference.Signed{read(t, layer("base", changes[1]))}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for d, want := range map[string]reference.Judgement{"a": reference.Denied, "b": reference.Weak, "c": reference.Allowed, "d": reference.Unknown} {
				if got, _ := s.FileAt("/f", []byte("sha256:"+digest(d)), 1); got != want {
					t.Errorf("%s: %v, want %v", d, got, want)
				}
			}
			p := s.PCR(4)
			if p.Rule != reference.Match || len(p.Events) != 2 || len(p.Events[1].Allow) != 2 {
				t.Errorf("PCR 4: %+v", p)
			}
			if s.SecureBoot != "required" || s.NotAfter != 100 || len(s.Required) != 2 || s.IMA.Violations != 0 || s.Name != "web" {
				t.Errorf("%s", s.Marshal())
			}
			if s.Digest() == s.Own() || s.Own() != top.Own() {
				t.Error("the composition has the digest of its class")
			}
		})
	}
}

// TestShuffledLayers: the order in which layers are given changes no byte.
func TestShuffledLayers(t *testing.T) {
	var layers []*reference.Signed
	var base []reference.Base
	for i, c := range "abcdef" {
		d := digest(string(c))
		layers = append(layers, read(t, layer("base-"+string(c), func(s *reference.Set) {
			s.PCRs = []reference.PCR{{PCR: i, Rule: reference.Match, Events: []reference.Event{event("x", d)}}, {PCR: 9, Rule: reference.Match, Events: []reference.Event{event("grub", d)}}}
			s.IMA = &reference.IMA{Files: []reference.File{{Path: "/f", Allow: []string{"sha256:" + d}}}}
			s.TPM.Vendors = []string{string(c)}
		})))
		base = append(base, reference.Base{Name: "base-" + string(c), Generation: 1})
	}
	top := read(t, layer("web", nil, base...))
	first, err := top.Complete(layers, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		rand.Shuffle(len(layers), func(i, j int) { layers[i], layers[j] = layers[j], layers[i] })
		s, err := top.Complete(layers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s.Digest() != first.Digest() {
			t.Fatalf("another composition:\n%s\n%s", s.Marshal(), first.Marshal())
		}
	}
}

// TestWrongBase: a set is never judged by without exactly what it builds on.
func TestWrongBase(t *testing.T) {
	base := read(t, layer("base", nil))
	own := base.Own()
	named := reference.Base{Name: "base", Generation: 3}
	for name, c := range map[string]struct {
		base   []reference.Base
		layers []*reference.Signed
		want   string
	}{
		"missing":          {[]reference.Base{named}, nil, "not in force"},
		"rolled back":      {[]reference.Base{{Name: "base", Generation: 4}}, []*reference.Signed{base}, "generation 4 or more, found 3"},
		"another digest":   {[]reference.Base{{Name: "base", Digest: digest("a")}}, []*reference.Signed{base}, "with digest"},
		"another name":     {[]reference.Base{named}, []*reference.Signed{read(t, layer("other", nil))}, "not in force"},
		"one too many":     {[]reference.Base{named}, []*reference.Signed{base, read(t, layer("other", nil))}, "nothing builds on"},
		"given twice":      {[]reference.Base{named}, []*reference.Signed{base, base}, "twice"},
		"unasked":          {nil, []*reference.Signed{base}, "nothing builds on"},
		"builds on itself": {[]reference.Base{{Name: "loop", Generation: 1}}, []*reference.Signed{read(t, layer("loop", nil, reference.Base{Name: "web", Generation: 1}))}, "itself"},
		"contradicts order": {[]reference.Base{{Name: "order", Generation: 1}}, []*reference.Signed{read(t, layer("order", func(s *reference.Set) {
			s.PCRs = []reference.PCR{{PCR: 4, Rule: reference.Match, Events: []reference.Event{event("b", digest("b")), event("a", digest("a"))}}}
		}))}, "does not fit"},
	} {
		top := read(t, layer("web", func(s *reference.Set) {
			s.PCRs = []reference.PCR{{PCR: 4, Rule: reference.Match, Events: []reference.Event{event("a", digest("a")), event("b", digest("b")), event("c", digest("c"))}}}
		}, c.base...))
		if _, err := top.Complete(c.layers, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if len(c.base) > 0 && top.Whole() {
			t.Errorf("%s: whole all the same", name)
		}
	}
	top := read(t, layer("web", nil, reference.Base{Name: "base", Digest: hex.EncodeToString(own[:])}))
	if _, err := top.Complete([]*reference.Signed{base}, nil); err != nil {
		t.Error(err)
	}
}
