package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunBecomesTheKeeper checks what `writ run` does itself: find the keeper
// and hand everything on. What the keeper does is tested in package enclave.
func TestRunBecomesTheKeeper(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spy := filepath.Join(dir, "spy")
	if out, err := exec.Command("go", "build", "-o", spy, "./testdata/spy").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bin := filepath.Join(programs(t), "writ")
	run := func(env []string, args ...string) (code int, stdout, stderr string) {
		cmd := exec.Command(bin, append([]string{"run"}, args...)...)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "WRIT_STATE=" + dir}, env...)
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if ee := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ee) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out), errs.String()
	}

	code, out, _ := run([]string{"WRIT_KEEPER=" + spy, "WRIT_EXECUTION=p1"}, "--level", "E2", "--image", "sha256:"+strings.Repeat("1a", 32), "--drain-before", "2s", "--json-stop", "--net", "none", "--landlock-ro", "/usr", "--on-lapse", "freeze:3s", "--", "work", "--level", "x")
	want := strings.Join([]string{"-memo", "3", "-measured", "4", "-level", "E2", "-socket", "/run/writ/agent.sock", "-trust", filepath.Join(dir, "trust.json"), "-audience", "", "-parent", "p1", "-image", "sha256:" + strings.Repeat("1a", 32),
		"-argv-policy", "", "-drain-before", "2s", "-pids", "4096", "-record", "", "-freeze-for", "3s", "-stop-on-partition", "0s", "-net", "none", "-private-tmp=false", "-landlock-ro", "/usr", "-json-stop", "--", "work", "--level", "x", ""}, "\n")
	if code != 42 || out != want {
		t.Errorf("exit code %d, the keeper was given\n%s\nexpected\n%s", code, out, want)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 125, "run/usage"},
		{[]string{"--no-such-flag", "true"}, 125, "run/usage"},
		{[]string{"--level", "E9", "true"}, 125, "run/usage"},
		{[]string{"--image", "latest", "true"}, 125, "run/usage"},
		{[]string{"--on-lapse", "nothing", "true"}, 125, "run/usage"},
		{[]string{"--on-lapse", "freeze:2h", "true"}, 125, "run/usage"},
		{[]string{"true"}, 125, "run/"}, // the keeper beside writ; no trust file, or no E3
		{[]string{"writ-no-such-command"}, 127, "run/not-found"},
	} {
		if code, _, says := run(nil, c.args...); code != c.code || !strings.Contains(says, c.says) {
			t.Errorf("%q: exit code %d, expected %d and %q:\n%s", c.args, code, c.code, c.says, says)
		}
	}
	if code, _, says := run([]string{"WRIT_KEEPER=/none"}, "true"); code != 125 || !strings.Contains(says, "run/no-keeper") {
		t.Errorf("no keeper: exit code %d\n%s", code, says)
	}
}
