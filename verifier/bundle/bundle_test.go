package bundle_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

// The vectors are three decisions of one verifier on one node, see TestBundles of
// package verifier: a first token, a renewal, a denial.
const vectors = "../../testdata/vectors/bundles/"

func file(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func load(t testing.TB, name string) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Parse(file(t, vectors+name+".writ.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func trust(t testing.TB) *bundle.Trust {
	t.Helper()
	tr, err := bundle.ParseTrust(file(t, vectors+"trust.json"))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// fails are the names of the checks that fail.
func fails(r *bundle.Report) (out []string) {
	for _, c := range r.Checks {
		if c.Result == bundle.Fail {
			out = append(out, c.Name)
		}
	}
	return out
}

// invalid requires that a bundle does not hold, and that at least these checks
// say so.
func invalid(t *testing.T, what string, b *bundle.Bundle, tr *bundle.Trust, checks ...string) {
	t.Helper()
	r := bundle.Verify(b, tr)
	if r.Result != bundle.ResultInvalid {
		t.Errorf("%s: %s", what, r.Result)
	}
	for _, c := range checks {
		if !slices.Contains(fails(r), c) {
			t.Errorf("%s: failing %v, want %s among them", what, fails(r), c)
		}
	}
}

func TestVectors(t *testing.T) {
	for name, want := range map[string]string{"first": bundle.ResultVerified, "renewed": bundle.ResultVerified, "denied": bundle.ResultDenied} {
		r := bundle.Verify(load(t, name), trust(t))
		if r.Result != want || len(fails(r)) > 0 {
			t.Errorf("%s: %s, failing %v: %+v", name, r.Result, fails(r), r.Checks)
		}
		if r.Verdict.Binding != appraisal.BoundWrit || (r.Verdict.Decision == appraisal.Grant) != (want == bundle.ResultVerified) || r.Verdict.Findings == nil {
			t.Errorf("%s: %+v", name, r.Verdict)
		}
		for _, c := range r.Checks {
			if c.Result == bundle.Skipped || c.Detail == "" {
				t.Errorf("%s: %+v", name, c)
			}
		}
	}
}

// flip changes one bit.
func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1 << (i % 7)
	return b
}

// TestTamperedVerdict and, within it, tampered entries, receipts, tokens and
// inputs: every part of a bundle,
// changed, is noticed by the check of that part.
func TestTamperedVerdict(t *testing.T) {
	tr := trust(t)
	for _, name := range []string{"renewed", "denied"} {
		good := load(t, name)
		with := func(change func(*bundle.Bundle)) *bundle.Bundle {
			b := *good
			in := *good.Input
			b.Input = &in
			change(&b)
			return &b
		}
		for i := 0; i < len(good.Verdict); i += 97 {
			invalid(t, "verdict", with(func(b *bundle.Bundle) { b.Verdict = flip(b.Verdict, i) }), tr, "verdict", "decision")
		}
		for i := 0; i < len(good.Entry); i += 23 {
			invalid(t, "entry", with(func(b *bundle.Bundle) { b.Entry = flip(b.Entry, i) }), tr, "receipt")
		}
		for i := 0; i < len(good.Receipt); i += 19 {
			invalid(t, "receipt", with(func(b *bundle.Bundle) { b.Receipt = string(flip([]byte(b.Receipt), i)) }), tr, "receipt")
		}
		for i := 0; i < len(good.Token); i += 41 {
			invalid(t, "token", with(func(b *bundle.Bundle) { b.Token = string(flip([]byte(b.Token), i)) }), tr, "token")
		}
		for i := 0; i < len(good.Enrolment.Entry); i += 19 {
			invalid(t, "enrolment", with(func(b *bundle.Bundle) {
				b.Enrolment = &bundle.Enrolment{Entry: flip(b.Enrolment.Entry, i), Receipt: b.Enrolment.Receipt}
			}), tr, "enrolment")
		}
		for i := 0; i < len(good.Enrolment.Receipt); i += 19 {
			invalid(t, "proof of the enrolment", with(func(b *bundle.Bundle) {
				b.Enrolment = &bundle.Enrolment{Entry: b.Enrolment.Entry, Receipt: string(flip([]byte(b.Enrolment.Receipt), i))}
			}), tr, "enrolment")
		}
		invalid(t, "no receipt", with(func(b *bundle.Bundle) { b.Receipt = "" }), tr, "receipt")
		invalid(t, "no entry", with(func(b *bundle.Bundle) { b.Entry = nil }), tr, "receipt")
		invalid(t, "no verdict", with(func(b *bundle.Bundle) { b.Verdict = nil }), tr, "verdict", "decision")
		for what, change := range map[string]func(*appraisal.Input){
			"no evidence":   func(in *appraisal.Input) { in.Evidence = nil },
			"nonce":         func(in *appraisal.Input) { in.Challenge.Nonce = flip(in.Challenge.Nonce, 9) },
			"time":          func(in *appraisal.Input) { in.At++ },
			"class":         func(in *appraisal.Input) { in.Prior.Class = "other" },
			"an AK":         func(in *appraisal.Input) { in.Prior.AK = flip(in.Prior.AK, 40) },
			"EK":            func(in *appraisal.Input) { in.Prior.EK = flip(in.Prior.EK, 40) },
			"boot before":   func(in *appraisal.Input) { in.Prior.Boot = nil },
			"no references": func(in *appraisal.Input) { in.References.Set = nil },
			"no roots":      func(in *appraisal.Input) { in.References.EKRoots = nil },
			"binding":       func(in *appraisal.Input) { in.Challenge.Binding = appraisal.BoundRaw },
			"rules":         func(in *appraisal.Input) { in.Rules++ },
		} {
			invalid(t, "input: "+what, with(func(b *bundle.Bundle) { change(b.Input) }), tr, "verdict")
		}
		for what, change := range map[string]func(*appraisal.Input){
			"an AK":       func(in *appraisal.Input) { in.Prior.AK = flip(in.Prior.AK, 40) },
			"generation":  func(in *appraisal.Input) { in.Prior.Generation++ },
			"class":       func(in *appraisal.Input) { in.Prior.Class = "other" },
			"EK":          func(in *appraisal.Input) { in.Prior.EK = flip(in.Prior.EK, 40) },
			"certificate": func(in *appraisal.Input) { in.Prior.EKCertificates = in.References.EKRoots },
		} {
			invalid(t, "what was enrolled: "+what, with(func(b *bundle.Bundle) { change(b.Input) }), tr, "enrolment")
		}
		for _, label := range []string{evidence.UEFILog, evidence.IMALog, evidence.BindKey, evidence.Ask} {
			content := good.Input.Evidence.Item(label).Content
			for i := 0; i < len(content); i += len(content)/5 + 1 {
				invalid(t, label, with(func(b *bundle.Bundle) { b.Input.Evidence = copyOf(t, b.Input.Evidence, label, flip(content, i)) }), tr, "verdict")
			}
		}
		invalid(t, "node", with(func(b *bundle.Bundle) { b.Input.Challenge.Node = "edon" }), tr, "verdict", "entry")
		invalid(t, "domain", with(func(b *bundle.Bundle) { b.Input.Challenge.Domain = "other.invalid" }), tr, "domain", "verdict")
	}
}

// copyOf is evidence with one item changed.
func copyOf(t testing.TB, e *evidence.Evidence, label string, content []byte) *evidence.Evidence {
	t.Helper()
	out := evidence.New(e.Quote)
	for _, l := range []string{evidence.BindKey, evidence.Ask, evidence.UEFILog, evidence.IMALog} {
		out.Set(l, e.Item(l))
	}
	out.Set(label, evidence.Item{Content: content})
	return out
}

// TestTamperedFile changes single bytes of the file: it is not parsed, or does
// not hold; it is never the decision it was.
func TestTamperedFile(t *testing.T) {
	tr := trust(t)
	raw := file(t, vectors+"renewed.writ.json")
	for i := 0; i < len(raw)-1; i += 997 {
		b, err := bundle.Parse(flip(raw, i))
		if err != nil {
			continue
		}
		if r := bundle.Verify(b, tr); r.Result != bundle.ResultInvalid {
			t.Errorf("byte %d changed: %s", i, r.Result)
		}
	}
}

// TestWithoutEnrolment: a bundle of old says itself whose key it is.
func TestWithoutEnrolment(t *testing.T) {
	for name, want := range map[string]string{"renewed": bundle.ResultPartial, "denied": bundle.ResultDenied} {
		b := load(t, name)
		b.Enrolment = nil
		raw, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if b, err = bundle.Parse(raw); err != nil || bytes.Contains(raw, []byte(`"enrolment"`)) {
			t.Fatalf("%s: %v", name, err)
		}
		r := bundle.Verify(b, trust(t))
		i := slices.IndexFunc(r.Checks, func(c bundle.Check) bool { return c.Name == "enrolment" })
		if r.Result != want || i < 0 || r.Checks[i].Result != bundle.Skipped {
			t.Errorf("%s: %s, %+v", name, r.Result, r.Checks)
		}
	}
}

// TestReceiptOfAnotherEntry: a proof that stands proves its own entry only.
func TestReceiptOfAnotherEntry(t *testing.T) {
	a, b := load(t, "first"), load(t, "renewed")
	a.Receipt = b.Receipt
	invalid(t, "receipt of another entry", a, trust(t), "receipt")
	a.Entry = b.Entry // entry and receipt of another decision
	invalid(t, "another decision's entry", a, trust(t), "decision", "token")
}

// TestTokenOfAnotherDecision: a good token of the same node, resting on another
// verdict, and a token beside a denial.
func TestTokenOfAnotherDecision(t *testing.T) {
	first, renewed, denied := load(t, "first"), load(t, "renewed"), load(t, "denied")
	first.Token, denied.Token = renewed.Token, renewed.Token
	invalid(t, "token of another decision", first, trust(t), "token")
	invalid(t, "token with a denial", denied, trust(t), "token")
	renewed.Token = ""
	invalid(t, "grant without its token", renewed, trust(t), "token")
	for _, tok := range []string{"x", "a.b.c", strings.Repeat("A", 1<<17)} {
		renewed.Token = tok
		invalid(t, "no token at all", renewed, trust(t), "token")
	}
}

// TestOwnKeysAreNoAnchor: take any anchor out of the trust file, or put a
// stranger's in its place, and what rested on it fails (security rule 5).
func TestOwnKeysAreNoAnchor(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	strangers, err := token.NewKeys(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	signer := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))
	maker, err := swtpm.NewCA("test maker", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := ledger.VerifierKey("test.invalid/log", signer.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*bundle.Trust)
		check  string
	}{
		"no log key":             {func(tr *bundle.Trust) { tr.Log = nil }, "receipt"},
		"TestForeignLog":         {func(tr *bundle.Trust) { tr.Log = []string{vkey} }, "receipt"},
		"a log key that is none": {func(tr *bundle.Trust) { tr.Log = []string{"x"} }, "receipt"},
		"no token keys":          {func(tr *bundle.Trust) { tr.TokenKeys = token.Keys{} }, "token"},
		"TestForeignIssuer":      {func(tr *bundle.Trust) { tr.TokenKeys = strangers }, "token"},
		"another issuer's name":  {func(tr *bundle.Trust) { tr.Issuer = "https://other.invalid" }, "token"},
		"no reference keys":      {func(tr *bundle.Trust) { tr.ReferenceKeys = nil }, "references"},
		"TestForeignSigner": {func(tr *bundle.Trust) {
			tr.ReferenceKeys = []string{reference.FormatKey(signer.Public().(ed25519.PublicKey))}
		}, "references"},
		"a signer more is needed": {func(tr *bundle.Trust) { tr.Threshold = 2 }, "references"},
		"no EK roots":             {func(tr *bundle.Trust) { tr.EKRoots = nil }, "ek-roots"},
		"TestForeignEKRoot":       {func(tr *bundle.Trust) { tr.EKRoots = []string{string(maker.RootPEM())} }, "ek-roots"},
		"another domain's trust":  {func(tr *bundle.Trust) { tr.Domain = "other.invalid" }, "domain"},
		"nothing but the domain":  {func(tr *bundle.Trust) { *tr = bundle.Trust{V: 1, Domain: tr.Domain} }, "receipt"},
		"the zero trust":          {func(tr *bundle.Trust) { *tr = bundle.Trust{} }, "receipt"},
	} {
		tr := trust(t)
		c.change(tr)
		invalid(t, name, load(t, "renewed"), tr, c.check)
	}
}

// TestForeignReferenceSigner: a bundle whose set somebody else has signed, judged
// again by it and consistent in itself, is not believed.
func TestForeignReferenceSigner(t *testing.T) {
	b := load(t, "denied")
	set, err := reference.Parse(b.Input.References.Set.Set.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	env, err := reference.Sign(set, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if b.Input.References.Set, err = reference.Read(env); err != nil {
		t.Fatal(err)
	}
	v := appraisal.Appraise(b.Input)
	b.Verdict = v.Marshal()
	invalid(t, "a stranger's set", b, trust(t), "references")
}

// TestCollected: without anything of a log a bundle is evidence to be judged, and
// never "verified".
func TestCollected(t *testing.T) {
	for _, name := range []string{"first", "denied"} {
		b := load(t, name)
		b.Entry, b.Receipt, b.Token = nil, "", ""
		want := map[string]string{"first": bundle.ResultPartial, "denied": bundle.ResultDenied}[name]
		if r := bundle.Verify(b, trust(t)); r.Result != want {
			t.Errorf("%s without its history: %s, want %s", name, r.Result, want)
		}
	}
}

// TestJudge: an input by itself is at most partial, and its own roots are never
// believed.
func TestJudge(t *testing.T) {
	result := func(r *bundle.Report, check string) string {
		i := slices.IndexFunc(r.Checks, func(c bundle.Check) bool { return c.Name == check })
		if i < 0 {
			return "absent"
		}
		return r.Checks[i].Result
	}
	r := bundle.Judge(load(t, "renewed").Input, trust(t))
	if r.Result != bundle.ResultPartial || result(r, "history") != bundle.Skipped || result(r, "ek-roots") != bundle.Pass || result(r, "references") != bundle.Pass {
		t.Errorf("with trust: %s, %+v", r.Result, r.Checks)
	}
	r = bundle.Judge(load(t, "denied").Input, trust(t))
	if r.Result != bundle.ResultDenied {
		t.Errorf("a denial: %s", r.Result)
	}
	in := load(t, "renewed").Input
	if len(in.References.EKRoots) == 0 {
		t.Fatal("the bundle names no roots")
	}
	r = bundle.Judge(in, nil)
	if r.Result != bundle.ResultDenied || result(r, "ek-roots") != bundle.Skipped || result(r, "references") != bundle.Skipped {
		t.Errorf("without trust: %s, %+v", r.Result, r.Checks)
	}
	if !slices.ContainsFunc(r.Verdict.Findings, func(f appraisal.Finding) bool { return f.Code == "tpm/ek-certificate" }) {
		t.Error("the bundle's own roots were believed")
	}
	in = load(t, "renewed").Input // a set that asks nothing of the hardware
	set, err := reference.Parse(in.References.Set.Set.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	set.Required = slices.DeleteFunc(set.Required, func(c string) bool { return c == reference.Hardware })
	env, err := reference.Sign(set, ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if in.References.Set, err = reference.Read(env); err != nil {
		t.Fatal(err)
	}
	if r := bundle.Judge(in, nil); r.Result != bundle.ResultPartial {
		t.Errorf("without trust nor hardware: %s, %+v", r.Result, r.Checks)
	}
	stranger := trust(t)
	stranger.ReferenceKeys = nil
	if r := bundle.Judge(load(t, "renewed").Input, stranger); r.Result != bundle.ResultInvalid || result(r, "references") != bundle.Fail {
		t.Errorf("a set nobody trusted has signed: %s", r.Result)
	}
	in = load(t, "renewed").Input
	in.References.Set = nil
	if r := bundle.Judge(in, trust(t)); r.Result != bundle.ResultDenied || result(r, "references") != bundle.Skipped {
		t.Errorf("without a set: %s, %+v", r.Result, r.Checks)
	}
}

func TestNotCanonical(t *testing.T) {
	good := strings.TrimSpace(string(file(t, vectors+"first.writ.json")))
	for name, b := range map[string]string{
		"nothing":             "",
		"null":                "null",
		"truncated":           good[:len(good)-1],
		"version 2":           strings.Replace(good, `"v":1`, `"v":2`, 1),
		"no version":          strings.Replace(good, `"v":1,`, ``, 1),
		"unknown member":      strings.Replace(good, `"v":1`, `"v":1,"trusted":true`, 1),
		"member twice":        strings.Replace(good, `"v":1`, `"v":1,"v":1`, 1),
		"member in capitals":  strings.Replace(good, `"verdict"`, `"Verdict"`, 1),
		"white space":         strings.Replace(good, `,`, `, `, 1),
		"two bundles":         good + good,
		"padded base64":       strings.Replace(good, `","token"`, `=","token"`, 1),
		"no input":            strings.Replace(good, `"input"`, `"inptu"`, 1),
		"input is null":       `{"v":1,"input":null,"verdict":"","entry":"","token":"","receipt":""}`,
		"input of another":    `{"v":1,"input":{"x":1},"verdict":"","entry":"","token":"","receipt":""}`,
		"evidence not parsed": strings.Replace(good, `tag:writ,2026`, `tag:writ,2027`, 1),
		"too large":           strings.Repeat(" ", bundle.MaxSize+1),
	} {
		if _, err := bundle.Parse([]byte(b)); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
	b := load(t, "first")
	raw, err := b.Marshal()
	if err != nil || string(raw) != good {
		t.Errorf("does not come back as it went: %v", err)
	}
}

func TestTrustFile(t *testing.T) {
	good := string(file(t, vectors+"trust.json"))
	if back := trust(t).Marshal(); string(back) != good {
		t.Error("does not come back as it went")
	}
	if tr, err := bundle.ParseTrust([]byte(good)); err != nil || tr.IssuerURL() != "https://test.invalid" {
		t.Errorf("%+v, %v", tr, err)
	}
	edit := func(change func(map[string]any)) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(good), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if _, err := bundle.ParseTrust([]byte(" " + edit(func(m map[string]any) { m["issuer"] = "https://x.invalid" }) + "\n")); err != nil {
		t.Errorf("a person's edit: %v", err)
	}
	for name, b := range map[string]string{
		"nothing":            "",
		"null":               "null",
		"truncated":          good[:len(good)/2],
		"two files":          good + good,
		"unknown member":     edit(func(m map[string]any) { m["trust_everything"] = true }),
		"version 2":          edit(func(m map[string]any) { m["v"] = 2 }),
		"no version":         edit(func(m map[string]any) { delete(m, "v") }),
		"no domain":          edit(func(m map[string]any) { m["domain"] = "" }),
		"key that is none":   edit(func(m map[string]any) { m["reference_keys"] = []string{"x"} }),
		"root that is none":  edit(func(m map[string]any) { m["ek_roots"] = []string{"x"} }),
		"root is a key":      edit(func(m map[string]any) { m["ek_roots"] = m["reference_keys"] }),
		"negative threshold": edit(func(m map[string]any) { m["reference_threshold"] = -1 }),
	} {
		if _, err := bundle.ParseTrust([]byte(b)); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

// TestRecorded: a machine that another tool recorded is read whole or not at all,
// and labelled as what no verifier grants on.
func TestRecorded(t *testing.T) {
	const boots = "../../testdata/boots/"
	dirs, err := filepath.Glob(boots + "*/quote.bin")
	if err != nil || len(dirs) < 14 {
		t.Fatalf("%d recorded machines, %v", len(dirs), err)
	}
	for _, d := range dirs {
		in, err := bundle.Recorded(os.DirFS(filepath.Dir(d)), "lab.invalid", "lab", 1)
		if err != nil {
			t.Fatalf("%s: %v", d, err)
		}
		if in.Challenge.Binding != appraisal.BoundRaw || in.Challenge.Purpose != evidence.Collection {
			t.Errorf("%s: binding %s, purpose %d", d, in.Challenge.Binding, in.Challenge.Purpose)
		}
	}
	for _, missing := range []string{"quote.bin", "sig.bin", "nonce.hex", "ak_pub.bin", "pcrs.json"} {
		dir := fstest.MapFS{}
		for _, name := range []string{"quote.bin", "sig.bin", "nonce.hex", "ak_pub.bin", "pcrs.json"} {
			dir[name] = &fstest.MapFile{Data: file(t, boots+"c-grub-sb/"+name)}
		}
		if _, err := bundle.Recorded(dir, "lab.invalid", "lab", 1); err != nil {
			t.Fatal(err)
		}
		dir[missing].Data = []byte("x")
		_, errBroken := bundle.Recorded(dir, "lab.invalid", "lab", 1)
		delete(dir, missing)
		if _, err := bundle.Recorded(dir, "lab.invalid", "lab", 1); err == nil || (errBroken == nil && missing != "sig.bin" && missing != "ak_pub.bin") {
			t.Errorf("read without %s (%v), or with a broken one (%v)", missing, err, errBroken)
		}
	}
	var none fs.FS = fstest.MapFS{}
	if _, err := bundle.Recorded(none, "lab.invalid", "lab", 1); err == nil {
		t.Error("read an empty directory")
	}
}

func FuzzParseBundle(f *testing.F) {
	for _, name := range []string{"first", "denied"} {
		f.Add(bytes.TrimSpace(file(f, vectors+name+".writ.json")))
	}
	f.Add([]byte(`{"v":1,"input":{},"verdict":"","entry":"","token":"","receipt":""}`))
	tr := trust(f)
	known := map[string]bool{}
	for _, name := range []string{"first", "renewed", "denied"} {
		known[string(load(f, name).Verdict)] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := bundle.Parse(b)
		if err != nil {
			return
		}
		raw, err := got.Marshal()
		if err != nil || !bytes.Equal(raw, bytes.TrimRight(b, "\n")) {
			t.Fatalf("read %q, wrote %q (%v)", b, raw, err)
		}
		if r := bundle.Verify(got, tr); r.Result == bundle.ResultVerified && !known[string(got.Verdict)] {
			t.Fatal("verified a bundle nobody made")
		}
	})
}
