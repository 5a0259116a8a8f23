package reference_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

// digest is one of 32 bytes, told apart by its first letter.
func digest(c string) string { return strings.Repeat(c, 64) }

func good() *reference.Set {
	return &reference.Set{V: 1, Name: "lab", Generation: 1, Bank: "sha256", Required: []string{reference.Executables}, SecureBoot: "required",
		TPM: reference.TPM{Vendors: []string{"IFX"}},
		PCRs: []reference.PCR{
			{PCR: 0, Rule: reference.Match, Events: []reference.Event{{Label: "a", Allow: []string{digest("a")}, Vulnerable: []string{digest("b")}, Deny: []string{digest("c")}}}},
			{PCR: 4, Rule: reference.Extend, Events: []reference.Event{{Label: "k", Allow: []string{digest("c"), digest("d")}}}},
		},
		IMA: &reference.IMA{Files: []reference.File{
			{Path: "/a", Allow: []string{"sha256:" + digest("1"), "sha256:" + digest("2")}, Deny: []string{"sha256:" + digest("3")}},
			{Path: "/b", Allow: []string{"sha256:" + digest("3"), "sha1:" + strings.Repeat("4", 40)}, Vulnerable: []string{"sha256:" + digest("2")}},
		}},
		Deny:       []reference.Listed{{Digest: digest("e"), Why: "leaked"}},
		Vulnerable: []reference.Listed{{Digest: digest("e"), Why: "old"}, {Digest: digest("f"), Why: "old"}}}
}

func check(t testing.TB, s *reference.Set) *reference.Set {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSetRoundTrip(t *testing.T) {
	b := check(t, good()).Marshal()
	s, err := reference.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.Marshal(), b) || s.Digest() != good().Digest() {
		t.Error("does not come back as it went")
	}
}

