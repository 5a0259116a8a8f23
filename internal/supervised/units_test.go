package supervised

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const units = "../../docs/systemd"

// exposure is the most that systemd-analyze may find of a unit, of 10.
var exposure = map[string]string{
	"writd.service":      "1.5",
	"writ-agent.service": "2.5",
}

// TestUnits: systemd finds nothing to say about the units we ship, and they are as
// closed as we say.
func TestUnits(t *testing.T) {
	dir := t.TempDir()
	for _, program := range []string{"writ", "writd", "writ-nri"} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	found, err := filepath.Glob(units + "/*.service")
	if err != nil || len(found) != 5 {
		t.Fatalf("units %v, %v", found, err)
	}
	var copies []string
	for _, path := range found {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b = regexp.MustCompile(`/usr/bin/(writd|writ-nri|writ)([ \n])`).ReplaceAll(b, []byte(dir+"/$1$2"))
		name := strings.Replace(filepath.Base(path), "@.", "@job.", 1)
		copied := filepath.Join(dir, name)
		if err := os.WriteFile(copied, b, 0o644); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, copied)
	}
	out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", "--recursive-errors=no"}, copies...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for name, most := range exposure {
		threshold := strings.ReplaceAll(most, ".", "")
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold="+threshold, filepath.Join(dir, name)).CombinedOutput()
		last := string(out[max(0, len(out)-200):])
		if err != nil {
			t.Errorf("%s is open to more than %s: %v\n%s", name, most, err, out)
		}
		t.Logf("%s: %s", name, last)
	}
}
