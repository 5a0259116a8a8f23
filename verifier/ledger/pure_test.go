package ledger_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// reference is a tree kept the plain way, by x/mod alone.
type reference struct {
	hashes []tlog.Hash
	leaves [][]byte
}

func (r *reference) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = r.hashes[x]
	}
	return out, nil
}

func (r *reference) add(t testing.TB, leaf []byte) {
	t.Helper()
	hs, err := tlog.StoredHashes(int64(len(r.leaves)), leaf, r)
	if err != nil {
		t.Fatal(err)
	}
	r.hashes = append(r.hashes, hs...)
	r.leaves = append(r.leaves, leaf)
}

// TestLogAgainstReference compares roots, tiles, bundles and consistency proofs
// of a log with x/mod's own arithmetic. Batches of an odd size end at many
// widths of a tile.
func TestLogAgainstReference(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cfg := config(t, storetest.NewMemory())
	l := open(t, cfg)
	var ref reference
	var sizes []uint64
	for len(ref.leaves) < 3000 {
		ns := make([]int, 97)
		rs, err := l.Append(ctx, entries(ns...))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			ref.add(t, r.Entry)
		}
		c := checkpoint(t, l)
		root, err := tlog.TreeHash(int64(c.Size), &ref)
		if err != nil {
			t.Fatal(err)
		}
		if c.Size != uint64(len(ref.leaves)) || c.Root != root {
			t.Fatalf("checkpoint has size %d and root %s, expected %d and %s", c.Size, c.Root, len(ref.leaves), root)
		}
		sizes = append(sizes, c.Size)
	}
	compareTiles(t, l, &ref)
	compareConsistency(t, l, &ref, sizes)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, cfg)
	compareTiles(t, again, &ref)
	rs := appendN(t, again, 3)
	checkReceipt(t, again, rs[0])
	report, err := ledger.Fsck(ctx, cfg.Store, cfg.GuardFile, again.VerifierKey())
	if err != nil || len(report.Problems)+len(report.Warnings) > 0 || report.Tiles != 11 {
		t.Errorf("Fsck = %+v, %v", report, err)
	}
}

func compareTiles(t *testing.T, l *ledger.Log, ref *reference) {
	t.Helper()
	n := int64(len(ref.leaves))
	for _, tile := range tlog.NewTiles(8, 0, n) {
		want, err := tlog.ReadTileData(tile, ref)
		if err != nil {
			t.Fatal(err)
		}
		for _, width := range []int{1, tile.W / 2, tile.W} {
			got, err := l.Tile(t.Context(), tile.L, uint64(tile.N), max(width, 1))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want[:32*max(width, 1)]) {
				t.Errorf("%s differs at width %d", tile.Path(), width)
			}
		}
		if tile.W < 256 {
			if _, err := l.Tile(t.Context(), tile.L, uint64(tile.N), tile.W+1); !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("a tile wider than the log: %v", err)
			}
		}
	}
	bundle, err := l.EntryBundle(t.Context(), uint64(n)/256, int(n%256))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range ref.leaves[n-n%256:] {
		size := binary.BigEndian.Uint16(bundle)
		if string(bundle[2:2+size]) != string(want) {
			t.Fatalf("entry bundle has %s, expected %s", bundle[2:2+size], want)
		}
		bundle = bundle[2+size:]
	}
	if len(bundle) > 0 {
		t.Errorf("%d bytes follow in the entry bundle", len(bundle))
	}
}

func compareConsistency(t *testing.T, l *ledger.Log, ref *reference, sizes []uint64) {
	t.Helper()
	at := func(size uint64) ledger.Checkpoint {
		root, err := tlog.TreeHash(int64(size), ref)
		if err != nil {
			t.Fatal(err)
		}
		return ledger.Checkpoint{Origin: origin, Size: size, Root: root}
	}
	last := sizes[len(sizes)-1]
	for _, older := range append([]uint64{0, 1, 2, 255, 256, 257, 2047, 2048, last}, sizes...) {
		proof, err := l.Consistency(t.Context(), older, last)
		if err != nil {
			t.Fatal(err)
		}
		if err := ledger.CheckConsistency(proof, at(older), at(last)); err != nil {
			t.Errorf("size %d: %v", older, err)
		}
		if len(proof) > 0 {
			proof[0][0] ^= 1
			if err := ledger.CheckConsistency(proof, at(older), at(last)); err == nil {
				t.Errorf("size %d: a changed proof is accepted", older)
			}
		}
	}
}

