package ima_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
)

const testdata = "../../testdata"

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testdata, path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, b []byte) *ima.List {
	t.Helper()
	l, err := ima.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// boots returns the names of the recorded boots.
func boots(t testing.TB) (names []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(testdata, "boots/*/ima.bin"))
	if err != nil || len(paths) < 15 {
		t.Fatalf("%d boots with an IMA list (%v), expected 15 or more", len(paths), err)
	}
	for _, p := range paths {
		names = append(names, filepath.Base(filepath.Dir(p)))
	}
	return names
}

// pcrs returns the PCRs of a boot as they were read from its TPM, per bank.
func pcrs(t testing.TB, boot string) map[tpm.Alg]map[int][]byte {
	t.Helper()
	var banks map[string]map[string]string
	if err := json.Unmarshal(read(t, "boots/"+boot+"/pcrs.json"), &banks); err != nil {
		t.Fatal(err)
	}
	out := map[tpm.Alg]map[int][]byte{}
	for name, values := range banks {
		alg, err := tpm.ParseAlg(name)
		if err != nil {
			t.Fatal(err)
		}
		out[alg] = map[int][]byte{}
		for i, v := range values {
			n, _ := strconv.Atoi(i)
			if out[alg][n], err = hex.DecodeString(v); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

const (
	raced  = "e-grub-sb-race" // its list grew while it was quoted
	padded = "h-sha384"       // its kernel pads SHA-1 into the sha384 bank
)

// TestReplayIsWhatTheTPMHeld compares PCR 10 with what the machine's TPM held.
func TestReplayIsWhatTheTPMHeld(t *testing.T) {
	for _, boot := range boots(t) {
		l := parse(t, read(t, "boots/"+boot+"/ima.bin"))
		for bank, values := range pcrs(t, boot) {
			got := l.Replay(bank)
			switch equal := bytes.Equal(got, values[10]); {
			case boot == raced:
				if equal {
					t.Errorf("%s: the list replays to PCRs that were read before it was whole", boot)
				}
			case boot == padded && bank == tpm.AlgSHA384:
				if equal {
					t.Errorf("%s: the %v bank is padded, a replay must not reach it", boot, bank)
				}
			case !equal:
				t.Errorf("%s: %v PCR 10 replays to %x, the TPM had %x", boot, bank, got, values[10])
			}
		}
	}
}

// TestASCIIIsBinary: the kernel wrote both lists of each boot; what is read from
// the text must be the binary list, byte for byte.
func TestASCIIIsBinary(t *testing.T) {
	for _, boot := range boots(t) {
		bin := read(t, "boots/"+boot+"/ima.bin")
		l, err := ima.ParseASCII(read(t, "boots/"+boot+"/ima.ascii"))
		if err != nil {
			t.Errorf("%s: %v", boot, err)
			continue
		}
		got := l.Marshal()
		if boot == raced { // the text was read later and has more entries
			got = got[:min(len(bin), len(got))]
		}
		if !bytes.Equal(got, bin) {
			t.Errorf("%s: the ASCII list is not the binary list", boot)
		}
	}
}

// TestBootAggregate computes each list's link to its boot from the TPM's PCRs.
func TestBootAggregate(t *testing.T) {
	for _, boot := range boots(t) {
		first := &parse(t, read(t, "boots/"+boot+"/ima.bin")).Entries[0]
		if !first.IsBootAggregate() {
			t.Errorf("%s: the first entry is %q", boot, first.Path)
			continue
		}
		bank := first.FileAlg
		values := pcrs(t, boot)[bank]
		if got := ima.BootAggregate(bank, values, first.FileAlg); !bytes.Equal(got, first.FileDigest) {
			t.Errorf("%s: %v boot aggregate is %x, the kernel has %x", boot, bank, got, first.FileDigest)
		}
		delete(values, 3)
		if got := ima.BootAggregate(bank, values, first.FileAlg); got != nil {
			t.Errorf("%s: a boot aggregate without PCR 3: %x", boot, got)
		}
	}
}

// TestPrefixOfRacedList finds, for each of three quotes of a machine whose list
// grew meanwhile, how much of the list it proves. The quote tells one digest over
// PCRs 0-15; the boot log settles all but PCR 10.
func TestPrefixOfRacedList(t *testing.T) {
	l := parse(t, read(t, "boots/"+raced+"/ima.bin"))
	for _, tt := range []struct {
		quote string
		bank  tpm.Alg
		want  int
	}{{"quote.bin", tpm.AlgSHA256, 223}, {"quote_ecc.bin", tpm.AlgSHA256, 224}, {"quote_sha1.bin", tpm.AlgSHA1, 224}} {
		q, err := tpm.ParseQuote(read(t, "boots/"+raced+"/"+tt.quote))
		if err != nil {
			t.Fatal(err)
		}
		values := pcrs(t, raced)[tt.bank]
		r := ima.NewReplay(tt.bank)
		var quoted []byte
		for i := range l.Entries {
			r.Extend(&l.Entries[i])
			values[10] = r.Sum()
			h := sha256.New()
			for _, pcr := range q.PCRs {
				h.Write(values[pcr])
			}
			if bytes.Equal(h.Sum(nil), q.PCRDigest) {
				quoted = r.Sum()
				break
			}
		}
		if quoted == nil {
			t.Errorf("%s: no prefix gives the quoted PCR digest", tt.quote)
			continue
		}
		n, end, ok := l.Prefix(tt.bank, nil, quoted)
		if !ok || n != tt.want || end != l.Entries[n-1].End {
			t.Errorf("%s: proves %d entries to byte %d (%v), expected %d", tt.quote, n, end, ok, tt.want)
		}
	}
}

// TestResume replays each list in two parts, cut at every 20th entry.
func TestResume(t *testing.T) {
	b := read(t, "boots/c-grub-sb/ima.bin")
	whole := parse(t, b)
	held := pcrs(t, "c-grub-sb")[tpm.AlgSHA256][10]
	for cut := 20; cut < len(whole.Entries); cut += 20 {
		at := whole.Entries[cut].Offset
		first := parse(t, b[:at])
		rest := parse(t, b[at:])
		if len(first.Entries) != cut || first.Truncated {
			t.Fatalf("the first %d bytes: %d entries, truncated %v", at, len(first.Entries), first.Truncated)
		}
		n, end, ok := rest.Prefix(tpm.AlgSHA256, first.Replay(tpm.AlgSHA256), held)
		if !ok || n != len(whole.Entries)-cut || at+end != int64(len(b)) {
			t.Errorf("resumed at %d: %d entries to byte %d (%v)", cut, n, at+end, ok)
		}
		r := ima.Resume(tpm.AlgSHA256, first.Replay(tpm.AlgSHA256))
		for i := range rest.Entries {
			r.Extend(&rest.Entries[i])
		}
		if !bytes.Equal(r.Sum(), held) {
			t.Errorf("resumed at %d: %x", cut, r.Sum())
		}
	}
}

// TestMarshal: binary lists come out as they went in.
func TestMarshal(t *testing.T) {
	for _, boot := range boots(t) {
		b := read(t, "boots/"+boot+"/ima.bin")
		if !bytes.Equal(parse(t, b).Marshal(), b) {
			t.Errorf("%s: Marshal is not what was parsed", boot)
		}
	}
	paths, _ := filepath.Glob(filepath.Join(testdata, "logs/tpm2-tss/sml-*.bin"))
	if len(paths) != 6 {
		t.Errorf("%d lists of tpm2-tss", len(paths))
	}
	for _, p := range paths {
		b := read(t, "logs/tpm2-tss/"+filepath.Base(p))
		if !bytes.Equal(parse(t, b).Marshal(), b) {
			t.Errorf("%s: Marshal is not what was parsed", p)
		}
	}
}

// BenchmarkIMA parses a list and finds the prefix that a quote proves; resume10
// does so for the ten entries since the last time.
func BenchmarkPrefix(b *testing.B) {
	for _, n := range []int{500, 10000} {
		raw := longList(b, n)
		want := parse(b, raw).Replay(tpm.AlgSHA256)
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkPrefix(b, raw, nil, want, n) })
	}
	raw := longList(b, 10000)
	l := parse(b, raw)
	want := l.Replay(tpm.AlgSHA256)
	rest := raw[l.Entries[9990].Offset:]
	start := parse(b, raw[:l.Entries[9990].Offset]).Replay(tpm.AlgSHA256)
	b.Run("resume10", func(b *testing.B) { benchmarkPrefix(b, rest, start, want, 10) })
}

func benchmarkPrefix(b *testing.B, raw, start, want []byte, n int) {
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		l, err := ima.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		if got, _, ok := l.Prefix(tpm.AlgSHA256, start, want); !ok || got != n {
			b.Fatalf("%d entries proven, expected %d", got, n)
		}
	}
}

// longList repeats a real list's entries until there are n.
func longList(b *testing.B, n int) []byte {
	raw := read(b, "boots/c-grub-sb/ima.bin")
	l := parse(b, raw)
	var out []byte
	for i := range n {
		e := &l.Entries[i%len(l.Entries)]
		out = append(out, raw[e.Offset:e.End]...)
	}
	return out
}
