package evidence_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/veraison/cmw"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func marshal(t testing.TB, e *evidence.Evidence) []byte {
	t.Helper()
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, b []byte) *evidence.Evidence {
	t.Helper()
	e, err := evidence.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// sample has every item there is.
func sample(t testing.TB) *evidence.Evidence {
	t.Helper()
	e := evidence.New(evidence.Quote{Node: "node", Nonce: make([]byte, 32), Attest: []byte("attest"), Signature: []byte("sig"), Bank: tpm.AlgSHA256,
		Values: map[int][]byte{0: make([]byte, 32), 7: bytes.Repeat([]byte{7}, 32), 23: make([]byte, 32)}})
	r := evidence.Request{Audience: "spiffe://example.org/enclave", Level: "E3", R: base64.RawURLEncoding.EncodeToString(make([]byte, 32)), ID: "r1"}
	for label, content := range map[string]string{
		evidence.BindKey: `{"kty":"EC"}`, evidence.EKCert: "der", evidence.IMALog: "0123456789", evidence.KeyCert: "{}",
		evidence.OSLog: "os", evidence.Ask: string(r.Marshal()), evidence.UEFILog: "event log",
	} {
		e.Set(label, evidence.Item{Content: []byte(content)})
	}
	return e
}

func sampleByDigest(t testing.TB) *evidence.Evidence {
	t.Helper()
	e := sample(t)
	sum := sha256.Sum256(e.Item(evidence.UEFILog).Content)
	e.Set(evidence.UEFILog, evidence.Item{Digest: sum[:]})
	return e
}

func TestRoundTrip(t *testing.T) {
	offset := sample(t)
	offset.Set(evidence.IMALog, evidence.Item{Content: []byte("tail"), Offset: 1<<40 - 1})
	for name, e := range map[string]*evidence.Evidence{
		"all items": sample(t), "log by digest": sampleByDigest(t), "list from an offset": offset,
		"quote alone": evidence.New(evidence.Quote{Bank: tpm.AlgSHA1}),
		"sha512":      evidence.New(evidence.Quote{Bank: tpm.AlgSHA512, Values: map[int][]byte{3: make([]byte, 64)}}),
	} {
		b := marshal(t, e)
		back := parse(t, b)
		if !bytes.Equal(marshal(t, back), b) || back.Digest() != e.Digest() {
			t.Errorf("%s: does not come back as it went", name)
		}
		inJSON, err := json.Marshal(map[string]*evidence.Evidence{"e": e})
		if err != nil || !bytes.Contains(inJSON, b) {
			t.Errorf("%s: inside other JSON it has other bytes (%v)", name, err)
		}
	}
}

// TestCMWInterop: what Marshal writes is what the CMW library reads, item by
// item.
func TestCMWInterop(t *testing.T) {
	e := sample(t)
	var c cmw.CMW
	if err := c.Deserialize(marshal(t, e)); err != nil {
		t.Fatal(err)
	}
	if typ, err := c.GetCollectionType(); err != nil || typ != evidence.CollectionType {
		t.Errorf("collection type %q, %v", typ, err)
	}
	meta, err := c.GetCollectionMeta()
	if err != nil {
		t.Fatal(err)
	}
	var labels []string
	for _, m := range meta {
		label := m.Key.(string)
		labels = append(labels, label)
		item, err := c.GetCollectionItem(label)
		if err != nil {
			t.Fatal(err)
		}
		value, err := item.GetMonadValue()
		if err != nil {
			t.Fatal(err)
		}
		if label != "quote" && !bytes.Equal(value, e.Item(label).Content) {
			t.Errorf("%s: %q, want %q", label, value, e.Item(label).Content)
		}
		media, _ := item.GetMonadType()
		ind, _ := item.GetMonadIndicator()
		if want := map[bool]cmw.Indicator{true: cmw.Endorsements, false: cmw.Evidence}[label == evidence.EKCert]; ind != want || media == "" {
			t.Errorf("%s: media type %q, indicator %v", label, media, ind)
		}
	}
	if want := "bind-key ek-cert ima-log key-cert os-log quote request uefi-log"; strings.Join(labels, " ") != want {
		t.Errorf("labels %s, want %s", labels, want)
	}
}

// pieces takes the collection apart, in the order of its members.
func pieces(t testing.TB, e *evidence.Evidence) map[string]string {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(marshal(t, e), &raw); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for k, v := range raw {
		out[k] = string(v)
	}
	return out
}

func join(p map[string]string) []byte {
	var members []string
	for _, k := range slices.Sorted(maps.Keys(p)) {
		members = append(members, fmt.Sprintf("%q:%s", k, p[k]))
	}
	return []byte("{" + strings.Join(members, ",") + "}")
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// TestUnknownItem and the rest of what is not the one encoding (security rule 7:
// unknown, duplicate or extra items deny).
func TestNotACollection(t *testing.T) {
	const log, list = "application/vnd.writ.tcg-event-log", "application/vnd.writ.ima-log"
	set := func(label, value string) func(map[string]string) {
		return func(p map[string]string) { p[label] = value }
	}
	for name, change := range map[string]func(map[string]string){
		"unknown item":                  set("extra", `["a/b","AA",4]`),
		"unknown item in capitals":      set("QUOTE", `["application/vnd.writ.tpm2-quote+json","AA",4]`),
		"no quote":                      func(p map[string]string) { delete(p, "quote") },
		"no type":                       func(p map[string]string) { delete(p, "__cmwc_t") },
		"type of another version":       set("__cmwc_t", `"tag:writ,2026:tpm-evidence#v2"`),
		"type is a number":              set("__cmwc_t", `1`),
		"item panics the library":       set(evidence.UEFILog, `["a/b",1]`),
		"unknown item panics it":        set("x", `["a/b",1]`),
		"item is null":                  set(evidence.UEFILog, `null`),
		"item is empty":                 set(evidence.UEFILog, `[]`),
		"item is a nested collection":   set(evidence.UEFILog, `{"__cmwc_t":"a:b","quote":["a/b","AA",4]}`),
		"item has a fourth part":        set(evidence.UEFILog, `["`+log+`","AA",4,1]`),
		"media type is a number":        set(evidence.UEFILog, `[1,"AA",4]`),
		"value is a number":             set(evidence.UEFILog, `["`+log+`",1,4]`),
		"value is empty":                set(evidence.UEFILog, `["`+log+`","",4]`),
		"value is padded":               set(evidence.UEFILog, `["`+log+`","AA==",4]`),
		"value has a line break":        set(evidence.UEFILog, `["`+log+`","A\nA",4]`),
		"value has trailing bits":       set(evidence.UEFILog, `["`+log+`","AB",4]`),
		"value in the other alphabet":   set(evidence.UEFILog, `["`+log+`","+/+/",4]`),
		"indicator of another kind":     set(evidence.UEFILog, `["`+log+`","AA",1]`),
		"indicator missing":             set(evidence.UEFILog, `["`+log+`","AA"]`),
		"indicator is text":             set(evidence.UEFILog, `["`+log+`","AA","4"]`),
		"indicator with a fraction":     set(evidence.UEFILog, `["`+log+`","AA",4.0]`),
		"media type of another item":    set(evidence.UEFILog, `["`+list+`","AA",4]`),
		"media type in capitals":        set(evidence.UEFILog, `["`+strings.ToUpper(log)+`","AA",4]`),
		"media type with a blank":       set(evidence.UEFILog, `["`+log+` ","AA",4]`),
		"unknown parameter":             set(evidence.UEFILog, `["`+log+`;charset=utf-8","AA",4]`),
		"empty parameter":               set(evidence.UEFILog, `["`+log+`;","AA",4]`),
		"two parameters":                set(evidence.IMALog, `["`+list+`;offset=1;offset=2","AA",4]`),
		"digest of another length":      set(evidence.UEFILog, `["`+log+`;digest=sha-256","AA",4]`),
		"digest of another algorithm":   set(evidence.UEFILog, `["`+log+`;digest=sha-1","`+b64(strings.Repeat("x", 20))+`",4]`),
		"digest of the request":         set(evidence.Ask, `["application/vnd.writ.request+json;digest=sha-256","`+b64(strings.Repeat("x", 32))+`",4]`),
		"digest of the IMA list":        set(evidence.IMALog, `["`+list+`;digest=sha-256","`+b64(strings.Repeat("x", 32))+`",4]`),
		"digest of the quote":           set("quote", `["application/vnd.writ.tpm2-quote+json;digest=sha-256","`+b64(strings.Repeat("x", 32))+`",4]`),
		"offset of the boot log":        set(evidence.UEFILog, `["`+log+`;offset=1","AA",4]`),
		"offset zero":                   set(evidence.IMALog, `["`+list+`;offset=0","AA",4]`),
		"offset with a leading zero":    set(evidence.IMALog, `["`+list+`;offset=01","AA",4]`),
		"offset negative":               set(evidence.IMALog, `["`+list+`;offset=-1","AA",4]`),
		"offset beyond all reason":      set(evidence.IMALog, `["`+list+`;offset=1099511627776","AA",4]`),
		"offset in quotes":              set(evidence.IMALog, `["`+list+`;offset=\"1\"","AA",4]`),
		"boot log over 4 MiB":           set(evidence.UEFILog, `["`+log+`","`+strings.Repeat("A", (evidence.MaxBootLog+3)/3*4)+`",4]`),
		"request over 64 KiB":           set(evidence.Ask, `["application/vnd.writ.request+json","`+strings.Repeat("A", 90000)+`",4]`),
		"letter written as an escape":   set(evidence.UEFILog, `["application\u002fvnd.writ.tcg-event-log","AA",4]`),
		"quote is not JSON":             set("quote", `["application/vnd.writ.tpm2-quote+json","AA",4]`),
		"quote is another JSON":         set("quote", `["application/vnd.writ.tpm2-quote+json","`+b64("{}")+`",4]`),
		"quote of another content type": set("quote", `["application/json","`+b64("{}")+`",4]`),
	} {
		p := pieces(t, sample(t))
		change(p)
		if _, err := evidence.Parse(join(p)); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

func TestNotCanonical(t *testing.T) {
	good := marshal(t, sample(t))
	p := pieces(t, sample(t))
	reversed := fmt.Sprintf(`{"uefi-log":%s,`, p[evidence.UEFILog])
	delete(p, evidence.UEFILog)
	reversed += string(join(p)[1:])
	p = pieces(t, sample(t))
	twice := strings.TrimSuffix(string(good), "}") + `,"uefi-log":` + p[evidence.UEFILog] + "}"
	for name, b := range map[string]string{
		"nothing":              "",
		"null":                 "null",
		"an array":             "[]",
		"a string":             `"x"`,
		"truncated":            string(good[:len(good)-1]),
		"half":                 string(good[:len(good)/2]),
		"white space after":    string(good) + "\n",
		"white space before":   " " + string(good),
		"white space between":  strings.Replace(string(good), ",", ", ", 1),
		"two collections":      string(good) + string(good),
		"other order":          reversed,
		"an item twice":        twice,
		"byte order mark":      "\ufeff" + string(good),
		"over the whole limit": `{"x":"` + strings.Repeat(" ", evidence.MaxSize) + `"}`,
	} {
		if _, err := evidence.Parse([]byte(b)); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

func TestQuoteItem(t *testing.T) {
	const good = `{"certificate-name":"n","nonce-value":"AAAA","quote-data":"AAAA","quote-signature":"AAAA","unsigned-pcr-values":[{"tpm20-hash-algo":"TPM_ALG_SHA1","pcr-values":[{"pcr-index":0,"pcr-value":"AAAAAAAAAAAAAAAAAAAAAAAAAAA="},{"pcr-index":9,"pcr-value":"AAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}]}`
	for name, c := range map[string]struct {
		old, new string
		ok       bool
	}{
		"as it is":           {"", "", true},
		"PCR out of range":   {`"pcr-index":9`, `"pcr-index":24`, false},
		"PCR negative":       {`"pcr-index":9`, `"pcr-index":-1`, false},
		"PCR twice":          {`"pcr-index":9`, `"pcr-index":0`, false},
		"PCRs descending":    {`"pcr-index":0`, `"pcr-index":10`, false},
		"value of no bank":   {`AAAAAAAAAAAAAAAAAAAAAAAAAAA="},`, `AAAA"},`, false},
		"another bank":       {"TPM_ALG_SHA1", "TPM_ALG_SHA256", false},
		"unknown bank":       {"TPM_ALG_SHA1", "TPM_ALG_MD5", false},
		"no bank":            {"TPM_ALG_SHA1", "", false},
		"two banks":          {`[{"tpm20`, `[{"tpm20-hash-algo":"TPM_ALG_SHA256","pcr-values":null},{"tpm20`, false},
		"unknown member":     {`{"cert`, `{"x":1,"cert`, false},
		"member twice":       {`{"cert`, `{"certificate-name":"m","cert`, false},
		"member in capitals": {`"nonce-value"`, `"Nonce-Value"`, false},
		"member left out":    {`"nonce-value":"AAAA",`, ``, false},
		"white space":        {`,"quote-data"`, `, "quote-data"`, false},
		"base64url":          {`"nonce-value":"AAAA"`, `"nonce-value":"__-_"`, false},
		"line break":         {`"nonce-value":"AAAA"`, `"nonce-value":"AA\nAA"`, false},
		"trailing value":     {`]}]}`, `]}]}{}`, false},
	} {
		p := pieces(t, sample(t))
		p["quote"] = `["application/vnd.writ.tpm2-quote+json","` + b64(strings.Replace(good, c.old, c.new, 1)) + `",4]`
		if _, err := evidence.Parse(join(p)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRequest(t *testing.T) {
	r32 := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xa5}, 32))
	full := evidence.Request{Audience: "a", Workload: "sha256:" + strings.Repeat("0a", 32), Execution: "e-1", Parent: "e.0", Image: "sha256:" + strings.Repeat("1a", 32), Argv: "sha256:" + strings.Repeat("2a", 32), Level: "E0", R: r32, ID: "i_1"}
	if back, err := evidence.ParseRequest(full.Marshal()); err != nil || back != full {
		t.Fatalf("%+v, %v", back, err)
	}
	for name, change := range map[string]func(*evidence.Request){
		"argv itself":         func(r *evidence.Request) { r.Argv = "sh -c exit" },
		"no audience":         func(r *evidence.Request) { r.Audience = "" },
		"audience too long":   func(r *evidence.Request) { r.Audience = strings.Repeat("a", 513) },
		"audience not UTF-8":  func(r *evidence.Request) { r.Audience = "a\xff" },
		"workload of SHA-1":   func(r *evidence.Request) { r.Workload = "sha1:" + strings.Repeat("0", 40) },
		"workload capitals":   func(r *evidence.Request) { r.Workload = strings.ToUpper(r.Workload) },
		"workload with break": func(r *evidence.Request) { r.Workload += "\n" },
		"image by its name":   func(r *evidence.Request) { r.Image = "registry.example.org/web:latest" },
		"execution a path":    func(r *evidence.Request) { r.Execution = "../x" },
		"parent too long":     func(r *evidence.Request) { r.Parent = strings.Repeat("p", 65) },
		"no level":            func(r *evidence.Request) { r.Level = "" },
		"level too high":      func(r *evidence.Request) { r.Level = "E5" },
		"level and more":      func(r *evidence.Request) { r.Level = "E3\n" },
		"no r":                func(r *evidence.Request) { r.R = "" },
		"r too short":         func(r *evidence.Request) { r.R = r32[:42] },
		"r padded":            func(r *evidence.Request) { r.R += "=" },
		"r with a line break": func(r *evidence.Request) { r.R += "\n" }, // eat_nonce would have 44 characters
		"r with other bits":   func(r *evidence.Request) { r.R = r32[:42] + "V" },
		"no id":               func(r *evidence.Request) { r.ID = "" },
		"id with a blank":     func(r *evidence.Request) { r.ID = "i 1" },
	} {
		r := full
		change(&r)
		if _, err := evidence.ParseRequest(r.Marshal()); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
	for _, b := range []string{"", "{}", string(full.Marshal()) + " ", strings.Replace(string(full.Marshal()), `"id"`, `"ID"`, 1),
		strings.Replace(string(full.Marshal()), "{", `{"aud":"x",`, 1), strings.Replace(string(full.Marshal()), "{", `{"audience":"x",`, 1)} {
		if _, err := evidence.ParseRequest([]byte(b)); err == nil {
			t.Errorf("accepted: %s", b)
		}
	}
	if _, err := evidence.New(evidence.Quote{}).Request(); err == nil {
		t.Error("read a request that is not there")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(marshal(f, sample(f)))
	f.Add(marshal(f, sampleByDigest(f)))
	f.Add([]byte(readVector(f).Evidence))
	f.Add([]byte(`{"__cmwc_t":"tag:writ,2026:tpm-evidence#v1","quote":["a/b",1]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := evidence.Parse(b)
		if err != nil {
			return
		}
		if again := marshal(t, e); !bytes.Equal(again, b) {
			t.Fatalf("read %q, wrote %q", b, again)
		}
		e.Digest()
		attestation(e)
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add(sample(f).Item(evidence.Ask).Content)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := evidence.ParseRequest(b)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Marshal(), b) {
			t.Fatalf("read %q, wrote %q", b, r.Marshal())
		}
		if general, err := json.Marshal(r); err != nil || !bytes.Equal(general, b) {
			t.Fatalf("encoding/json writes %s (%v) for %s", general, err, b)
		}
	})
}
