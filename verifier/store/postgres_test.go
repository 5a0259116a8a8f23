package store_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// peers are the log keys of two verifiers of one domain.
func peers(t testing.TB) (keys [2]ed25519.PrivateKey, vkeys []string) {
	t.Helper()
	for i := range keys {
		keys[i] = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(10 + i)}, ed25519.SeedSize))
		v, err := ledger.VerifierKey(origin, keys[i].Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		vkeys = append(vkeys, v)
	}
	return keys, vkeys
}

// verifierOn opens a log of its own on a database, as verifier n of two.
func verifierOn(t testing.TB, url string, n int) (*store.Postgres, *ledger.Log) {
	t.Helper()
	s := openPostgres(t, url)
	keys, vkeys := peers(t)
	l, err := ledger.Open(t.Context(), ledger.Config{
		Store: s, Origin: origin, Key: keys[n], Peers: vkeys, GuardFile: filepath.Join(t.TempDir(), "guard"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return s, l
}

// errDone is what a draft says that finds its own earlier success.
type errDone struct{ index string }

func (e errDone) Error() string { return "done before, as entry " + e.index }

// request returns a draft that is made once, however often it is repeated.
func request(id string) ledger.Draft {
	k := ledger.Key{Kind: "request", ID: id}
	return ledger.Draft{Keys: []ledger.Key{k}, Build: func(s ledger.Slot) (ledger.Change, error) {
		if v, ok := s.Row(k); ok {
			return ledger.Change{}, errDone{string(v)}
		}
		return ledger.Change{
			Entries: []ledger.Entry{{Kind: "test.requested", Subject: id}},
			Puts:    []ledger.Put{{Key: k, Value: strconv.AppendUint(nil, s.Index, 10)}},
		}, nil
	}}
}

// insist repeats a request until its outcome is known, and returns its entry's
// index, and the receipt if it came.
func insist(ctx context.Context, l *ledger.Log, id string) (string, *ledger.Receipt, error) {
	for {
		rs, err := l.Append(ctx, request(id))
		var done errDone
		switch {
		case err == nil:
			return strconv.FormatUint(rs[0].Index, 10), &rs[0], nil
		case errors.As(err, &done):
			return done.index, nil, nil
		case ctx.Err() != nil || errors.Is(err, ledger.ErrRolledBack):
			return "", nil, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// load makes requests from many goroutines until stop is closed. It returns what
// each was told once its outcome was known.
func load(t *testing.T, stop <-chan struct{}, logs ...*ledger.Log) (indexes map[string]string, receipts []ledger.Receipt) {
	t.Helper()
	indexes = map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d/%d", c, i)
				index, r, err := insist(t.Context(), logs[(c+i)%len(logs)], id)
				if err != nil {
					t.Errorf("request %s: %v", id, err)
					return
				}
				mu.Lock()
				indexes[id] = index
				if r != nil {
					receipts = append(receipts, *r)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return indexes, receipts
}

// wantOnce checks that each request is in the log once, where it was told, that
// every receipt still proves, and that nothing else is wrong.
func wantOnce(t *testing.T, s *store.Postgres, l *ledger.Log, indexes map[string]string, receipts []ledger.Receipt) {
	t.Helper()
	_, vkeys := peers(t)
	report, err := ledger.Fsck(t.Context(), s, "", vkeys...)
	if err != nil || len(report.Problems) > 0 {
		t.Fatalf("Fsck = %+v, %v", report, err)
	}
	if problems, err := s.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Fatalf("Check = %v, %v", problems, err)
	}
	found := map[string]string{}
	for from := uint64(0); from < l.Size(); {
		leaves, err := l.Entries(t.Context(), from, l.Size())
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range leaves {
			leaf, err := ledger.ParseLeaf(b)
			if err != nil {
				t.Fatal(err)
			}
			index := strconv.FormatUint(from+uint64(i), 10)
			if first, twice := found[leaf.Subject]; twice {
				t.Errorf("request %s is in the log as entries %s and %s", leaf.Subject, first, index)
			}
			found[leaf.Subject] = index
		}
		from += uint64(len(leaves))
	}
	for id, index := range indexes {
		if found[id] != index {
			t.Errorf("request %s was told it is entry %s, it is entry %s", id, index, found[id])
		}
	}
	for i, r := range receipts {
		e, err := l.Entry(t.Context(), r.Index)
		if err != nil || !bytes.Equal(e, r.Entry) {
			t.Fatalf("entry %d was acknowledged as %s, it is %s (%v)", r.Index, r.Entry, e, err)
		}
		if i%20 > 0 {
			continue // signatures are slow under the race detector
		}
		if _, _, err := ledger.CheckProof(r.Proof, r.Entry, vkeys...); err != nil {
			t.Fatal(err)
		}
		p, err := ledger.ParseProof(r.Proof)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Confront(t.Context(), p.Note); err != nil {
			t.Fatalf("a checkpoint that was given out: %v", err)
		}
	}
	t.Logf("%d requests, %d receipts, %d entries", len(indexes), len(receipts), l.Size())
}

// TestTwoVerifiers writes one history through two verifiers at once.
func TestTwoVerifiers(t *testing.T) {
	t.Parallel()
	url := storetest.Postgres(t)
	s, a := verifierOn(t, url, 0)
	_, b := verifierOn(t, url, 1)
	stop := make(chan struct{})
	time.AfterFunc(700*time.Millisecond, func() { close(stop) })
	indexes, receipts := load(t, stop, a, b)
	if len(receipts) != len(indexes) {
		t.Errorf("%d requests have %d receipts", len(indexes), len(receipts))
	}
	for _, l := range []*ledger.Log{a, b} {
		if _, _, err := insist(t.Context(), l, "last of "+l.VerifierKey()); err != nil {
			t.Fatal(err)
		}
	}
	wantOnce(t, s, b, indexes, receipts)
}

// TestFollows sees another verifier's entry without appending anything.
func TestFollows(t *testing.T) {
	t.Parallel()
	url := storetest.Postgres(t)
	_, a := verifierOn(t, url, 0)
	_, b := verifierOn(t, url, 1)
	for n := uint64(1); n < 4; n++ {
		if _, err := a.Append(t.Context(), request(fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
		for {
			changed := b.Changed()
			if b.Size() == n {
				break
			}
			select {
			case <-changed:
			case <-time.After(20 * time.Second):
				t.Fatalf("the other verifier is at size %d, want %d", b.Size(), n)
			}
		}
	}
}

// TestForeignVerifier appends with a key that is not among the log's.
func TestForeignVerifier(t *testing.T) {
	t.Parallel()
	url := storetest.Postgres(t)
	verifierOn(t, url, 0)
	foreign := ledger.Config{Store: openPostgres(t, url), Origin: origin, Key: logKey(), GuardFile: filepath.Join(t.TempDir(), "guard")}
	if _, err := ledger.Open(t.Context(), foreign); !errors.Is(err, ledger.ErrKey) {
		t.Errorf("Open = %v, want ErrKey", err)
	}
}

func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	url := storetest.Postgres(t)
	if _, err := store.ReadPostgres(t.Context(), url); err == nil {
		t.Error("a database without a schema opens for reading")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := store.OpenPostgres(t.Context(), url)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s, err := store.ReadPostgres(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Begin(t.Context()); err == nil {
		t.Error("a database open for reading begins a transaction")
	}
}

// TestHistoryCannotBeChanged tries as the database's owner.
func TestHistoryCannotBeChanged(t *testing.T) {
	t.Parallel()
	c := storetest.Shared(t)
	url := c.URL(t)
	schema := url[strings.LastIndex(url, "=")+1:]
	s, l := verifierOn(t, url, 0)
	if _, err := l.Append(t.Context(), request("only")); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"UPDATE log_entries SET data = ''", "DELETE FROM log_entries", "TRUNCATE log_entries",
		"UPDATE log_tiles SET data = ''", "DELETE FROM log_tiles", "TRUNCATE log_tiles",
		"UPDATE log_head SET size = size - 1", "UPDATE log_head SET root = ''", "DELETE FROM log_head", "TRUNCATE log_head",
	} {
		out := c.Try("SET search_path = " + schema + "; " + sql)
		if !strings.Contains(out, "never changed or removed") && !strings.Contains(out, "only grows") {
			t.Errorf("%s: %s", sql, out)
		}
	}
	wantOnce(t, s, l, nil, nil)
	c.Exec(t, "INSERT INTO "+schema+".schema_version VALUES (99)")
	if _, err := store.OpenPostgres(t.Context(), url); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("opening a newer schema = %v", err)
	}
}
