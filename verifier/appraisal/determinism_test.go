package appraisal_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestOtherArchitecture: the golden verdicts come out in the same bytes where
// words have 32 bits.
func TestOtherArchitecture(t *testing.T) {
	if testing.Short() {
		return // it compiles everything anew the first time
	}
	arch := map[string]string{"amd64": "386", "arm64": "arm"}[runtime.GOARCH]
	cmd := exec.Command("go", "test", "-count=1", "-run", "^TestGoldenVerdicts$", ".")
	cmd.Env = append(os.Environ(), "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "ok") {
		t.Errorf("GOARCH=%s: %v\n%s", arch, err, out)
	}
}

// TestShuffledReferences: layers and allow lists in any order give one verdict.
func TestShuffledReferences(t *testing.T) {
	learnt := learn(t, "c-grub-sb", "g-again", "g-keep-1").Set
	var lines [3][]string
	for i, f := range learnt.IMA.Files {
		for _, d := range f.Allow {
			lines[i%3] = append(lines[i%3], strings.TrimPrefix(d, "sha256:")+"  "+f.Path)
		}
	}
	top := &reference.Set{V: 1, Name: "lab", Generation: 1, Bank: "sha256", Required: learnt.Required, PCRs: []reference.PCR{}}
	var layers []*reference.Signed
	var lists []*reference.List
	for i, name := range []string{"firmware", "loader", "system"} {
		l, err := reference.NewList(lines[i])
		if err != nil {
			t.Fatal(err)
		}
		lists = append(lists, l)
		s := *learnt
		s.Name, s.PCRs = name, nil
		for j, p := range learnt.PCRs {
			if j%3 == i {
				s.PCRs = append(s.PCRs, p)
			}
		}
		sum := l.Digest()
		s.IMA = &reference.IMA{Files: []reference.File{}, Lists: []reference.ListRef{{Digest: hex.EncodeToString(sum[:]), Name: name}}}
		layers = append(layers, signed(t, &s))
		top.Base = append(top.Base, reference.Base{Name: name, Generation: 1})
	}
	for boot, grant := range map[string]bool{"c-grub-sb": true, "g-keep-2": true, "e-grub-sb-newexec": false, "d-uki": false} {
		in := recorded(t, boot)
		var first []byte
		for range 100 {
			rand.Shuffle(3, func(i, j int) { layers[i], layers[j] = layers[j], layers[i] })
			rand.Shuffle(3, func(i, j int) { lists[i], lists[j] = lists[j], lists[i] })
			whole, err := signed(t, top).Complete(layers, lists)
			if err != nil {
				t.Fatal(err)
			}
			in.References.Set = whole
			v := appraisal.Appraise(in)
			if first == nil {
				first = v.Marshal()
			}
			if v.Granted() != grant || !bytes.Equal(v.Marshal(), first) {
				t.Fatalf("%s: granted %v\n%s\nwas\n%s", boot, v.Granted(), v.Marshal(), first)
			}
		}
	}
}
