package reference_test

import (
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

func TestExcludePatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/var/log/**", "/var/log/a", true},
		{"/var/log/**", "/var/log/a/b/c", true},
		{"/var/log/**", "/var/log", false},
		{"/var/log/**", "/var/logs/a", false},
		{"/var/log/**", "/a/var/log/b", false},
		{"/var/*/cache/**", "/var/x/cache/y", true},
		{"/var/*/cache/**", "/var/x/y/cache/z", false},
		{"/var/log/*.log", "/var/log/a.log", true},
		{"/var/log/*.log", "/var/log/b/a.log", false},
		{"/var/log/**", "relative", false},
		{"/var/log/**", "", false},
	} {
		x := reference.Exclude{Pattern: c.pattern}
		if got := x.Matches(c.path); got != c.want {
			t.Errorf("%s covers %s: %v", c.pattern, c.path, got)
		}
	}
}

// TestOpenExclusion: what would leave programs unjudged by mistake is refused.
func TestOpenExclusion(t *testing.T) {
	for name, x := range map[string]reference.Exclude{
		"everything":           {Pattern: "/**", Why: "x", Executables: true},
		"any directory":        {Pattern: "/*/log/**", Why: "x", Executables: true},
		"relative":             {Pattern: "var/log/**", Why: "x"},
		"not clean":            {Pattern: "/var/../usr/**", Why: "x"},
		"no reason":            {Pattern: "/var/log/**"},
		"programs, unasked":    {Pattern: "/usr/share/**", Why: "x"},
		"/tmp, unasked":        {Pattern: "/tmp/**", Why: "x"},
		"malformed":            {Pattern: "/var/[", Why: "x"},
		"** in the middle":     {Pattern: "/var/**/x", Why: "x"},
		"longer than a path":   {Pattern: "/var/" + strings.Repeat("a", 300), Why: "x"},
		"a name, not a folder": {Pattern: "/var", Why: "x"},
	} {
		s := good()
		s.IMA.Exclude = []reference.Exclude{x}
		if s.Check() == nil {
			t.Errorf("accepted: %s", name)
		}
	}
	s := good()
	s.IMA.Exclude = []reference.Exclude{{Pattern: "/tmp/**", Why: "builds", Executables: true}, {Pattern: "/var/log/**", Why: "logs"}}
	check(t, s)
}

// TestOpenFiles: what is malformed would never match, and a deny list or a
// keyring would be silently empty.
func TestOpenFiles(t *testing.T) {
	for name, change := range map[string]func(*reference.IMA){
		"signed, in other words":  func(m *reference.IMA) { m.Signed = "yes" },
		"key is no key":           func(m *reference.IMA) { m.Keys = []string{"key"} },
		"dated digest, capitals":  func(m *reference.IMA) { m.Files[0].Valid = []reference.Dated{{Digest: "sha256:" + digest("A")}} },
		"verity without its hash": func(m *reference.IMA) { m.Files[0].Allow[0] = "verity:" + digest("a") },
		"verity twice":            func(m *reference.IMA) { m.Files[0].Allow[0] = "verity:verity:sha256:" + digest("a") },
		"buffer like a file":      func(m *reference.IMA) { m.Buffers = []reference.File{{Path: "/bin/sh", Allow: []string{}}} },
		"buffers out of order":    func(m *reference.IMA) { m.Buffers = []reference.File{{Path: "b"}, {Path: "a"}} },
	} {
		s := good()
		change(s.IMA)
		if s.Check() == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}
