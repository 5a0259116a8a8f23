package oslog_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/oslog"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, b []byte) *oslog.Log {
	t.Helper()
	l, err := oslog.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestReplay: the vector's PCRs, from zeros and after a boot with a UKI.
func TestReplay(t *testing.T) {
	l := parse(t, read(t, "testdata/boot.log"))
	var want map[string]map[string]map[string]string // start, bank, PCR
	if err := json.Unmarshal(read(t, "testdata/boot.json"), &want); err != nil {
		t.Fatal(err)
	}
	var uki map[string]map[string]string
	if err := json.Unmarshal(read(t, "../../testdata/boots/d-uki/pcrs.json"), &uki); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for name, banks := range want {
		for bank, pcrs := range banks {
			alg, err := tpm.ParseAlg(bank)
			if err != nil {
				t.Fatal(err)
			}
			var start map[int][]byte
			if v, err := hex.DecodeString(uki[bank]["11"]); name == "d-uki" && err == nil && len(v) > 0 {
				start = map[int][]byte{11: v, 4: v}
			}
			got, err := l.Replay(alg, start)
			if err != nil || len(got) != len(pcrs) {
				t.Fatalf("%s %s: %d PCRs, %v", name, bank, len(got), err)
			}
			for pcr, v := range pcrs {
				i, _ := strconv.Atoi(pcr)
				if hex.EncodeToString(got[i]) != v {
					t.Errorf("%s %s PCR %s: %x, expected %s", name, bank, pcr, got[i], v)
				}
				checked++
			}
		}
	}
	if checked != 12 {
		t.Errorf("%d values checked", checked)
	}
	l.Records = l.Records[:1]
	if got, err := l.Replay(tpm.AlgSHA256, nil); err != nil || len(got) != 1 {
		t.Errorf("one record: %v, %v", got, err)
	}
}

func TestRecords(t *testing.T) {
	l := parse(t, read(t, "testdata/boot.log"))
	if len(l.Records) != 7 {
		t.Fatalf("%d records", len(l.Records))
	}
	r := l.Records[0]
	if r.PCR != 11 || r.Type != "phase" || r.Text != "enter-initrd" || r.BootID != "3f0c2d9c6d7b4a0e9c1f5b8a7e6d5c4b" || r.Time != 4945019 || !r.Verified(tpm.AlgSHA256) {
		t.Errorf("record 0: %+v", r)
	}
	for i, r := range l.Records {
		for _, alg := range []tpm.Alg{tpm.AlgSHA1, tpm.AlgSHA256, tpm.AlgSHA384} {
			if r.Verified(alg) != (r.Type != "volume-key") {
				t.Errorf("record %d (%s) verified in %v: %v", i, r.Type, alg, r.Verified(alg))
			}
		}
		if r.Verified(tpm.AlgSHA512) || r.Verified(tpm.AlgSM3) {
			t.Errorf("record %d verified in a bank it does not have", i)
		}
	}
}

// TestForgedText: a text is used only if it is what was measured.
func TestForgedText(t *testing.T) {
	raw := bytes.Replace(read(t, "testdata/boot.log"), []byte(`"machine-id:b3`), []byte(`"machine-id:b4`), 1)
	l := parse(t, raw)
	if l.Records[3].Verified(tpm.AlgSHA256) {
		t.Error("a forged machine id is verified")
	}
}

// TestReorderedRecords: order within a PCR is what the replay shows.
func TestReorderedRecords(t *testing.T) {
	l := parse(t, read(t, "testdata/boot.log"))
	want, _ := l.Replay(tpm.AlgSHA256, nil)
	for i := range l.Records {
		for j := range i {
			l.Records[i], l.Records[j] = l.Records[j], l.Records[i]
			got, err := l.Replay(tpm.AlgSHA256, nil)
			if err != nil {
				t.Fatal(err)
			}
			changed := !bytes.Equal(got[11], want[11]) || !bytes.Equal(got[15], want[15])
			// Two neighbours in different PCRs may swap.
			between := 0
			for k := j; k <= i; k++ {
				if p := l.Records[k].PCR; p == l.Records[i].PCR || p == l.Records[j].PCR {
					between++
				}
			}
			if !changed && (l.Records[i].PCR == l.Records[j].PCR || between > 2) {
				t.Errorf("records %d and %d swapped: the PCRs are the same", i, j)
			}
			l.Records[i], l.Records[j] = l.Records[j], l.Records[i]
		}
	}
}