// TestProofText pins the format with the example of c2sp.org/tlog-proof.
func TestProofText(t *testing.T) {
	const text = `c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4=
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

— example.com/fancylog hI2DJw1roloI=
`
	p, err := ledger.ParseProof(text)
	if err != nil {
		t.Fatal(err)
	}
	if p.Index != 73894 || len(p.Path) != 2 || string(p.Extra) != "age-v1.2.1-darwin" || !strings.HasPrefix(string(p.Note), "example.com/fancylog\n") {
		t.Errorf("proof is %+v", p)
	}
	if p.Marshal() != text {
		t.Errorf("written again it is %s", p.Marshal())
	}
	for name, bad := range map[string]string{
		"another version":    strings.Replace(text, "@v1", "@v2", 1),
		"leading zero":       strings.Replace(text, "index 7", "index 07", 1),
		"no index":           strings.Replace(text, "index", "at", 1),
		"short hash":         strings.Replace(text, "gSKyXoYZ", "gSKy", 1),
		"second base64 form": strings.Replace(text, "cXmA=", "cXmB=", 1),
		"empty extra":        strings.Replace(text, "YWdlLXYxLjIuMS1kYXJ3aW4=", "", 1),
		"carriage returns":   strings.ReplaceAll(text, "\n", "\r\n"),
		"nothing after it":   text[:strings.Index(text, "\n\n")+2],
	} {
		if _, err := ledger.ParseProof(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestCheckpointText pins the format with the example of
// c2sp.org/tlog-checkpoint.
func TestCheckpointText(t *testing.T) {
	const text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	c, err := ledger.ParseCheckpoint([]byte(text))
	if err != nil || c.Size != 20852163 || c.Origin != "example.com/behind-the-sofa" || string(c.Marshal()) != text {
		t.Errorf("checkpoint is %+v, %v", c, err)
	}
	for _, bad := range []string{
		"", "\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
		text[:len(text)-1], text + "extension\n",
		strings.Replace(text, "\n2", "\n02", 1), strings.Replace(text, "\n2", "\n-2", 1),
		strings.Replace(text, "20852163", "99999999999999999999", 1),
		strings.Replace(text, "20852163", "9223372036854775807", 1),
		strings.Replace(text, "20852163", "0", 1),
	} {
		if _, err := ledger.ParseCheckpoint([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestEmptyTree(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	c := checkpoint(t, l)
	if want := "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; c.Size != 0 || c.Root.String() != want {
		t.Errorf("empty log has size %d and root %s, want SHA-256 of nothing, %s", c.Size, c.Root, want)
	}
}

func TestTilePath(t *testing.T) {
	for path, want := range map[string]ledger.TilePath{
		"tile/0/x001/x234/067":     {Level: 0, Index: 1234067, Width: 256},
		"tile/0/x001/234":          {Level: 0, Index: 1234, Width: 256},
		"tile/63/000.p/255":        {Level: 63, Index: 0, Width: 255},
		"tile/entries/000.p/1":     {Level: ledger.Entries, Index: 0, Width: 1},
		"tile/entries/x999/x1/000": {},
		"tile/0/1":                 {},
		"tile/0/x000/001":          {},
		"tile/0/001/002":           {},
		"tile/0/x001":              {},
		"tile/0/000.p/256":         {},
		"tile/0/000.p/0":           {},
		"tile/0/000.p/01":          {},
		"tile/00/000":              {},
		"tile/64/000":              {},
		"tile/-1/000":              {},
		"tile/0/":                  {},
		"tile/entries/../000":      {},
		"/tile/0/000":              {},
		"tile/0/x999/x999/x999/x999/x999/x999/x999/999": {},
	} {
		got, err := ledger.ParseTilePath(path)
		if (err == nil) != (want.Width > 0) || got != want {
			t.Errorf("ParseTilePath(%q) = %+v, %v", path, got, err)
		}
		if err == nil && got.String() != path {
			t.Errorf("%q is written as %q", path, got)
		}
	}
}

func TestLeafForm(t *testing.T) {
	const good = `{"v":1,"kind":"node.enrolled","at":1800000000,"subject":"s","actor":"a","data":{"a":1,"b":{"c":[{"d":null}]}}}`
	leaf, err := ledger.ParseLeaf([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := ledger.Leaf{Kind: "node.enrolled", At: 1_800_000_000, Subject: "s", Actor: "a", Data: []byte(`{"a":1,"b":{"c":[{"d":null}]}}`)}
	if diff := cmp.Diff(want, leaf); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]string{
		"empty":             "",
		"version":           strings.Replace(good, `"v":1`, `"v":2`, 1),
		"order":             strings.Replace(good, `"v":1,"kind":"node.enrolled"`, `"kind":"node.enrolled","v":1`, 1),
		"space":             strings.Replace(good, `"s"`, ` "s"`, 1),
		"unknown field":     strings.Replace(good, `"v":1`, `"v":1,"w":1`, 1),
		"repeated field":    strings.Replace(good, `"v":1`, `"v":1,"v":1`, 1),
		"another case":      strings.Replace(good, `"v":1`, `"V":1`, 1),
		"missing field":     strings.Replace(good, `"actor":"a",`, "", 1),
		"trailing bytes":    good + "\n",
		"escape":            strings.Replace(good, `"s"`, `"\u0073"`, 1),
		"time as a float":   strings.Replace(good, `1800000000`, `1800000000.0`, 1),
		"time before 1970":  strings.Replace(good, `1800000000`, `-1`, 1),
		"kind with a space": strings.Replace(good, `node.enrolled`, `node enrolled`, 1),
		"no kind":           strings.Replace(good, `node.enrolled`, ``, 1),
		"data an array":     strings.Replace(good, `{"a":1,"b":{"c":[{"d":null}]}}`, `[]`, 1),
		"no data":           strings.Replace(good, `{"a":1,"b":{"c":[{"d":null}]}}`, `null`, 1),
		"repeated member":   strings.Replace(good, `"d":null`, `"d":null,"d":1`, 1),
		"space in the data": strings.Replace(good, `"d":null`, `"d": null`, 1),
		"not UTF-8":         strings.Replace(good, `"d"`, "\"\xff\"", 1),
		"too long":          strings.Replace(good, `"a":1`, `"a":"`+strings.Repeat("x", 70_000)+`"`, 1),
	} {
		if got, err := ledger.ParseLeaf([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func TestEntriesThatDoNotFit(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	for name, e := range map[string]ledger.Entry{
		"too long":   {Kind: "a.b", Data: struct{ S string }{strings.Repeat("x", 65_535)}},
		"bad kind":   {Kind: "A b"},
		"a number":   {Kind: "a.b", Data: 17},
		"a string":   {Kind: "a.b", Data: "}}"},
		"a function": {Kind: "a.b", Data: func() {}},
		"subject":    {Kind: "a.b", Subject: strings.Repeat("x", 513)},
		"actor":      {Kind: "a.b", Actor: "\xff"},
	} {
		_, err := l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Entries: []ledger.Entry{{Kind: "a.b"}, e}}, nil
		}})
		if err == nil {
			t.Errorf("%s: appended", name)
		}
	}
	if l.Size() != 0 {
		t.Errorf("log has size %d", l.Size())
	}
}

// TestLongestEntry: a leaf of 65,535 bytes is kept whole, one byte more is refused and
// not cut.
func TestLongestEntry(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	entry := func(n int) ([]ledger.Receipt, error) {
		return l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Entries: []ledger.Entry{{Kind: "a.b", Data: struct{ S string }{strings.Repeat("x", n)}}}}, nil
		}})
	}
	rs, err := entry(0)
	if err != nil {
		t.Fatal(err)
	}
	room := ledger.MaxEntry - len(rs[0].Entry)
	if _, err := entry(room + 1); err == nil {
		t.Error("65,536 bytes were taken")
	}
	if rs, err = entry(room); err != nil || len(rs[0].Entry) != ledger.MaxEntry {
		t.Fatalf("65,535 bytes: %v", err)
	}
	if got, err := l.Entry(t.Context(), 1); err != nil || string(got) != string(rs[0].Entry) || l.Size() != 2 {
		t.Errorf("of 65,535 bytes %d came back, in a log of %d entries: %v", len(got), l.Size(), err)
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add("c2sp.org/tlog-proof@v1\nindex 0\n\nnote")
	f.Add("c2sp.org/tlog-proof@v1\nextra eA==\nindex 1\nB95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\n\no\n2\nB95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\n")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ledger.ParseProof(text); err == nil && p.Marshal() != text {
			t.Errorf("%q is written as %q", text, p.Marshal())
		}
	})
}

func FuzzParseLeaf(f *testing.F) {
	f.Add([]byte(`{"v":1,"kind":"node.enrolled","at":1800000000,"subject":"\u003c","actor":"","data":{"a":[1e5,{"b":"é"}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		leaf, err := ledger.ParseLeaf(b)
		if err != nil {
			return
		}
		again, err := leaf.Marshal()
		if err != nil || string(again) != string(b) {
			t.Errorf("%q is written as %q, %v", b, again, err)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add([]byte("o\n2\nB95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ledger.ParseCheckpoint(b); err == nil && string(c.Marshal()) != string(b) {
			t.Errorf("%q is written as %q", b, c.Marshal())
		}
	})
}

// FuzzOpenCheckpoint changes signed notes: no change keeps the signature and
// says something else.
func FuzzOpenCheckpoint(f *testing.F) {
	l := open(f, config(f, storetest.NewMemory()))
	appendN(f, l, 3)
	want, err := ledger.OpenCheckpoint(l.Checkpoint(), l.VerifierKey())
	if err != nil {
		f.Fatal(err)
	}
	vkey := l.VerifierKey()
	f.Add(l.Checkpoint())
	f.Fuzz(func(t *testing.T, msg []byte) {
		if c, err := ledger.OpenCheckpoint(msg, vkey); err == nil && c != want && c.Size != 0 {
			t.Errorf("%q opens as %+v", msg, c)
		}
	})
}

func FuzzParseTilePath(f *testing.F) {
	f.Add("tile/0/x001/x234/067.p/12")
	f.Add("tile/entries/000")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ledger.ParseTilePath(s); err == nil && p.String() != s {
			t.Errorf("%q is written as %q", s, p)
		}
	})
}