func TestSetNotCanonical(t *testing.T) {
	b := string(good().Marshal())
	for name, c := range map[string]string{
		"nothing":             "",
		"null":                "null",
		"truncated":           b[:len(b)-1],
		"trailing line break": b + "\n",
		"trailing value":      b + "{}",
		"white space":         strings.Replace(b, ",", ", ", 1),
		"unknown member":      strings.Replace(b, `{"v":1`, `{"v":1,"ignore_all":true`, 1),
		"unknown in an event": strings.Replace(b, `{"label":"a"`, `{"label":"a","any":true`, 1),
		"member twice":        strings.Replace(b, `{"v":1`, `{"v":1,"v":1`, 1),
		"member in capitals":  strings.Replace(b, `"bank"`, `"Bank"`, 1),
		"other order":         strings.Replace(b, `"v":1,"name":"lab"`, `"name":"lab","v":1`, 1),
		"escaped letter":      strings.Replace(b, `"lab"`, `"\u006cab"`, 1),
		"number as a float":   strings.Replace(b, `"generation":1`, `"generation":1.0`, 1),
		"too large":           `{"v":1,"name":"` + strings.Repeat("a", reference.MaxSize) + `"}`,
	} {
		if _, err := reference.Parse([]byte(c)); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

// TestOpenSet: what would leave a set open by mistake is refused when it is
// read, not found out when it denied nothing (security rule 20).
func TestOpenSet(t *testing.T) {
	for name, change := range map[string]func(*reference.Set){
		"version 0":                     func(s *reference.Set) { s.V = 0 },
		"version 2":                     func(s *reference.Set) { s.V = 2 },
		"no name":                       func(s *reference.Set) { s.Name = "" },
		"name is a path":                func(s *reference.Set) { s.Name = "../x" },
		"generation 0":                  func(s *reference.Set) { s.Generation = 0 },
		"SHA-1 bank":                    func(s *reference.Set) { s.Bank = "sha1" },
		"no bank":                       func(s *reference.Set) { s.Bank = "" },
		"nothing required":              func(s *reference.Set) { s.Required = nil },
		"unknown claim":                 func(s *reference.Set) { s.Required = []string{"everything"} },
		"unknown rule":                  func(s *reference.Set) { s.PCRs[0].Rule = "" },
		"rule in capitals":              func(s *reference.Set) { s.PCRs[0].Rule = "Match" },
		"extend without events":         func(s *reference.Set) { s.PCRs[1].Events = nil },
		"PCR 24":                        func(s *reference.Set) { s.PCRs[1].PCR = 24 },
		"PCR -1":                        func(s *reference.Set) { s.PCRs[0].PCR = -1 },
		"PCR twice":                     func(s *reference.Set) { s.PCRs[1].PCR = 0 },
		"event digest too short":        func(s *reference.Set) { s.PCRs[0].Events[0].Allow[0] = "aa" },
		"event digest in capitals":      func(s *reference.Set) { s.PCRs[0].Events[0].Deny[0] = digest("C") },
		"event digest with a name":      func(s *reference.Set) { s.PCRs[0].Events[0].Deny[0] = "sha256:" + digest("c") },
		"files out of order":            func(s *reference.Set) { s.IMA.Files[0].Path = "/z" },
		"file twice":                    func(s *reference.Set) { s.IMA.Files[0].Path = "/b" },
		"file digest without its hash":  func(s *reference.Set) { s.IMA.Files[0].Deny[0] = digest("3") },
		"file digest in capitals":       func(s *reference.Set) { s.IMA.Files[0].Deny[0] = "sha256:" + digest("A") },
		"file digest of unknown hash":   func(s *reference.Set) { s.IMA.Files[0].Deny[0] = "md5:" + digest("3")[:32] },
		"file digest, hash in capitals": func(s *reference.Set) { s.IMA.Files[0].Deny[0] = "SHA256:" + digest("3") },
		"file digest of other length":   func(s *reference.Set) { s.IMA.Files[0].Deny[0] = "sha384:" + digest("3") },
		"denied everywhere, capitals":   func(s *reference.Set) { s.Deny[0].Digest = digest("E") },
		"denied everywhere, with hash":  func(s *reference.Set) { s.Deny[0].Digest = "sha256:" + digest("e") },
		"denied everywhere, empty":      func(s *reference.Set) { s.Deny[0].Digest = "" },
		"vulnerable, not a digest":      func(s *reference.Set) { s.Vulnerable[0].Digest = "x" },
	} {
		s := good()
		change(s)
		if err := s.Check(); err == nil {
			t.Errorf("accepted: %s", name)
		}
		if _, err := reference.Parse(s.Marshal()); err == nil {
			t.Errorf("parsed: %s", name)
		}
	}
}

// TestDenyBeatsAllow: deny > vulnerable > allow, whatever the layer or order
// (security rule 20).
func TestDenyBeatsAllow(t *testing.T) {
	s := check(t, good())
	for d, want := range map[string]reference.Judgement{
		"b": reference.Weak, "c": reference.Denied, "e": reference.Denied, "f": reference.Weak, "a": reference.Unknown,
	} {
		if got := s.Listed(digest(d)); got != want {
			t.Errorf("%s... everywhere: %v, want %v", d, got, want)
		}
	}
	for _, c := range []struct {
		path, alg, digest string
		want              reference.Judgement
	}{
		{"/a", "sha256", digest("1"), reference.Allowed},
		{"/a", "sha256", digest("2"), reference.Weak},   // vulnerable at /b
		{"/b", "sha256", digest("3"), reference.Denied}, // denied at /a
		{"/c", "sha256", digest("3"), reference.Denied}, // a renamed file
		{"/b", "sha1", strings.Repeat("4", 40), reference.Allowed},
		{"/b", "sha256", strings.Repeat("4", 40), reference.Unknown},
		{"/c", "sha256", digest("1"), reference.Unknown}, // allowed under another name only
		{"/a", "sha512", digest("1"), reference.Unknown},
		{"/a", "sha256", digest("e"), reference.Denied},
	} {
		if got := s.File(c.path, c.alg, c.digest); got != c.want {
			t.Errorf("%s %s:%.6s: %v, want %v", c.path, c.alg, c.digest, got, c.want)
		}
	}
	e := reference.Event{Allow: []string{"x"}, Vulnerable: []string{"x", "y"}, Deny: []string{"y"}}
	for d, want := range map[string]reference.Judgement{"x": reference.Weak, "y": reference.Denied, "z": reference.Unknown} {
		if got := e.Judge(d); got != want {
			t.Errorf("event judges %s %v, want %v", d, got, want)
		}
	}
	var zero reference.Event
	if zero.Judge("") != reference.Unknown || zero.Judge("x") != reference.Unknown {
		t.Error("an event that lists nothing knows something")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(good().Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := reference.Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Marshal(), b) {
			t.Fatalf("read %q, wrote %q", b, s.Marshal())
		}
		var v any
		if json.Unmarshal(b, &v) != nil {
			t.Fatal("not JSON")
		}
	})
}

func TestDiff(t *testing.T) {
	if lines := reference.Diff(check(t, good()), check(t, good())); len(lines) != 0 {
		t.Errorf("equal sets differ: %q", lines)
	}
	b := good()
	b.Generation = 2
	b.PCRs[1].Events[0].Allow = []string{digest("d")}
	b.IMA.Files = b.IMA.Files[:1]
	b.Deny = nil
	want := []string{"~ generation: 2, was 1", "~ PCR 4: k", "- file /b", "- denied everywhere: " + digest("e")}
	got := reference.Diff(check(t, good()), check(t, b))
	if len(got) != len(want) {
		t.Fatalf("lines %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("line %d: %q, want %q", i, got[i], want[i])
		}
	}
}
