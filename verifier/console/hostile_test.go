package console

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/token"
)

// said is what the core answers about a token or a file.
type said struct {
	Result, Error, Gives string
	Checks               []bundle.Check
}

// outcome is what must not differ between two builds of one core: the result and, of
// each check, its name, its result and the code that it was refused with.
func outcome(result, err string, checks []bundle.Check) string {
	out := result + " " + err
	for _, c := range checks {
		code, _, _ := strings.Cut(c.Detail, ": ")
		if !strings.HasPrefix(code, "token/") {
			code = ""
		}
		out += fmt.Sprintf(" %s=%s(%s)", c.Name, c.Result, code)
	}
	return out
}

// shown is what the core is shown: names and wants are of the same order.
type shown struct {
	Trust  string   `json:"trust"`
	Tokens []string `json:"tokens"`
	Files  [][]byte `json:"files"`

	tokenNames, tokenWants          []string
	fileNames, fileWants, fileGives []string
}

// TestCoreRefusesHostile: the core that browsers run, in Node, refuses every bad token
// of the table, mutations of a good one, and bundles with one thing wrong in each, and
// with the very codes of the core that was built for the server.
func TestCoreRefusesHostile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	core := filepath.Join(dir, "writ.wasm")
	run(t, wasm, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", core, "./wasm")
	var s shown
	s.addTokens(t)
	for _, name := range []string{"first", "renewed", "denied"} {
		s.addBundles(t, name)
	}
	in, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "shown.json")
	if err := os.WriteFile(file, in, 0o600); err != nil {
		t.Fatal(err)
	}
	var got struct{ Tokens, Files []said }
	if err := json.Unmarshal(run(t, nil, "node", "testdata/hostile.cjs", filepath.Join(goroot(t), "lib/wasm/wasm_exec.js"), core, file), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Tokens) != len(s.Tokens) || len(got.Files) != len(s.Files) {
		t.Fatalf("%d and %d answers for %d tokens and %d files", len(got.Tokens), len(got.Files), len(s.Tokens), len(s.Files))
	}
	for i, a := range got.Tokens {
		if o := outcome(a.Result, a.Error, a.Checks); o != s.tokenWants[i] {
			t.Errorf("token, %s: the browser's core says %q, the server's %q", s.tokenNames[i], o, s.tokenWants[i])
		}
		if good := s.tokenNames[i] == "good"; (a.Result == bundle.ResultPartial) != good {
			t.Errorf("token, %s: %s", s.tokenNames[i], a.Result)
		}
	}
	for i, a := range got.Files {
		if o := outcome(a.Result, a.Error, a.Checks); o != s.fileWants[i] {
			t.Errorf("bundle, %s: the browser's core says\n%q, the server's\n%q", s.fileNames[i], o, s.fileWants[i])
		}
		if a.Gives != s.fileGives[i] {
			t.Errorf("bundle, %s: the browser's verdict is\n%.300s\nthe server's\n%.300s", s.fileNames[i], a.Gives, s.fileGives[i])
		}
		if a.Result != "" && a.Result != bundle.ResultInvalid {
			t.Errorf("bundle, %s: %s", s.fileNames[i], a.Result)
		}
	}
}

// mutations of a token are shown one of so many: each costs the core a signature
// check, and the server's core is shown all of them (bundle.TestHostileTokensAtProof).
const oneOf = 100

