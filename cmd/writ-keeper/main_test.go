package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/writ-attestation/writ/internal/manual"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"writ-keeper": main}) }

func TestManual(t *testing.T) {
	help, err := exec.Command("writ-keeper", "--help").Output()
	if err != nil || !strings.HasPrefix(string(help), about) {
		t.Fatalf("%v\n%s", err, help)
	}
	manual.Check(t, "../../docs/commands.md", "writ-keeper", manual.Flags(string(help)))
}

// TestMistakes: what is typed wrong is said in a line, with where to look.
func TestMistakes(t *testing.T) {
	for _, args := range [][]string{nil, {"--nonsense"}, {"true"}, {"--level", "E9", "--socket", "x", "--trust", "y", "true"}} {
		out, err := exec.Command("writ-keeper", args...).CombinedOutput()
		ended, ok := err.(*exec.ExitError)
		if !ok || ended.ExitCode() != 125 || strings.Count(string(out), "\n") != 2 || !strings.Contains(string(out), "hint: see 'writ run --help'") {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
}
