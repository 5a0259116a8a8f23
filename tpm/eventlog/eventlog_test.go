package eventlog_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
)

// A builder writes crypto-agile logs, on its own: no code of the package.
type builder struct {
	b    []byte
	algs []tpm.Alg
}

func newBuilder(algs ...tpm.Alg) *builder {
	d := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	d = binary.LittleEndian.AppendUint32(d, uint32(len(algs)))
	for _, a := range algs {
		d = binary.LittleEndian.AppendUint16(d, uint16(a))
		d = binary.LittleEndian.AppendUint16(d, uint16(a.Size()))
	}
	d = append(d, 0)
	b := &builder{algs: algs}
	b.b = append(b.b, 0, 0, 0, 0, 3, 0, 0, 0)
	b.b = append(b.b, make([]byte, 20)...)
	b.b = binary.LittleEndian.AppendUint32(b.b, uint32(len(d)))
	b.b = append(b.b, d...)
	return b
}

// event adds an event whose digests are those of measured; nil for zeros.
func (b *builder) event(pcr uint32, typ eventlog.Type, measured, data []byte) *builder {
	var ds []eventlog.Digest
	for _, a := range b.algs {
		sum := make([]byte, a.Size())
		if h, ok := a.Hash(); ok && measured != nil {
			w := h.New()
			w.Write(measured)
			sum = w.Sum(nil)
		}
		ds = append(ds, eventlog.Digest{Alg: a, Sum: sum})
	}
	return b.raw(pcr, typ, ds, data)
}

func (b *builder) raw(pcr uint32, typ eventlog.Type, ds []eventlog.Digest, data []byte) *builder {
	b.b = binary.LittleEndian.AppendUint32(b.b, pcr)
	b.b = binary.LittleEndian.AppendUint32(b.b, uint32(typ))
	b.b = binary.LittleEndian.AppendUint32(b.b, uint32(len(ds)))
	for _, d := range ds {
		b.b = binary.LittleEndian.AppendUint16(b.b, uint16(d.Alg))
		b.b = append(b.b, d.Sum...)
	}
	b.b = binary.LittleEndian.AppendUint32(b.b, uint32(len(data)))
	b.b = append(b.b, data...)
	return b
}

func utf16le(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

var globalGUID = []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

func variable(name string, data []byte) []byte {
	n := utf16le(name)
	b := slices.Clone(globalGUID)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(n)/2))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	return append(append(b, n...), data...)
}

var zeros = []byte{0, 0, 0, 0}

func codes(l *eventlog.Log) (cs []string) {
	for _, f := range l.Findings() {
		cs = append(cs, f.Code)
	}
	return cs
}

// The PCR values below are what swtpm 0.7 held after the same acts: a
// TPM2_Startup from locality 3 and one extend; an H-CRTM sequence over "thecode".
func TestStartupLocality(t *testing.T) {
	l := parse(t, newBuilder(tpm.AlgSHA256).
		event(0, eventlog.NoAction, nil, []byte("StartupLocality\x00\x03")).
		raw(0, eventlog.SCRTMVersion, []eventlog.Digest{{Alg: tpm.AlgSHA256, Sum: bytes.Repeat([]byte{0x11}, 32)}}, nil).b)
	checkPCR0(t, l, "b8e8cc97156c2b3142cb8e876236fd4729748153743b480af0949565f227d2eb")
}

func TestHCRTM(t *testing.T) {
	const want = "4b3473df8d51b178872e9f853d3554c29c5f34130c4c799bd4cfb30aac564407"
	checkPCR0(t, parse(t, newBuilder(tpm.AlgSHA256).event(0, eventlog.HCRTM, []byte("thecode"), []byte("HCRTM")).b), want)
	checkPCR0(t, parse(t, newBuilder(tpm.AlgSHA256).
		event(0, eventlog.NoAction, nil, []byte("StartupLocality\x00\x04")).
		event(0, eventlog.HCRTM, []byte("thecode"), []byte("HCRTM")).b), want)
}

// A log may say only where PCR 0 starts.
func TestStartupLocalityAlone(t *testing.T) {
	l := parse(t, newBuilder(tpm.AlgSHA256).event(0, eventlog.NoAction, nil, []byte("StartupLocality\x00\x03")).b)
	checkPCR0(t, l, strings.Repeat("00", 31)+"03")
	if cs := codes(l); !slices.Contains(cs, eventlog.NoEvents) {
		t.Errorf("findings %v lack %s", cs, eventlog.NoEvents)
	}
}

func TestTwoStartupLocalities(t *testing.T) {
	b := newBuilder(tpm.AlgSHA256).
		event(0, eventlog.NoAction, nil, []byte("StartupLocality\x00\x03")).
		event(0, eventlog.NoAction, nil, []byte("StartupLocality\x00\x00")).b
	if _, err := eventlog.Parse(b); err == nil {
		t.Error("parsed")
	}
}

