package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/writ-attestation/writ/enclave"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/reference"
)

// TestDomainScript runs testdata/domain/*.txtar, each with a domain of its own:
// a real verifier and machines with software TPMs, and the commands as users
// type them. See domainCommands for what scripts have beside those of testscript.
func TestDomainScript(t *testing.T) {
	t.Parallel()
	bin := programs(t)
	cmds := maps.Clone(domainCommands)
	cmds["exits"], cmds["answer"] = exits, answer
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/domain",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[siteKey{}] = &site{writd: filepath.Join(bin, "writd")}
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("BIN", bin)
			env.Setenv("WRIT_KEEPER", filepath.Join(bin, "writ-keeper"))
			env.Setenv("WRIT_LEVEL", enclave.Detect().Level.String())
			env.Setenv("NONCE", strings.Repeat("5a", 32))
			env.Setenv("SAVED", env.Getenv("PATH")) // some scripts hide programs
			return nil
		},
		Cmds: cmds,
	})
}

// site is the domain of one script.
type site struct {
	writd    string
	maker    *swtpm.CA
	machines map[string]*machine
}

type siteKey struct{}

func siteOf(ts *testscript.TestScript) *site { return ts.Value(siteKey{}).(*site) }

var domainCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	// domain [FLAGS]: start writd dev. Sets WRIT_VERIFIER, WRIT_OPERATOR and DATA,
	// and writes reference.key, which reference sets are to be signed with.
	"domain": func(ts *testscript.TestScript, neg bool, args []string) { ts.Check(siteOf(ts).start(ts, args)) },

	// machine NAME BOOT: boot a machine from a recorded log. NAME.toml is the
	// configuration file that writ has there.
	"machine": func(ts *testscript.TestScript, neg bool, args []string) {
		ts.Check(siteOf(ts).boot(ts, args[0], args[1]))
	},

	// tamper NAME: the machine loads a boot application nobody knows.
	"tamper": func(ts *testscript.TestScript, neg bool, args []string) {
		n, err := siteOf(ts).machines[args[0]].loadForeign("foreign.efi")
		ts.Check(err)
		ts.Setenv("EVENT", fmt.Sprint(n))
	},

	// until CODE REGEXP PROGRAM ARGS: run it again and again until it exits with
	// CODE and what it printed matches.
	"until": func(ts *testscript.TestScript, neg bool, args []string) {
		re, err := regexp.Compile("(?m)" + args[1])
		ts.Check(err)
		for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			code, err := exitOf(ts, args[2:])
			ts.Check(err)
			if fmt.Sprint(code) == args[0] && re.MatchString(ts.ReadFile("stdout")) {
				return
			}
			if time.Now().After(deadline) {
				ts.Fatalf("%v: exit code %d for 40 s, expected %s and %s", args[2:], code, args[0], args[1])
			}
		}
	},

	// setenv NAME FILE: set a variable to what a file says (or stdout).
	"setenv": func(ts *testscript.TestScript, neg bool, args []string) {
		ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
	},

	// shape FILE PATH...: the JSON in a file has exactly these members.
	"shape": func(ts *testscript.TestScript, neg bool, args []string) {
		var v any
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
		seen := map[string]bool{}
		members(v, "", seen)
		got, want := slices.Sorted(maps.Keys(seen)), slices.Sorted(slices.Values(args[1:]))
		if !slices.Equal(got, want) {
			ts.Fatalf("%s has members\n%q\nexpected\n%q", args[0], got, want)
		}
	},
}

// members collects the paths of a JSON value's members; those of all elements of
// an array are put together.
func members(v any, path string, seen map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			p := strings.TrimPrefix(path+"."+k, ".")
			seen[p] = true
			members(e, p, seen)
		}
	case []any:
		for _, e := range v {
			members(e, path+"[]", seen)
		}
	}
}

func exitOf(ts *testscript.TestScript, args []string) (int, error) {
	var ended *exec.ExitError
	err := ts.Exec(args[0], args[1:]...)
	if errors.As(err, &ended) {
		return ended.ExitCode(), nil
	}
	return 0, err
}

func (s *site) start(ts *testscript.TestScript, flags []string) error {
	var err error
	if s.maker, err = swtpm.NewCA("test maker", time.Now()); err != nil {
		return err
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{"ek-root.pem": s.maker.RootPEM(), "reference.pub": []byte(reference.FormatKey(pub)), "reference.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(ts.MkAbs(name), b, 0o600); err != nil {
			return err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	log, err := os.Create(ts.MkAbs("writd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.Command(s.writd, append([]string{"dev", "--data", ts.MkAbs("verifier"), "--ek-root", ts.MkAbs("ek-root.pem"), "--reference-key", ts.MkAbs("reference.pub")}, flags...)...)
	c.Stdout, c.Stderr = w, log
	err = c.Start()
	w.Close()
	if err != nil {
		return err
	}
	ts.Defer(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait() // a script may have killed it
	})
	line, err := firstLine(context.Background(), r, 30*time.Second)
	if err != nil {
		return fmt.Errorf("%w: %s", err, ts.ReadFile("writd.log"))
	}
	var ready devReady
	if err := json.Unmarshal(line, &ready); err != nil {
		return err
	}
	ts.Setenv("WRIT_VERIFIER", ready.Verifier)
	ts.Setenv("WRIT_OPERATOR", ready.Operator)
	ts.Setenv("WRITD", fmt.Sprint(c.Process.Pid))
	return nil
}

func (s *site) boot(ts *testscript.TestScript, name, boot string) error {
	if s.maker == nil {
		var err error
		if s.maker, err = swtpm.NewCA("test maker", time.Now()); err != nil {
			return err
		}
	}
	m, err := bootMachine(context.Background(), ts.MkAbs(name), name, boot, s.maker)
	if err != nil {
		return err
	}
	ts.Defer(func() { ts.Check(m.Close()) })
	if s.machines == nil {
		s.machines = map[string]*machine{}
	}
	s.machines[name] = m
	config := fmt.Sprintf("tpm = %q\neventlog = %q\nima = %q\nstate = %q\nsocket = %q\n", m.device(), m.eventlog(), m.ima(), m.state(), m.socket())
	return os.WriteFile(ts.MkAbs(name+".toml"), []byte(config), 0o644)
}