// TestUnprovable: a record without the bank, an unknown bank, a start of
// another bank.
func TestUnprovable(t *testing.T) {
	l := parse(t, read(t, "testdata/boot.log"))
	for _, alg := range []tpm.Alg{tpm.AlgSHA512, tpm.AlgSM3, 0} {
		if _, err := l.Replay(alg, nil); err == nil {
			t.Errorf("replayed in %v", alg)
		}
	}
	if _, err := l.Replay(tpm.AlgSHA256, map[int][]byte{11: make([]byte, 20)}); err == nil {
		t.Error("replayed from a start of another size")
	}
	l.Records[6].Digests = l.Records[6].Digests[:1]
	if _, err := l.Replay(tpm.AlgSHA256, nil); err == nil {
		t.Error("replayed without a digest")
	}
}

const content = `{"string":"x","bootId":"3f0c2d9c6d7b4a0e9c1f5b8a7e6d5c4b","timestamp":1,"eventType":"phase"}`

var digest = fmt.Sprintf(`{"hashAlg":"sha256","digest":"%s"}`, strings.Repeat("0a", 32))

func record(pcr, digests, content string) string {
	return "\x1e" + fmt.Sprintf(`{%s,"digests":[%s],"content_type":"systemd","content":%s}`, pcr, digests, content) + "\n"
}

