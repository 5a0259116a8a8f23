package console

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

const vectors = "../../testdata/vectors/bundles/"

// recordedAt is when the challenges of the golden verdicts were made (Unix seconds).
const recordedAt = 1795521600

type answer struct {
	Kind, Result, Command, Error string
	Steps                        []bundle.Check
}

// run runs a command and returns its standard output.
func run(t *testing.T, env []string, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, stderr.Bytes(), out)
	}
	return out
}

var wasm = []string{"GOOS=js", "GOARCH=wasm", "CGO_ENABLED=0"}

// TestCoreGivesTheServersVerdicts: the core that browsers run, in Node, gives the
// bytes that the server signed.
func TestCoreGivesTheServersVerdicts(t *testing.T) {
	t.Parallel()
	core := filepath.Join(t.TempDir(), "writ.wasm")
	run(t, wasm, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", core, "./wasm")
	names := []string{"first", "renewed", "denied"}
	results := []string{bundle.ResultVerified, bundle.ResultVerified, bundle.ResultDenied}
	args := []string{"testdata/check.cjs", filepath.Join(goroot(t), "lib/wasm/wasm_exec.js"), core, vectors + "trust.json"}
	for _, n := range names {
		args = append(args, vectors+n+".writ.json")
	}
	recorded, want := goldens(t)
	args = append(args, recorded...)
	var got struct {
		Most int
		Out  []struct {
			Verdict                                           string
			Trusted, Untrusted, Receipt, Token, Wrong, Broken answer
		}
	}
	if err := json.Unmarshal(run(t, nil, "node", args...), &got); err != nil {
		t.Fatal(err)
	}
	if got.Most != bundle.MaxSize || len(got.Out) != len(names)+len(want) {
		t.Fatalf("at most %d, %d answers", got.Most, len(got.Out))
	}
	for i, a := range got.Out[len(names):] {
		if a.Verdict != want[i] {
			t.Errorf("%s: the browser's verdict is\n%.300s\nthe golden one\n%.300s", filepath.Base(recorded[i]), a.Verdict, want[i])
		}
	}
	trust, err := os.ReadFile(vectors + "trust.json")
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := bundle.ParseTrust(trust)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		raw, err := os.ReadFile(vectors + name + ".writ.json")
		if err != nil {
			t.Fatal(err)
		}
		b, err := bundle.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		a := got.Out[i]
		if a.Verdict != string(b.Verdict) {
			t.Errorf("%s: the browser's verdict is\n%s\nthe server's\n%s", name, a.Verdict, b.Verdict)
		}
		if want := bundle.Verify(b, pinned).Result; a.Trusted.Result != want || want != results[i] && want != bundle.ResultPartial || len(a.Trusted.Steps) == 0 {
			t.Errorf("%s: %+v, want %s", name, a.Trusted, want)
		}
		if a.Untrusted.Result != bundle.ResultPartial {
			t.Errorf("%s without a trust file: %s", name, a.Untrusted.Result)
		}
		if a.Receipt.Kind != "receipt" || a.Receipt.Result != bundle.ResultVerified {
			t.Errorf("%s: receipt %+v", name, a.Receipt)
		}
		want := bundle.ResultDenied // it ended long ago
		if b.Token == "" {
			want = bundle.ResultInvalid
		}
		if a.Token.Kind != "token" || a.Token.Result != want {
			t.Errorf("%s: token %+v, want %s", name, a.Token, want)
		}
		if a.Wrong.Error == "" || a.Broken.Error == "" {
			t.Errorf("%s: a wrong paste gave %+v, a broken one %+v", name, a.Wrong, a.Broken)
		}
	}
}

// goldens makes bundles of the appraisal's golden vectors (see its golden_test.go),
// each with the verdict that the vector holds.
func goldens(t *testing.T) (files []string, want []string) {
	t.Helper()
	const dir = "../../testdata/vectors/verdicts/"
	paths, err := filepath.Glob(dir + "*.verdict.json")
	if err != nil || len(paths) < 21 {
		t.Fatalf("%d vectors, %v", len(paths), err)
	}
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, p := range paths {
		var g struct {
			Boot, Reference, Verdict string
			At                       int64
			OSLog                    string `json:"os_log"`
		}
		err := json.Unmarshal(read(p), &g)
		boot := "../../testdata/boots/" + g.Boot
		in, err2 := bundle.Recorded(os.DirFS(boot), "lab.invalid", "lab", recordedAt)
		root, err3 := bundle.ParseCertificatePEM(string(read(boot + "/ca/swtpm-localca-rootca-cert.pem")))
		set, layers, lists, err4 := reference.Open(read(dir + cmp.Or(g.Reference, "grub.reference.json")))
		if err4 == nil && !set.Whole() {
			set, err4 = set.Complete(layers, lists)
		}
		if err := errors.Join(err, err2, err3, err4); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		in.At, in.References.Set, in.References.EKRoots = g.At, set, [][]byte{root}
		if g.OSLog != "" {
			in.Evidence.Set(evidence.OSLog, evidence.Item{Content: []byte(g.OSLog)})
		}
		raw, err := (&bundle.Bundle{V: 1, Input: in, Verdict: []byte(g.Verdict)}).Marshal()
		name := filepath.Join(t.TempDir(), filepath.Base(p))
		if err := errors.Join(err, os.WriteFile(name, raw, 0o600)); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		files, want = append(files, name), append(want, g.Verdict)
	}
	return files, want
}

func goroot(t *testing.T) string {
	return string(bytes.TrimSpace(run(t, nil, "go", "env", "GOROOT")))
}
