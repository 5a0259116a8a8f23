package ledger_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

const origin = "example.invalid/log"

// key returns a fixed log key.
func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func config(t testing.TB, s ledger.Store) ledger.Config {
	return ledger.Config{Store: s, Origin: origin, Key: key(1), GuardFile: filepath.Join(t.TempDir(), "guard")}
}

func open(t testing.TB, cfg ledger.Config) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

type data struct {
	N int `json:"n"`
}

// entries returns a draft of entries that carry numbers.
func entries(ns ...int) ledger.Draft {
	return ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		var c ledger.Change
		for _, n := range ns {
			c.Entries = append(c.Entries, ledger.Entry{Kind: "test.made", Subject: "s", Actor: "a", Data: data{n}})
		}
		return c, nil
	}}
}

func appendN(t testing.TB, l *ledger.Log, n int) []ledger.Receipt {
	t.Helper()
	var all []ledger.Receipt
	for len(all) < n {
		var ns []int
		for i := range min(n-len(all), 200) {
			ns = append(ns, len(all)+i)
		}
		rs, err := l.Append(t.Context(), entries(ns...))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rs...)
	}
	return all
}

func checkReceipt(t testing.TB, l *ledger.Log, r ledger.Receipt) {
	t.Helper()
	index, cp, err := ledger.CheckProof(r.Proof, r.Entry, l.VerifierKey())
	if err != nil {
		t.Fatalf("receipt of entry %d: %v", r.Index, err)
	}
	if index != r.Index || cp.Origin != origin {
		t.Fatalf("receipt of entry %d proves entry %d of %s", r.Index, index, cp.Origin)
	}
}

func TestAppendProves(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	ctx := t.Context()
	all := appendN(t, l, 1000)
	for i, r := range all {
		if r.Index != uint64(i) {
			t.Fatalf("receipt %d has index %d", i, r.Index)
		}
		if i%17 == 0 || i%256 == 255 {
			checkReceipt(t, l, r)
		}
		leaf, err := ledger.ParseLeaf(r.Entry)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`{"n":%d}`, i); leaf.Kind != "test.made" || leaf.Subject != "s" || leaf.Actor != "a" || string(leaf.Data) != want {
			t.Fatalf("leaf %d is %+v", i, leaf)
		}
	}
	for _, i := range []uint64{0, 1, 255, 256, 511, 777, 999} {
		p, err := l.Prove(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		e, err := l.Entry(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(e, all[i].Entry) {
			t.Fatalf("entry %d is %s", i, e)
		}
		checkReceipt(t, l, ledger.Receipt{Index: i, Entry: e, Proof: p})
	}
	if _, err := l.Prove(ctx, 1000); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("proving an entry beyond the end: %v", err)
	}
}

func TestConcurrentDrafts(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	k := ledger.Key{Kind: "counter", ID: "one"}
	count := func(s ledger.Slot) (ledger.Change, error) {
		v, _ := s.Row(k)
		n, _ := strconv.Atoi(string(v))
		return ledger.Change{
			Entries: []ledger.Entry{{Kind: "test.counted", Data: data{n}}, {Kind: "test.counted", Data: data{n}}},
			Puts:    []ledger.Put{{Key: k, Value: []byte(strconv.Itoa(n + 1))}},
		}, nil
	}
	const clients, each = 32, 8
	var seen sync.Map
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				rs, err := l.Append(context.Background(), ledger.Draft{Keys: []ledger.Key{k}, Build: count})
				if err != nil {
					t.Error(err)
					return
				}
				checkReceipt(t, l, rs[1])
				for _, r := range rs {
					if _, twice := seen.LoadOrStore(r.Index, true); twice {
						t.Errorf("index %d was given twice", r.Index)
					}
				}
			}
		})
	}
	wg.Wait()
	v, _, err := l.Get(t.Context(), k)
	if err != nil || string(v) != strconv.Itoa(clients*each) {
		t.Errorf("%d increments left %s, %v", clients*each, v, err)
	}
	if l.Size() != 2*clients*each {
		t.Errorf("log has size %d", l.Size())
	}
}

func TestDraftErrorIsItsOwn(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	errDone := errors.New("already done")
	var wg sync.WaitGroup
	var ok, done atomic.Int32
	for i := range 100 {
		wg.Go(func() {
			d := entries(i)
			if i%2 == 0 {
				d = ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{}, errDone }}
			}
			switch _, err := l.Append(context.Background(), d); {
			case err == nil:
				ok.Add(1)
			case err == errDone: //nolint:errorlint // it comes back as it is
				done.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 50 || done.Load() != 50 || l.Size() != 50 {
		t.Errorf("%d appended, %d refused, size %d", ok.Load(), done.Load(), l.Size())
	}
}

func TestClockSetBack(t *testing.T) {
	cfg := config(t, storetest.NewMemory())
	var now atomic.Int64
	now.Store(1_800_000_000)
	cfg.Now = func() time.Time { return time.Unix(now.Load(), 0) }
	l := open(t, cfg)
	at := func(rs []ledger.Receipt) int64 {
		leaf, err := ledger.ParseLeaf(rs[0].Entry)
		if err != nil {
			t.Fatal(err)
		}
		return leaf.At
	}
	first := at(appendN(t, l, 1))
	now.Add(-2)
	if got := at(appendN(t, l, 1)); got != first {
		t.Errorf("2 s back: entry at %d, want the time before, %d", got, first)
	}
	now.Add(-1)
	if _, err := l.Append(t.Context(), entries(1)); !errors.Is(err, ledger.ErrClock) {
		t.Errorf("3 s back: %v, want ErrClock", err)
	}
	now.Add(-3600)
	if _, err := l.Append(t.Context(), entries(1)); !errors.Is(err, ledger.ErrClock) {
		t.Errorf("an hour back: %v, want ErrClock", err)
	}
	now.Add(3604)
	if got := at(appendN(t, l, 1)); got != first+1 {
		t.Errorf("after the clock is right again: entry at %d, want %d", got, first+1)
	}
}
