package reference_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

func line(i int) string {
	sum := sha256.Sum256(fmt.Append(nil, i))
	return fmt.Sprintf("%x  /usr/lib/package/directory/file-%d", sum, i)
}

func list(t testing.TB, n int) *reference.List {
	t.Helper()
	lines := make([]string, n)
	for i := range lines {
		lines[i] = line(i)
	}
	l, err := reference.NewList(lines)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestList(t *testing.T) {
	l := list(t, 5000)
	if l.Len() != 5000 || l.Digest() != sha256.Sum256(l.Marshal()) {
		t.Errorf("%d files", l.Len())
	}
	for i := range 5100 {
		sum, path, _ := strings.Cut(line(i), "  ")
		if got := l.Has(path, []byte("sha256:"+sum)); got != (i < 5000) {
			t.Fatalf("file %d: %v", i, got)
		}
		if l.Has(path+"x", []byte("sha256:"+sum)) || l.Has(path[:len(path)-1], []byte("sha256:"+sum)) || l.Has("", []byte("sha256:"+sum)) {
			t.Fatalf("file %d is listed under another path", i)
		}
	}
	sum, path, _ := strings.Cut(line(1), "  ")
	for _, d := range []string{"", "sha256", "sha256:", sum, "sha512:" + sum, "verity:sha256:" + sum, "sm3_256:" + sum, "sha256:" + sum[:63], "sha256:" + sum + "0"} {
		if l.Has(path, []byte(d)) {
			t.Errorf("%s is listed", d)
		}
	}
	var none reference.List
	if none.Has(path, []byte("sha256:"+sum)) {
		t.Error("the zero list allows something")
	}
}

func TestListNotCanonical(t *testing.T) {
	a, b := line(1)+"\n", line(2)+"\n"
	if a > b {
		a, b = b, a
	}
	if _, err := reference.ParseList([]byte(a + b)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"order":         b + a,
		"twice":         a + a,
		"no line feed":  a + strings.TrimSuffix(b, "\n"),
		"empty line":    a + "\n" + b,
		"one space":     strings.Replace(a, "  ", " ", 1),
		"binary mark":   strings.Replace(a, "  ", " *", 1),
		"capitals":      strings.ToUpper(a[:64]) + a[64:],
		"short digest":  a[1:],
		"no path":       a[:66] + "\n",
		"NUL":           a[:66] + "/a\x00b\n",
		"SHA-1":         strings.Repeat("a", 40) + "  /x\n",
		"comment":       "# files\n" + a,
		"path too long": a[:66] + strings.Repeat("a", 5000) + "\n",
	} {
		if _, err := reference.ParseList([]byte(text)); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

// TestListOfNewlines: what is no list is refused before memory is taken for as many
// files as it has lines.
func TestListOfNewlines(t *testing.T) {
	b := bytes.Repeat([]byte("\n"), reference.MaxList)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := reference.ParseList(b); err == nil {
		t.Error("a list")
	}
	runtime.ReadMemStats(&after)
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 128<<20 {
		t.Errorf("%d bytes were taken for it", taken)
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte(line(1) + "\n"))
	f.Add([]byte(strings.Repeat("a", 128) + "  b\\\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := reference.ParseList(b)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Marshal(), b) {
			t.Fatal("does not come back")
		}
		for text := range strings.Lines(string(b)) {
			sum, path, _ := strings.Cut(strings.TrimSuffix(text, "\n"), "  ")
			name := map[int]string{64: "sha256:", 96: "sha384:", 128: "sha512:"}[len(sum)]
			if !l.Has(path, []byte(name+sum)) {
				t.Fatalf("%q is not found", text)
			}
		}
	})
}

// TestSharedListMemory: 100,000 digests that 10,000 sets name are held once,
// in little more than their own text.
func TestSharedListMemory(t *testing.T) {
	l := list(t, 100_000)
	sum := l.Digest()
	s := good()
	s.IMA.Lists = []reference.ListRef{{Digest: hex.EncodeToString(sum[:]), Name: "distribution"}}
	env, err := reference.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	set, err := reference.Read(env)
	if err != nil {
		t.Fatal(err)
	}
	if set.Whole() {
		t.Error("whole without its list")
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	parsed, err := reference.ParseList(l.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	sets := make([]*reference.Signed, 10_000)
	for i := range sets {
		if sets[i], err = set.Complete(nil, []*reference.List{parsed}); err != nil {
			t.Fatal(err)
		}
	}
	if grown := int64(heap()) - int64(before); grown > 8<<20 {
		t.Errorf("10,000 sets over a list of %d bytes take %d bytes more", len(l.Marshal()), grown)
	}
	for _, s := range sets {
		if !s.Whole() || s.Lists()[0] != parsed || s.Set != set.Set {
			t.Fatal("not shared")
		}
	}
	runtime.KeepAlive(parsed)
}

func BenchmarkList(b *testing.B) {
	l := list(b, 100_000)
	b.Run("parse", func(b *testing.B) {
		b.SetBytes(int64(len(l.Marshal())))
		for b.Loop() {
			if _, err := reference.ParseList(l.Marshal()); err != nil {
				b.Fatal(err)
			}
		}
	})
	sum, path, _ := strings.Cut(line(77), "  ")
	d := []byte("sha256:" + sum)
	b.Run("has", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !l.Has(path, d) {
				b.Fatal("not found")
			}
		}
	})
}