func (s *shown) addTokens(t *testing.T) {
	t.Helper()
	b, tr := recorded(t, "first")
	c, err := token.Verify(b.Token, tr.TokenKeys, token.Expect{Issuer: tr.IssuerURL(), Domain: tr.Domain, Audience: "spiffe://" + tr.Domain + "/enclave"}, time.Unix(b.Input.At, 0))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if tr.TokenKeys, err = token.NewKeys(key.Public()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.IssuedAt, c.NotBefore, c.Expires = now.Unix(), now.Unix(), now.Add(token.MaxLife).Unix()
	w := &hostile.World{Issuer: key, Holder: key, Claims: *c, At: now, Timeless: true, Anyone: true, Slow: true} // Node's now is later
	s.Trust = string(tr.Marshal())
	pinned, err := bundle.ParseTrust(tr.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	add := func(name, tok string) {
		r := bundle.InspectToken(tok, pinned, now)
		want := outcome(r.Result, "", r.Checks)
		if strings.Count(tok, ".") != 2 { // not even pasted as one
			want = outcome("", "this is neither a bundle (it begins with {), nor a receipt (c2sp.org/tlog-proof@v1), nor a token (three parts with dots between)", nil)
		}
		s.Tokens, s.tokenNames, s.tokenWants = append(s.Tokens, tok), append(s.tokenNames, name), append(s.tokenWants, want)
	}
	add("good", w.Good(t))
	for _, bad := range w.Tokens(t) {
		add(bad.Name, bad.Token)
	}
	early := *c
	early.IssuedAt, early.NotBefore, early.Expires = c.IssuedAt+3600, c.NotBefore+3600, c.Expires+3600
	tok, err := token.Issue(early, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add("issued in the future", tok)
	n := 0
	hostile.Mutate(w.Good(t), func(bad string) {
		if n++; n%oneOf == 0 {
			add(fmt.Sprintf("mutation %d", n), bad)
		}
	})
}

func recorded(t *testing.T, name string) (*bundle.Bundle, *bundle.Trust) {
	t.Helper()
	raw, err := os.ReadFile(vectors + name + ".writ.json")
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = os.ReadFile(vectors + "trust.json"); err != nil {
		t.Fatal(err)
	}
	tr, err := bundle.ParseTrust(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b, tr
}

// flipped is content with one bit of a byte in its middle changed.
func flipped(content []byte) []byte {
	out := bytes.Clone(content)
	if len(out) > 0 {
		out[len(out)/2] ^= 1
	}
	return out
}

// spoiled are the changes of a bundle, each of one thing.
var spoiled = map[string]func(*bundle.Bundle){
	"nonce":         func(b *bundle.Bundle) { b.Input.Challenge.Nonce = flipped(b.Input.Challenge.Nonce) },
	"time":          func(b *bundle.Bundle) { b.Input.At++ },
	"rules":         func(b *bundle.Bundle) { b.Input.Rules++ },
	"node":          func(b *bundle.Bundle) { b.Input.Challenge.Node = "edon" },
	"domain":        func(b *bundle.Bundle) { b.Input.Challenge.Domain = "other.invalid" },
	"purpose":       func(b *bundle.Bundle) { b.Input.Challenge.Purpose++ },
	"binding":       func(b *bundle.Bundle) { b.Input.Challenge.Binding = appraisal.BoundRaw },
	"AK":            func(b *bundle.Bundle) { b.Input.Prior.AK = flipped(b.Input.Prior.AK) },
	"EK":            func(b *bundle.Bundle) { b.Input.Prior.EK = flipped(b.Input.Prior.EK) },
	"class":         func(b *bundle.Bundle) { b.Input.Prior.Class = "other" },
	"generation":    func(b *bundle.Bundle) { b.Input.Prior.Generation++ },
	"no references": func(b *bundle.Bundle) { b.Input.References.Set = nil },
	"no roots":      func(b *bundle.Bundle) { b.Input.References.EKRoots = nil },
	"quote":         func(b *bundle.Bundle) { b.Input.Evidence.Quote.Attest = flipped(b.Input.Evidence.Quote.Attest) },
	"signature":     func(b *bundle.Bundle) { b.Input.Evidence.Quote.Signature = flipped(b.Input.Evidence.Quote.Signature) },
	"PCR value": func(b *bundle.Bundle) {
		for i, v := range b.Input.Evidence.Quote.Values {
			b.Input.Evidence.Quote.Values[i] = flipped(v)
		}
	},
	"verdict": func(b *bundle.Bundle) {
		b.Verdict = bytes.Replace(b.Verdict, []byte(`"at":`), []byte(`"at":1`), 1)
	},
	"decision": func(b *bundle.Bundle) {
		b.Verdict = bytes.Replace(b.Verdict, []byte(`"decision":"`), []byte(`"decision":"x`), 1)
	},
	"entry":        func(b *bundle.Bundle) { b.Entry = flipped(b.Entry) },
	"receipt":      func(b *bundle.Bundle) { b.Receipt = strings.Replace(b.Receipt, "\n\n", "\nAAAA\n\n", 1) },
	"no receipt":   func(b *bundle.Bundle) { b.Receipt = "" },
	"other token":  func(b *bundle.Bundle) { b.Token = "a.b.c" },
	"no version":   func(b *bundle.Bundle) { b.V = 2 },
	"no evidence":  func(b *bundle.Bundle) { b.Input.Evidence = evidence.New(evidence.Quote{}) },
	"empty entry":  func(b *bundle.Bundle) { b.Entry = nil },
	"no challenge": func(b *bundle.Bundle) { b.Input.Challenge = appraisal.Challenge{} },
}

func (s *shown) addBundles(t *testing.T, name string) {
	t.Helper()
	pinned, err := bundle.ParseTrust([]byte(s.Trust))
	if err != nil {
		t.Fatal(err)
	}
	add := func(what string, raw []byte) {
		give, want := "", ""
		if b, err := bundle.Parse(raw); err != nil {
			give, want = err.Error(), outcome("", fmt.Errorf("this is not a bundle that Writ wrote: %w", err).Error(), nil)
		} else {
			v := appraisal.Appraise(b.Input)
			r := bundle.Verify(b, pinned)
			give, want = string(v.Marshal()), outcome(r.Result, "", r.Checks)
		}
		s.Files, s.fileNames, s.fileWants, s.fileGives = append(s.Files, raw), append(s.fileNames, name+": "+what), append(s.fileWants, want), append(s.fileGives, give)
	}
	marshal := func(b *bundle.Bundle) []byte {
		raw, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, label := range []string{evidence.BindKey, evidence.EKCert, evidence.IMALog, evidence.KeyCert, evidence.OSLog, evidence.Ask, evidence.UEFILog} {
		b, _ := recorded(t, name)
		if it := b.Input.Evidence.Item(label); len(it.Content) > 0 {
			b.Input.Evidence.Set(label, evidence.Item{Content: flipped(it.Content)})
			add(label, marshal(b))
		}
	}
	for what, spoil := range spoiled {
		b, _ := recorded(t, name)
		spoil(b)
		add(what, marshal(b))
	}
	b, _ := recorded(t, name)
	raw := marshal(b)
	for _, at := range []int{1, len(raw) / 3, len(raw) / 2, len(raw) - 2} {
		add(fmt.Sprintf("cut at byte %d", at), raw[:at])
		add(fmt.Sprintf("a byte more at %d", at), slices.Concat(raw[:at], []byte("x"), raw[at:]))
	}
	if len(raw) > 8<<20 {
		t.Fatalf("%s has %d bytes", name, len(raw))
	}
}