// TestParse: what is a log and what is none.
func TestParse(t *testing.T) {
	good := record(`"pcr":11`, digest, content)
	for name, raw := range map[string]string{
		"empty":              "",
		"one":                good,
		"two":                good + good,
		"with recnum":        record(`"recnum":7,"pcr":11`, digest, content),
		"NV index":           record(`"nv_index":30474762`, digest, content),
		"a member to come":   record(`"pcr":11`, digest, strings.Replace(content, "{", `{"nvIndexName":"login",`, 1)),
		"spaces":             strings.ReplaceAll(good, ",", ", "),
		"no text, no type":   record(`"pcr":15`, digest, `{"bootId":"3f0c2d9c6d7b4a0e9c1f5b8a7e6d5c4b","timestamp":1}`),
		"escaped text":       strings.Replace(good, `"x"`, `"\u0000\u001b"`, 1),
		"two banks":          record(`"pcr":11`, digest+`,{"hashAlg":"sha1","digest":"`+strings.Repeat("00", 20)+`"}`, content),
		"PCR 23":             record(`"pcr":23`, digest, content),
		"unknown event type": strings.Replace(good, "phase", "os-separator", 1),
	} {
		l, err := oslog.Parse([]byte(raw))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if string(l.Marshal()) != raw {
			t.Errorf("%s: Marshal is not what was parsed", name)
		}
	}
	for name, raw := range map[string]string{
		"no separator":           good[1:],
		"no line feed":           good[:len(good)-1],
		"cut":                    good + good[:40],
		"blank line":             good + "\n",
		"two separators":         "\x1e" + good,
		"empty record":           "\x1e\n",
		"JSON lines":             good[1:] + good[1:],
		"two objects":            good[:len(good)-1] + "{}\n",
		"array":                  "\x1e[]\n",
		"member twice":           record(`"pcr":11,"pcr":11`, digest, content),
		"member twice by escape": record(`"pcr":11,"\u0070cr":12`, digest, content),
		"other case":             record(`"PCR":11`, digest, content),
		"unknown member":         record(`"x":1,"pcr":11`, digest, content),
		"PCR and NV index":       record(`"pcr":11,"nv_index":1`, digest, content),
		"neither":                record(`"recnum":1`, digest, content),
		"PCR 24":                 record(`"pcr":24`, digest, content),
		"PCR -1":                 record(`"pcr":-1`, digest, content),
		"PCR 1e1":                record(`"pcr":1e1`, digest, content),
		"PCR as text":            record(`"pcr":"11"`, digest, content),
		"PCR null":               record(`"pcr":null`, digest, content),
		"huge PCR":               record(`"pcr":18446744073709551627`, digest, content),
		"no digests":             record(`"pcr":11`, "", content),
		"many digests":           record(`"pcr":11`, strings.Repeat(digest+",", 8)+digest, content),
		"bank twice":             record(`"pcr":11`, digest+","+digest, content),
		"bank twice by case":     record(`"pcr":11`, digest+","+strings.Replace(digest, "sha", "SHA", 1), content),
		"short digest":           record(`"pcr":11`, strings.Replace(digest, "0a", "", 1), content),
		"upper-case digest":      record(`"pcr":11`, strings.Replace(digest, "0a", "0A", 1), content),
		"unknown algorithm":      record(`"pcr":11`, strings.Replace(digest, "sha256", "md5", 1), content),
		"more in a digest":       record(`"pcr":11`, strings.Replace(digest, "{", `{"x":1,`, 1), content),
		"digest twice in one":    record(`"pcr":11`, strings.Replace(digest, "{", `{"hashAlg":"sha1",`, 1), content),
		"other content type":     strings.Replace(good, "systemd", "ima_template", 1),
		"no content":             record(`"pcr":11`, digest, "null"),
		"nested content":         record(`"pcr":11`, digest, strings.Replace(content, "{", `{"y":{},`, 1)),
		"content member twice":   record(`"pcr":11`, digest, strings.Replace(content, "{", `{"string":"y",`, 1)),
		"text is a number":       record(`"pcr":11`, digest, strings.Replace(content, `"x"`, "1", 1)),
		"no boot id":             record(`"pcr":11`, digest, `{"string":"x","timestamp":1}`),
		"short boot id":          strings.Replace(good, "3f0c", "", 1),
		"time is negative":       strings.Replace(good, `"timestamp":1`, `"timestamp":-1`, 1),
		"two boots":              good + strings.Replace(good, "3f0c", "3f0d", 1),
		"no UTF-8":               strings.Replace(good, `"x"`, "\"\xff\"", 1),
		"control character":      strings.Replace(good, `"x"`, "\"\x1b\"", 1),
		"separator inside":       strings.Replace(good, `"x"`, "\"\x1e\"", 1),
		"too large a record":     record(`"pcr":11`, digest, strings.Replace(content, `"x"`, `"`+strings.Repeat("x", 16<<10)+`"`, 1)),
		"too many records":       strings.Repeat(good, 4097),
		"too large":              strings.Repeat("x", 1<<20+1),
		"deep":                   "\x1e" + strings.Repeat(`{"a":`, 3000) + strings.Repeat("}", 3000) + "\n",
		"binary boot log":        "\x00\x00\x00\x00\x03\x00\x00\x00",
	} {
		if _, err := oslog.Parse([]byte(raw)); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

// FuzzParse: what parses is what it marshals to; nothing that can be asked
// panics.
// TestSameFaultEachTime: the reason why a log is refused is part of a verdict, so of
// several faults it is always the same that is named.
func TestSameFaultEachTime(t *testing.T) {
	for _, bad := range []string{
		record(`"pcr":11`, digest, `{"a":{},"b":[],"c":{},"d":{},"bootId":"3f0c2d9c6d7b4a0e9c1f5b8a7e6d5c4b","timestamp":1}`),
		record(`"pcr":11`, digest, `{"string":1,"eventType":2,"bootId":"3f0c2d9c6d7b4a0e9c1f5b8a7e6d5c4b","timestamp":1}`),
	} {
		_, want := oslog.Parse([]byte(bad))
		if want == nil {
			t.Fatalf("%q is a log", bad)
		}
		for range 50 {
			if _, err := oslog.Parse([]byte(bad)); err == nil || err.Error() != want.Error() {
				t.Fatalf("%v, and before %v", err, want)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(read(f, "testdata/boot.log"))
	f.Add([]byte(record(`"recnum":7,"pcr":11`, digest, content)))
	f.Add([]byte(record(`"nv_index":1`, digest, content)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := oslog.Parse(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Marshal(), raw) {
			t.Fatal("Marshal is not what was parsed")
		}
		for _, alg := range []tpm.Alg{tpm.AlgSHA1, tpm.AlgSHA256} {
			values, err := l.Replay(alg, nil)
			for i, v := range values {
				if err == nil && (i < 0 || i > 23 || len(v) != alg.Size()) {
					t.Fatalf("PCR %d in %v: %x", i, alg, v)
				}
			}
			for i := range l.Records {
				l.Records[i].Verified(alg)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw := read(b, "testdata/boot.log")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := oslog.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}
