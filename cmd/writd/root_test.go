package main

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// rootTPM is the software TPM of a verifier's own machine.
type rootTPM struct {
	*swtpm.Server
	tpm  *swtpm.Instance
	path string
}

func newRootTPM(t *testing.T) *rootTPM {
	t.Helper()
	dir := t.TempDir()
	i, err := swtpm.Start(t.Context(), filepath.Join(dir, "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	r := &rootTPM{tpm: i, path: filepath.Join(dir, "s")}
	r.serve(t)
	t.Cleanup(func() { r.Close() })
	return r
}

func (r *rootTPM) serve(t *testing.T) {
	t.Helper()
	var err error
	if r.Server, err = r.tpm.Serve(r.path); err != nil {
		t.Fatal(err)
	}
}

func (r *rootTPM) line() string { return `root_tpm = "swtpm:` + r.path + `"` }

// TestRootKeyInTPM: the root key of a domain lives in its verifier's TPM. The online
// keys that follow one another are certified by it, in their log entries, and a node
// that pinned the root follows them. Without that TPM the verifier does not start, and
// says what to do; nor with another.
func TestRootKeyInTPM(t *testing.T) {
	t.Parallel()
	r := newRootTPM(t)
	schedule := []string{"--set", `token_key_life = "3s"`, "--set", `token_key_overlap = "1s"`}
	d := newDomain(t, "writd", filepath.Join(t.TempDir(), "data"), append(schedule, "--listen", fixedPort(t), "--set", r.line())...)
	n := d.machine("a-direct")
	d.learn(n)
	trust, err := n.http.Domain(t.Context())
	if err != nil || trust.Root == "" {
		t.Fatalf("the trust file names no root: %+v, %v", trust, err)
	}
	follows(t, n, trust)
	certified(t, d, trust)

	refused := func(what, want string, change ...string) {
		t.Helper()
		within, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(within, d.args[0], append(d.args[1:], change...)...).CombinedOutput()
		if ended, ok := errors.AsType[*exec.ExitError](err); !ok || ended.ExitCode() != exitUsage || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Fatalf("writd ended with %d:\n%s", code, &d.stderr)
	}
	r.Close()
	refused("started without the TPM", "If that TPM is lost, see Token keys in docs/operations.md")
	other := newRootTPM(t)
	for i, arg := range d.args {
		if arg == r.line() {
			d.args[i] = other.line()
		}
	}
	refused("started with another TPM", "--replace-root")
	for i, arg := range d.args {
		if arg == other.line() {
			d.args[i] = r.line()
		}
	}
	r.serve(t)
	d.start()
	if _, err := n.attest(t.Context()); err != nil {
		t.Errorf("with its TPM again: %v", err)
	}
}

// follows checks that what a node believes, from the trust file of before on, takes the
// tokens of three keys.
func follows(t *testing.T, n *node, trust *bundle.Trust) {
	t.Helper()
	book, err := rotation.New(trust.Domain, trust.Pins())
	if err != nil {
		t.Fatal(err)
	}
	want := token.Expect{Issuer: trust.IssuerURL(), Domain: trust.Domain, Audience: "spiffe://" + trust.Domain + "/enclave"}
	kids := map[string]bool{}
	for deadline := time.Now().Add(time.Minute); len(kids) < 3; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("within a minute only %d keys have signed", len(kids))
		}
		out, err := n.attest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		published, err := n.http.TokenKeys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := book.Learn(published.Proven); err != nil {
			t.Fatal(err)
		}
		if _, err := token.Verify(out.Token, book.Keys(time.Now()), want, time.Now()); err != nil {
			t.Fatal(err)
		}
		kids[token.KeyID(out.Token)] = true
	}
}

// certified checks that each entry that introduces a key carries the root's word for it.
func certified(t *testing.T, d *domain, trust *bundle.Trust) {
	t.Helper()
	page, err := d.operator.Audit(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range page.Entries {
		leaf, err := ledger.ParseLeaf(e.Leaf)
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Kind != rotation.Introduced {
			continue
		}
		found++
		var in rotation.Introduction
		if err := json.Unmarshal(leaf.Data, &in); err != nil {
			t.Fatal(err)
		}
		if by, _, err := token.OpenStatement(in.Certificate); err != nil || by != trust.Root {
			t.Errorf("key %s is certified by %q, expected %s (%v)", in.KID, by, trust.Root, err)
		}
	}
	if found < 3 {
		t.Errorf("%d keys were introduced", found)
	}
}
