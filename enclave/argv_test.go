package enclave

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestArgvPolicy(t *testing.T) {
	p, err := parseArgvPolicy([]byte("# what the service may be\nserver --port=* -v\n\n  /bin/sh\tscript ...\ncp * /out\n"))
	if err != nil {
		t.Fatal(err)
	}
	for line, ok := range map[string]bool{
		"server|--port=80|-v":   true,
		"server|--port=|-v":     true,
		"server|--port|-v":      false,
		"server|-v|--port=80":   false,
		"server|--port=80":      false,
		"server|--port=80|-v|x": false,
		"Server|--port=80|-v":   false,
		"/bin/sh|script":        true,
		"/bin/sh|script|a|b c":  true,
		"/bin/sh|-c|script":     false,
		"/bin/sh":               false,
		"cp|a b|/out":           true,
		"cp||/out":              true,
		"cp|a|/out/..":          false,
		"#|what":                false,
	} {
		if got := p.allows(strings.Split(line, "|")); got != ok {
			t.Errorf("%s: %v", line, got)
		}
	}
	for _, bad := range []string{"", "# nothing\n", "* x\n", "sh*\n", "...\n", "sh ... x\n", "sh a*b\n", "sh **\n", strings.Repeat("x\n", maxPolicy)} {
		if _, err := parseArgvPolicy([]byte(bad)); err == nil {
			t.Errorf("%.20q is a policy", bad)
		}
	}
}

func FuzzArgvPolicy(f *testing.F) {
	f.Add([]byte("sh -c *\nserver ...\n"), "sh", "-c")
	f.Fuzz(func(t *testing.T, b []byte, command, arg string) {
		p, err := parseArgvPolicy(b)
		if err == nil && p.allows([]string{command, arg}) && !strings.Contains(string(b), command) {
			t.Errorf("%q allows %q", b, command)
		}
	})
}

// A command line that the policy does not allow starts nothing and asks for no token;
// of one that it does, the request names the policy and none of the arguments.
func TestArgumentsOutsideThePolicy(t *testing.T) {
	t.Parallel()
	a := newAgent(t, 60*time.Second)
	policy := filepath.Join(a.dir, "policy")
	write(t, policy, []byte("sh -c exit*\n"), 0o644)
	ran := filepath.Join(a.dir, "ran")
	run := func(policy string, command ...string) *execution {
		return a.prepare(t, "-argv-policy", policy).start(nil, command...)
	}
	run(policy, "sh", "-c", "touch "+ran).exits(ExitRefused, "run/argv")
	run(policy, "touch", ran).exits(ExitRefused, "run/argv")
	run(policy+"-none", "sh", "-c", "exit 3").exits(ExitRefused, "run/argv")
	a.notRun(t)
	if len(a.requests()) != 0 {
		t.Error("a token was asked for")
	}
	run(policy, "sh", "-c", "exit 3").exits(3, "")
	want, err := readArgvPolicy(policy)
	if err != nil {
		t.Fatal(err)
	}
	if r := a.requests(); len(r) != 1 || r[0].Argv != want.digest {
		t.Errorf("the requests are %+v, expected one that names %s", r, want.digest)
	}
	a.prepare(t).start(nil, "sh", "-c", "exit 4").exits(4, "") // the naive twin: whoever starts it decides
}
