package ledger_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// served is a log as a server shows it to outsiders.
func served(l *ledger.Log) ledger.Fetch {
	return func(ctx context.Context, path string) ([]byte, error) {
		if path == "checkpoint" {
			return l.Checkpoint(), nil
		}
		p, err := ledger.ParseTilePath(path)
		if err != nil {
			return nil, err
		}
		if p.Level == ledger.Entries {
			return l.EntryBundle(ctx, p.Index, p.Width)
		}
		return l.Tile(ctx, p.Level, p.Index, p.Width)
	}
}

// changed is a server that changes what one path answers.
func changed(f ledger.Fetch, path string, change func([]byte) []byte) ledger.Fetch {
	return func(ctx context.Context, p string) ([]byte, error) {
		b, err := f(ctx, p)
		if p == path && err == nil {
			b = change(bytes.Clone(b))
		}
		return b, err
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 1; return b }
}

func remote(t *testing.T, f ledger.Fetch, vkey string) *ledger.Remote {
	t.Helper()
	r, err := ledger.OpenRemote(t.Context(), f, vkey)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRemoteFsck(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	for _, n := range []int{0, 1, 255, 44, 212, 600} {
		appendN(t, l, n)
		for _, entries := range []bool{true, false} {
			report, err := remote(t, served(l), l.VerifierKey()).Fsck(t.Context(), entries, l.VerifierKey())
			if err != nil || len(report.Problems) > 0 || report.Entries != l.Size() {
				t.Fatalf("size %d, entries %v: %+v, %v", l.Size(), entries, report, err)
			}
		}
	}
	for path, where := range map[string]string{
		"tile/0/000":            "entry 1:",
		"tile/0/003":            "entry 769:",
		"tile/0/004.p/88":       "entry 1025:",
		"tile/entries/001":      "entry 256:",
		"tile/entries/004.p/88": "entry 1024:",
		"tile/1/000.p/4":        "", // derived, so nobody asks for it
	} {
		bad := changed(served(l), path, flip(40))
		report, err := remote(t, bad, l.VerifierKey()).Fsck(t.Context(), true, l.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		found := fmt.Sprint(report.Problems)
		if (where == "") != (len(report.Problems) == 0) || !strings.Contains(found, where) {
			t.Errorf("%s changed: problems %s, want one about %q", path, found, where)
		}
	}
}

// TestRemoteEntriesForged serves entries and tiles that go together, but not
// with the checkpoint.
func TestRemoteEntriesForged(t *testing.T) {
	l, other := open(t, config(t, storetest.NewMemory())), open(t, config(t, storetest.NewMemory()))
	appendN(t, l, 300)
	for i := range 300 {
		if _, err := other.Append(t.Context(), entries(-i)); err != nil {
			t.Fatal(err)
		}
	}
	forged := func(ctx context.Context, path string) ([]byte, error) {
		if path == "checkpoint" {
			return served(l)(ctx, path)
		}
		return served(other)(ctx, path)
	}
	r := remote(t, forged, l.VerifierKey())
	if got, err := r.Entries(t.Context(), 280); err == nil {
		t.Errorf("forged entries are read: %d", len(got))
	}
	honest := remote(t, served(l), l.VerifierKey())
	got, err := honest.Entries(t.Context(), 280)
	if err != nil || len(got) != 20 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	want, err := l.Entry(t.Context(), 280)
	if err != nil || !bytes.Equal(got[0], want) {
		t.Errorf("entry 280 is %s, want %s (%v)", got[0], want, err)
	}
	if _, err := ledger.OpenRemote(t.Context(), served(l), "x.invalid/log+00000000+AAAA"); err == nil {
		t.Error("a log opens with another log's key")
	}
}

// TestSplitViewToOutsider shows an outsider one history, and then another of the same key.
func TestSplitViewToOutsider(t *testing.T) {
	l, fork := open(t, config(t, storetest.NewMemory())), open(t, config(t, storetest.NewMemory()))
	ctx := t.Context()
	var seen []ledger.Checkpoint
	for _, n := range []int{0, 3, 300, 57} {
		appendN(t, l, n)
		r := remote(t, served(l), l.VerifierKey())
		seen = append(seen, r.Checkpoint)
		for _, older := range seen {
			if err := r.Extends(ctx, older); err != nil {
				t.Fatalf("size %d after %d: %v", r.Size, older.Size, err)
			}
		}
	}
	if _, err := fork.Append(ctx, entries(99)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{100, 500} { // smaller than what was seen, and larger
		appendN(t, fork, n)
		if err := remote(t, served(fork), l.VerifierKey()).Extends(ctx, seen[3]); !errors.Is(err, ledger.ErrDiverged) {
			t.Errorf("a fork of size %d after size %d: %v, want ErrDiverged", fork.Size(), seen[3].Size, err)
		}
	}
}

func FuzzParseSubmission(f *testing.F) {
	f.Add([]byte("old 0\n\nnote"))
	f.Add([]byte("old 20\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\na\n20\nb\n\n— a b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ledger.ParseSubmission(b)
		if err == nil && !bytes.Equal(s.Marshal(), b) {
			t.Errorf("%q is read as %q", b, s.Marshal())
		}
	})
}

func TestWitness(t *testing.T) {
	ctx := t.Context()
	l, fork := open(t, config(t, storetest.NewMemory())), open(t, config(t, storetest.NewMemory()))
	w, err := ledger.NewWitness("witness.example", key(7))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_800_000_000, 0).UTC()
	submit := func(l *ledger.Log, last ledger.Checkpoint, old uint64) (ledger.Checkpoint, error) {
		s := ledger.Submission{Old: old, Note: l.Checkpoint()}
		if old <= l.Size() {
			if s.Proof, err = l.Consistency(ctx, old, l.Size()); err != nil {
				t.Fatal(err)
			}
		}
		s, err = ledger.ParseSubmission(s.Marshal())
		if err != nil || s.Origin() != origin {
			t.Fatalf("submission of %q, %v", s.Origin(), err)
		}
		return s.Admit(last, l.VerifierKey())
	}
	var last ledger.Checkpoint
	for _, n := range []int{0, 5, 0, 300} {
		appendN(t, l, n)
		next, err := submit(l, last, last.Size)
		if err != nil {
			t.Fatalf("size %d after %d: %v", l.Size(), last.Size, err)
		}
		line, err := w.Cosign(l.Checkpoint(), at)
		if err != nil {
			t.Fatal(err)
		}
		c, when, err := ledger.OpenCosigned(append(bytes.Clone(l.Checkpoint()), line...), w.VerifierKey(), l.VerifierKey())
		if err != nil || c != next || !when.Equal(at) {
			t.Fatalf("cosigned %v at %v, %v", c, when, err)
		}
		last = next
	}
	appendN(t, fork, 400)
	for name, test := range map[string]struct {
		last ledger.Checkpoint
		old  uint64
		want error
	}{
		"Stale":      {last, 5, ledger.ErrStale},
		"Unproven":   {last, last.Size, ledger.ErrUnproven},
		"OldTooBig":  {last, 401, ledger.ErrOldSize},
		"OtherRoot":  {ledger.Checkpoint{Origin: origin, Size: 400}, 400, ledger.ErrStale},
		"FirstSight": {ledger.Checkpoint{}, 5, ledger.ErrStale},
	} {
		if _, err := submit(fork, test.last, test.old); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	s := ledger.Submission{Note: l.Checkpoint()}
	if _, err := s.Admit(ledger.Checkpoint{}, w.VerifierKey()); !errors.Is(err, ledger.ErrKey) {
		t.Errorf("checkpoint of an unknown key: %v, want ErrKey", err)
	}
}

// TestCosignatureBytes computes a cosignature from the words of
// c2sp.org/tlog-cosignature.
func TestCosignatureBytes(t *testing.T) {
	w, err := ledger.NewWitness("w", key(7))
	if err != nil {
		t.Fatal(err)
	}
	line, err := w.Cosign([]byte("a\n1\nAAAA\n\n— a sig\n"), time.Unix(5, 0))
	if err != nil {
		t.Fatal(err)
	}
	var name, b64 string
	if _, err := fmt.Sscanf(string(line), "— %s %s\n", &name, &b64); err != nil || name != "w" {
		t.Fatalf("%q: %v", line, err)
	}
	blob := unbase64(t, b64)
	if len(blob) != 4+8+64 || binary.BigEndian.Uint64(blob[4:]) != 5 ||
		!ed25519.Verify(key(7).Public().(ed25519.PublicKey), []byte("cosignature/v1\ntime 5\na\n1\nAAAA\n"), blob[12:]) {
		t.Errorf("cosignature is %x", blob)
	}
}

func unbase64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzOpenCosigned(f *testing.F) {
	w, err := ledger.NewWitness("witness.example", key(7))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("note\n\n— witness.example AAAA\n", w.VerifierKey())
	f.Fuzz(func(t *testing.T, msg, witness string) {
		if c, _, err := ledger.OpenCosigned([]byte(msg), witness); err == nil {
			t.Errorf("without a key of a log: %+v", c)
		}
	})
}
