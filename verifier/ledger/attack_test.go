package ledger_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

func TestProofForAnotherEntry(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	rs := appendN(t, l, 300)
	a, b := rs[10], rs[11]
	for name, test := range map[string]struct {
		proof string
		entry []byte
		vkeys []string
	}{
		"another entry": {a.Proof, b.Entry, []string{l.VerifierKey()}},
		"one byte more": {a.Proof, append([]byte(" "), a.Entry...), []string{l.VerifierKey()}},
		"another index": {strings.Replace(a.Proof, "index 10\n", "index 11\n", 1), a.Entry, []string{l.VerifierKey()}},
		"index beyond":  {strings.Replace(a.Proof, "index 10\n", "index 300\n", 1), a.Entry, []string{l.VerifierKey()}},
		"another size":  {strings.Replace(a.Proof, "\n200\n", "\n201\n", 1), a.Entry, []string{l.VerifierKey()}},
		"no key":        {a.Proof, a.Entry, nil},
		"another key":   {a.Proof, a.Entry, []string{vkey(t, origin, 2)}},
		"other origin":  {a.Proof, a.Entry, []string{vkey(t, "other.invalid/log", 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := ledger.CheckProof(test.proof, test.entry, test.vkeys...); err == nil {
				t.Error("proof is accepted")
			}
		})
	}
}

func vkey(t testing.TB, origin string, n byte) string {
	t.Helper()
	k, err := ledger.VerifierKey(origin, key(n).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// twin returns two logs with one key and origin that agree up to size common
// and then differ, each of size n.
func twin(t *testing.T, common, n int) (a, b *ledger.Log, bConfig ledger.Config) {
	t.Helper()
	at := func() time.Time { return time.Unix(1_800_000_000, 0) }
	cfgA, cfgB := config(t, storetest.NewMemory()), config(t, storetest.NewMemory())
	cfgA.Now, cfgB.Now = at, at
	a, b = open(t, cfgA), open(t, cfgB)
	for i := range n {
		for _, l := range []*ledger.Log{a, b} {
			v := i
			if l == b && i >= common {
				v = -i
			}
			if _, err := l.Append(t.Context(), entries(v)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return a, b, cfgB
}

func checkpoint(t *testing.T, l *ledger.Log) ledger.Checkpoint {
	t.Helper()
	c, err := ledger.OpenCheckpoint(l.Checkpoint(), l.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSplitView shows one client one history and another client another one.
func TestSplitView(t *testing.T) {
	a, b, _ := twin(t, 5, 9)
	older := checkpoint(t, a)
	if err := ledger.CheckConsistency(nil, older, checkpoint(t, b)); err == nil {
		t.Error("two roots of one size are consistent")
	}
	appendN(t, b, 4)
	newer := checkpoint(t, b)
	proof, err := b.Consistency(t.Context(), older.Size, newer.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.CheckConsistency(proof, older, newer); err == nil {
		t.Error("a forked log proves that it is consistent")
	}
	if err := ledger.CheckConsistency(nil, newer, older); err == nil {
		t.Error("a smaller log extends a larger one")
	}
	older.Origin = "other.invalid/log"
	if err := ledger.CheckConsistency(nil, older, older); err != nil {
		t.Error(err)
	}
	if err := ledger.CheckConsistency(proof, older, newer); err == nil {
		t.Error("two origins are one log")
	}
}

// TestForkedCheckpoint restores store and guard file together; a client kept
// what it was given.
func TestForkedCheckpoint(t *testing.T) {
	for name, common := range map[string]int{"forked": 5, "rolled back": 9} {
		t.Run(name, func(t *testing.T) {
			a, b, cfg := twin(t, common, 9)
			if common == 9 {
				appendN(t, a, 1)
			}
			kept := a.Checkpoint()
			if err := b.Confront(t.Context(), kept); !errors.Is(err, ledger.ErrRolledBack) {
				t.Fatalf("Confront = %v, want ErrRolledBack", err)
			}
			if _, err := b.Append(t.Context(), entries(1)); !errors.Is(err, ledger.ErrRolledBack) {
				t.Errorf("Append afterwards = %v, want ErrRolledBack", err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := ledger.Open(t.Context(), cfg); !errors.Is(err, ledger.ErrRolledBack) {
				t.Errorf("Open after a restart = %v, want ErrRolledBack", err)
			}
		})
	}
}

// TestForgedCheckpointFreezesNothing lets anybody claim a larger log.
func TestForgedCheckpointFreezesNothing(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	early := l.Checkpoint()
	appendN(t, l, 20)
	cfg := config(t, storetest.NewMemory())
	cfg.Key = key(2)
	other := open(t, cfg)
	appendN(t, other, 30)
	for _, forged := range [][]byte{nil, []byte("garbage"), other.Checkpoint(),
		[]byte(strings.Replace(string(l.Checkpoint()), "\n20\n", "\n30\n", 1))} {
		if err := l.Confront(t.Context(), forged); !errors.Is(err, ledger.ErrKey) {
			t.Errorf("Confront(%.40q) = %v, want ErrKey", forged, err)
		}
	}
	for _, own := range [][]byte{early, l.Checkpoint()} {
		if err := l.Confront(t.Context(), own); err != nil {
			t.Errorf("Confront with an own checkpoint: %v", err)
		}
	}
	appendN(t, l, 1)
}

func TestWrongLogKey(t *testing.T) {
	cfg := config(t, storetest.NewMemory())
	l := open(t, cfg)
	appendN(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*ledger.Config){
		"key":    func(c *ledger.Config) { c.Key = key(2) },
		"origin": func(c *ledger.Config) { c.Origin = "other.invalid/log" },
	} {
		bad := cfg
		change(&bad)
		if _, err := ledger.Open(t.Context(), bad); !errors.Is(err, ledger.ErrKey) {
			t.Errorf("another %s: Open = %v, want ErrKey", name, err)
		}
	}
	bad := cfg
	bad.Key = nil
	if _, err := ledger.Open(t.Context(), bad); err == nil {
		t.Error("a log opens without a key")
	}
	bad = cfg
	bad.GuardFile = ""
	if _, err := ledger.Open(t.Context(), bad); err == nil {
		t.Error("a log opens without a guard file")
	}
}

func TestLostGuardFile(t *testing.T) {
	cfg := config(t, storetest.NewMemory())
	l := open(t, cfg)
	appendN(t, l, 3)
	if err := errors.Join(l.Close(), os.Remove(cfg.GuardFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(t.Context(), cfg); !errors.Is(err, ledger.ErrNoGuard) {
		t.Fatalf("Open = %v, want ErrNoGuard", err)
	}
	cfg.Adopt = true
	l = open(t, cfg)
	appendN(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// Adopt is for a missing file, not for one that contradicts.
	cfg.Store = storetest.NewMemory()
	if _, err := ledger.Open(t.Context(), cfg); !errors.Is(err, ledger.ErrRolledBack) {
		t.Errorf("Open of an empty store beside a guard file = %v, want ErrRolledBack", err)
	}
}

// TestDamagedGuardFile: a torn write leaves one slot, which counts; a file that
// says nothing any more is no reason to trust the store.
func TestDamagedGuardFile(t *testing.T) {
	cfg := config(t, storetest.NewMemory())
	l := open(t, cfg)
	appendN(t, l, 1)
	appendN(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(cfg.GuardFile)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(offsets ...int) {
		b := append([]byte{}, whole...)
		for _, o := range offsets {
			b[o] ^= 1
		}
		if err := os.WriteFile(cfg.GuardFile, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, slot := range []int{0, 4096} {
		spoil(slot + 30)
		l = open(t, cfg)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	spoil(30, 4096+30)
	if _, err := ledger.Open(t.Context(), cfg); !errors.Is(err, ledger.ErrKey) {
		t.Errorf("both slots spoilt: %v, want ErrKey", err)
	}
	if err := os.WriteFile(cfg.GuardFile, whole[:5000], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Open(t.Context(), cfg); !errors.Is(err, ledger.ErrCorrupt) {
		t.Errorf("half a file: %v, want ErrCorrupt", err)
	}
}

func TestSecondVerifierOnOneGuardFile(t *testing.T) {
	cfg := config(t, storetest.NewMemory())
	open(t, cfg)
	if _, err := ledger.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Open = %v, want a refusal", err)
	}
}

// TestTwoVerifiersOnOneStore appends through two logs in turn: each sees what
// the other has appended, and neither forks.
func TestTwoVerifiersOnOneStore(t *testing.T) {
	s := storetest.NewMemory()
	a, b := open(t, config(t, s)), open(t, config(t, s))
	var wg sync.WaitGroup
	for _, l := range []*ledger.Log{a, b} {
		wg.Go(func() {
			for i := range 40 {
				rs, err := l.Append(context.Background(), entries(i, i, i, i, i))
				if err != nil {
					t.Error(err)
					return
				}
				checkReceipt(t, l, rs[4])
			}
		})
	}
	wg.Wait()
	appendN(t, a, 1)
	if err := a.Confront(t.Context(), b.Checkpoint()); err != nil {
		t.Error(err)
	}
	if err := b.Confront(t.Context(), a.Checkpoint()); err != nil {
		t.Errorf("the other verifier's newer checkpoint: %v", err)
	}
	report, err := ledger.Fsck(t.Context(), s, "", a.VerifierKey())
	if err != nil || len(report.Problems) > 0 || report.Entries != 401 {
		t.Errorf("Fsck = %+v, %v", report, err)
	}
}

// TestStoreGoesBackUnderneath swaps the store's content for an older one while
// the log is in use.
func TestStoreGoesBackUnderneath(t *testing.T) {
	older, newer := storetest.NewMemory(), storetest.NewMemory()
	shared := &switching{Store: newer}
	l := open(t, config(t, shared))
	appendN(t, l, 5)
	o := open(t, config(t, older))
	appendN(t, o, 4)
	shared.Store = older
	for range 2 {
		if _, err := l.Append(t.Context(), entries(1)); !errors.Is(err, ledger.ErrRolledBack) {
			t.Fatalf("Append = %v, want ErrRolledBack", err)
		}
	}
	shared.Store = newer
	if _, err := l.Append(t.Context(), entries(1)); !errors.Is(err, ledger.ErrRolledBack) {
		t.Fatalf("Append after it came back = %v, want ErrRolledBack still", err)
	}
}

type switching struct{ ledger.Store }

// TestUnknownOutcome fails a commit that did happen and one that did not: the
// log finds out, and a repeated draft does too.
func TestUnknownOutcome(t *testing.T) {
	broken := errors.New("connection lost")
	for _, applied := range []bool{true, false} {
		t.Run(fmt.Sprintf("applied=%v", applied), func(t *testing.T) {
			s := storetest.NewMemory()
			l := open(t, config(t, s))
			appendN(t, l, 255)
			k := ledger.Key{Kind: "request", ID: "r1"}
			errDone := errors.New("already done")
			once := ledger.Draft{Keys: []ledger.Key{k}, Build: func(s ledger.Slot) (ledger.Change, error) {
				if _, ok := s.Row(k); ok {
					return ledger.Change{}, errDone
				}
				c, err := entries(1, 2).Build(s)
				c.Puts = []ledger.Put{{Key: k, Value: []byte("{}")}}
				return c, err
			}}
			s.OnCommit = func(ledger.Batch) (bool, error) {
				s.OnCommit = nil
				return applied, fmt.Errorf("%w: %w", ledger.ErrUnknown, broken)
			}
			_, err := l.Append(t.Context(), once)
			if !errors.Is(err, ledger.ErrUnknown) || !errors.Is(err, broken) {
				t.Fatalf("Append = %v, want ErrUnknown", err)
			}
			rs, err := l.Append(t.Context(), once)
			if applied && err != errDone {
				t.Errorf("the repeated draft = %v, want that it is done already", err)
			}
			if !applied {
				if err != nil {
					t.Fatal(err)
				}
				checkReceipt(t, l, rs[1])
			}
			for _, r := range appendN(t, l, 10) {
				checkReceipt(t, l, r)
			}
			if want := uint64(255 + 2 + 10); l.Size() != want {
				t.Errorf("log has size %d, want %d", l.Size(), want)
			}
		})
	}
}

// TestFailedCommit fails a commit that certainly did not happen.
func TestFailedCommit(t *testing.T) {
	s := storetest.NewMemory()
	l := open(t, config(t, s))
	full := errors.New("disk full")
	s.OnCommit = func(ledger.Batch) (bool, error) { return false, full }
	for range 3 {
		_, err := l.Append(t.Context(), entries(1))
		if !errors.Is(err, full) || errors.Is(err, ledger.ErrUnknown) {
			t.Fatalf("Append = %v, want the failure, and no doubt", err)
		}
	}
	s.OnCommit = nil
	for _, r := range appendN(t, l, 600) {
		checkReceipt(t, l, r)
	}
}

// TestCancelledCaller gives up while its draft waits (it is dropped) and while
// it commits (it is not).
func TestCancelledCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.NewMemory()
		cfg := config(t, s)
		l, err := ledger.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s.OnCommit = func(ledger.Batch) (bool, error) {
			time.Sleep(time.Minute)
			return true, nil
		}
		var wg sync.WaitGroup
		for i := range 2 {
			time.Sleep(time.Second)
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := l.Append(ctx, entries(i))
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ledger.ErrUnknown) != (i == 0) {
					t.Errorf("draft %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Hour)
		if l.Size() != 1 {
			t.Errorf("log has size %d, want the one entry that was being committed", l.Size())
		}
	})
}

// TestRevocationOvertakes queues an urgent draft last.
func TestRevocationOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.NewMemory()
		l, err := ledger.Open(t.Context(), config(t, s))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s.OnCommit = func(ledger.Batch) (bool, error) {
			time.Sleep(time.Second)
			return true, nil
		}
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				if _, err := l.Append(t.Context(), entries(i)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		urgent := entries(-1)
		urgent.Urgent = true
		start := time.Now()
		if _, err := l.Append(t.Context(), urgent); err != nil {
			t.Error(err)
		}
		if wait := time.Since(start); wait > 2*time.Second {
			t.Errorf("an urgent draft waited for %s: more than the commit under way and its own", wait)
		}
		wg.Wait()
	})
}

func TestClose(t *testing.T) {
	cfg := config(t, storetest.NewMemory())
	l := open(t, cfg)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := l.Append(context.Background(), entries(i)); err != nil && !errors.Is(err, ledger.ErrClosed) {
				t.Error(err)
			}
		})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if _, err := l.Append(t.Context(), entries(1)); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("Append after Close = %v", err)
	}
	open(t, cfg)
}

func TestUndeclaredRow(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	_, err := l.Append(t.Context(), ledger.Draft{Build: func(s ledger.Slot) (ledger.Change, error) {
		if _, ok := s.Row(ledger.Key{Kind: "node", ID: "x"}); !ok {
			return entries(1).Build(s)
		}
		return ledger.Change{}, nil
	}})
	if err == nil || !strings.Contains(err.Error(), "node/x") {
		t.Errorf("a draft that read a row it has not declared: %v", err)
	}
	if l.Size() != 0 {
		t.Error("it was appended")
	}
}

func TestStateOnly(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	k := ledger.Key{Kind: "join-token", ID: "x"}
	before := l.Checkpoint()
	rs, err := l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Puts: []ledger.Put{{Key: k, Value: []byte("{}")}}}, nil
	}})
	if err != nil || len(rs) != 0 {
		t.Fatalf("Append = %v, %v", rs, err)
	}
	if v, ok, err := l.Get(t.Context(), k); err != nil || !ok || string(v) != "{}" {
		t.Errorf("row is %s, %v, %v", v, ok, err)
	}
	if string(l.Checkpoint()) != string(before) {
		t.Error("the checkpoint changed with the state alone")
	}
}

func TestChangedWakesAll(t *testing.T) {
	l := open(t, config(t, storetest.NewMemory()))
	a, b := l.Changed(), l.Changed()
	appendN(t, l, 1)
	<-a
	<-b
	select {
	case <-l.Changed():
		t.Error("a channel taken after the change is closed already")
	default:
	}
}

func TestGuardFileIsPrivate(t *testing.T) {
	cfg := config(t, storetest.NewMemory())
	open(t, cfg)
	info, err := os.Stat(cfg.GuardFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("guard file has mode %v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(cfg.GuardFile), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("files left beside the guard: %v, %v", left, err)
	}
}

func TestClockStep(t *testing.T) {
	boot := time.Unix(1_800_000_000, 0)
	for name, test := range map[string]struct {
		steps []time.Duration
		ok    bool
	}{
		"steady":           {[]time.Duration{0, 0, 0}, true},
		"leap second":      {[]time.Duration{0, -time.Second}, true},
		"an hour back":     {[]time.Duration{0, -time.Hour}, false},
		"an hour on":       {[]time.Duration{0, time.Hour}, false},
		"and back again":   {[]time.Duration{0, time.Hour, 0}, false},
		"in little pieces": {[]time.Duration{0, 1500 * time.Millisecond, 3 * time.Second}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var g ledger.ClockGuard
			var err error
			for i, step := range test.steps {
				up := time.Duration(i) * time.Minute
				err = g.Check(boot.Add(up+step), up)
			}
			if (err == nil) != test.ok || (err != nil && !errors.Is(err, ledger.ErrClock)) {
				t.Errorf("Check = %v", err)
			}
			now := boot.Add(24 * time.Hour)
			g.Confirm(now, time.Hour)
			if err := g.Check(now.Add(time.Minute), time.Hour+time.Minute); err != nil {
				t.Errorf("after it was confirmed: %v", err)
			}
		})
	}
}