func checkPCR0(t *testing.T, l *eventlog.Log, want string) {
	t.Helper()
	got, err := l.Replay(tpm.AlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if g := hex.EncodeToString(got[0]); g != want {
		t.Errorf("PCR 0 is %s, a TPM had %s", g, want)
	}
}

// A bank that cannot be computed here does not hide the others.
func TestUnknownBank(t *testing.T) {
	for _, alg := range []tpm.Alg{tpm.AlgSM3, 0x7777} {
		b := newBuilder(tpm.AlgSHA256, tpm.AlgSM3).event(4, eventlog.Separator, zeros, zeros).b
		if alg != tpm.AlgSM3 {
			b = bytes.ReplaceAll(b, []byte{0x12, 0}, []byte{0x77, 0x77})
		}
		l := parse(t, b)
		if !bytes.Equal(l.Marshal(), b) {
			t.Errorf("%v: Marshal is not what was parsed", alg)
		}
		if _, err := l.Replay(tpm.AlgSHA256); err != nil {
			t.Errorf("%v: %v", alg, err)
		}
		if _, err := l.Replay(alg); err == nil {
			t.Errorf("%v was replayed", alg)
		}
		if !l.Events[1].DataVerified() {
			t.Errorf("%v: the sha256 digest was not enough", alg)
		}
		if cs := codes(l); !slices.Contains(cs, eventlog.BankUnknown) {
			t.Errorf("%v: findings %v", alg, cs)
		}
	}
}

// The header announces two banks, one event has one digest: the other bank is
// not provable, whatever else it holds.
func TestMissingDigest(t *testing.T) {
	sum := sha256.Sum256(zeros)
	l := parse(t, newBuilder(tpm.AlgSHA1, tpm.AlgSHA256).
		event(4, eventlog.Separator, zeros, zeros).
		raw(5, eventlog.Separator, []eventlog.Digest{{Alg: tpm.AlgSHA256, Sum: sum[:]}}, zeros).b)
	if _, err := l.Replay(tpm.AlgSHA1); err == nil {
		t.Error("the sha1 bank was replayed")
	}
	if _, err := l.Replay(tpm.AlgSHA256); err != nil {
		t.Error(err)
	}
	if cs := codes(l); !slices.Contains(cs, eventlog.BankIncomplete) {
		t.Errorf("findings %v", cs)
	}
}

func TestPCROutOfRange(t *testing.T) {
	want := parse(t, newBuilder(tpm.AlgSHA256).event(4, eventlog.Separator, zeros, zeros).b)
	for _, pcr := range []uint32{24, 0x7fffffff, 0x80000000, 0xffffffff} {
		l := parse(t, newBuilder(tpm.AlgSHA256).event(4, eventlog.Separator, zeros, zeros).event(pcr, eventlog.Separator, zeros, zeros).b)
		got, err := l.Replay(tpm.AlgSHA256)
		if err != nil {
			t.Fatal(err)
		}
		values, _ := want.Replay(tpm.AlgSHA256)
		if len(got) != 1 || !bytes.Equal(got[4], values[4]) {
			t.Errorf("PCR %d changed the replay: %x", pcr, got)
		}
		if cs := codes(l); !slices.Contains(cs, eventlog.PCROutOfRange) {
			t.Errorf("findings %v", cs)
		}
	}
}

// TestHeaders: what a header must not say.
func TestHeaders(t *testing.T) {
	good := newBuilder(tpm.AlgSHA1, tpm.AlgSHA256).b
	change := func(off int, v ...byte) []byte {
		b := slices.Clone(good)
		copy(b[32+off:], v)
		return b
	}
	for name, b := range map[string][]byte{
		"no algorithm":         change(24, 0, 0, 0, 0),
		"2^32-1 algorithms":    change(24, 0xff, 0xff, 0xff, 0xff),
		"17 algorithms":        change(24, 17, 0, 0, 0),
		"an algorithm twice":   change(32, 4, 0, 20, 0),
		"sha256 of 20 bytes":   change(34, 20, 0),
		"unknown of 0 bytes":   change(32, 0x77, 0x77, 0, 0),
		"unknown of 129 bytes": change(32, 0x77, 0x77, 129, 0),
		"vendor info too long": change(36, 200),
		"cut":                  good[:len(good)-1],
		"a byte behind":        append(slices.Clone(good), 0),
	} {
		if _, err := eventlog.Parse(b); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
	if _, err := eventlog.Parse(good); err != nil {
		t.Error(err)
	}
}

// TestEvents: what an event must not say.
func TestEvents(t *testing.T) {
	sum := sha256.Sum256(zeros)
	d := eventlog.Digest{Alg: tpm.AlgSHA256, Sum: sum[:]}
	for name, ds := range map[string][]eventlog.Digest{
		"a digest twice":           {d, d},
		"an unannounced algorithm": {{Alg: tpm.AlgSHA512, Sum: make([]byte, 64)}},
		"too many digests":         {d, d, d},
	} {
		if _, err := eventlog.Parse(newBuilder(tpm.AlgSHA1, tpm.AlgSHA256).raw(4, eventlog.Separator, ds, zeros).b); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

// TestTruncatedLog: a log that was cut is refused, but for one cut between two
// events, which only the quote can tell from a whole one.
func TestTruncatedLog(t *testing.T) {
	for _, name := range []string{"boots/a-direct/eventlog.bin", "logs/tpm2-tss/binary_measurements_nuc.bin"} {
		whole := read(t, name)
		ends := map[int]bool{}
		for i := 1; i < len(parse(t, whole).Events); i++ {
			l := parse(t, whole)
			l.Events = l.Events[:i]
			ends[len(l.Marshal())] = true
		}
		for n := range whole {
			_, err := eventlog.Parse(whole[:n])
			if (err == nil) != ends[n] {
				t.Fatalf("%s: the first %d bytes: error %v, expected one: %v", name, n, err, !ends[n])
			}
		}
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestVariableBomb: sizes that promise gigabytes cost nothing.
func TestVariableBomb(t *testing.T) {
	base := newBuilder(tpm.AlgSHA256).b
	event := func(size uint32) []byte {
		b := newBuilder(tpm.AlgSHA256).event(7, eventlog.VariableDriverConfig, zeros, nil).b
		binary.LittleEndian.PutUint32(b[len(b)-4:], size)
		return append(b, make([]byte, 64)...)
	}
	count := append(slices.Clone(base), 7, 0, 0, 0, 1, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff)
	for name, b := range map[string][]byte{
		"event of 1 GiB":   event(1 << 30),
		"event of 4 GiB":   event(0xffffffff),
		"2^32-1 digests":   count,
		"1 GiB in 5 bytes": {0, 0, 0, 0, 1},
	} {
		if n := allocated(func() {
			if _, err := eventlog.Parse(b); err == nil {
				t.Errorf("%s: parsed", name)
			}
		}); n > 1<<20 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
	for _, sizes := range [][2]uint64{{1 << 30, 1}, {10, 1 << 30}, {1 << 63, 1 << 63}, {^uint64(0), 2}, {0x7fffffffffffffff, 100}} {
		v := variable("SecureBoot", []byte{1})
		binary.LittleEndian.PutUint64(v[16:], sizes[0])
		binary.LittleEndian.PutUint64(v[24:], sizes[1])
		l := parse(t, newBuilder(tpm.AlgSHA256).event(7, eventlog.VariableDriverConfig, v, v).event(7, eventlog.Separator, zeros, zeros).b)
		if n := allocated(func() {
			e := &l.Events[1]
			if _, _, _, ok := e.Variable(); ok {
				t.Errorf("sizes %x: a variable", sizes)
			}
			_ = e.Description()
			if s := l.SecureBoot(); s.Known {
				t.Errorf("sizes %x: %+v", sizes, s)
			}
		}); n > 1<<20 {
			t.Errorf("sizes %x: %d bytes allocated", sizes, n)
		}
	}
}

// TestHugeEventCount: more events than a log may hold, and more bytes.
func TestHugeEventCount(t *testing.T) {
	b := newBuilder(tpm.AlgSHA256).b
	for range eventlog.MaxEvents - 1 {
		b = append(b, make([]byte, 16)...) // PCR 0, type 0, no digest, no data
	}
	if _, err := eventlog.Parse(b); err != nil {
		t.Errorf("%d events: %v", eventlog.MaxEvents, err)
	}
	if _, err := eventlog.Parse(append(b, make([]byte, 16)...)); err == nil {
		t.Error("one event more was parsed")
	}
	if _, err := eventlog.Parse(make([]byte, eventlog.MaxSize+1)); err == nil {
		t.Error("a log that is too large was parsed")
	}
}

// TestNotALog: nothing here is taken for a log.
func TestNotALog(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":                  nil,
		"zeros and nothing else": make([]byte, 31),
		"text":                   []byte(strings.Repeat("this is no boot log\n", 20)),
		"ff":                     bytes.Repeat([]byte{0xff}, 4096),
		"no-action alone":        read(t, "logs/go-attestation/short_no_action_eventlog"),
		"an IMA list":            read(t, "boots/c-grub-sb/ima.bin"),
	} {
		if _, err := eventlog.Parse(b); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

func TestTypeString(t *testing.T) {
	for typ, want := range map[eventlog.Type]string{
		eventlog.Separator:         "EV_SEPARATOR",
		eventlog.VariableAuthority: "EV_EFI_VARIABLE_AUTHORITY",
		0x8401:                     "0x00008401",
	} {
		if got := typ.String(); got != want {
			t.Errorf("Type(%#x) is %s, expected %s", uint32(typ), got, want)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	raw := read(b, "logs/go-tpm-tools/ubuntu-2104-no-secure-boot.bin")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := eventlog.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReplay(b *testing.B) {
	raw := read(b, "logs/go-tpm-tools/ubuntu-2104-no-secure-boot.bin")
	l := parse(b, raw)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Replay(tpm.AlgSHA256); err != nil {
			b.Fatal(err)
		}
	}
}
