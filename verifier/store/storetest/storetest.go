// Package storetest is the contract of ledger.Store as tests, and the store in
// memory that other tests use.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// Run runs the contract's tests. open returns a new, empty store each time; it
// ends it with the test.
func Run(t *testing.T, open func(t *testing.T) ledger.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, ledger.Store)
	}{
		{"Empty", testEmpty},
		{"CommitIsSeen", testCommitIsSeen},
		{"RollbackLeavesNothing", testRollback},
		{"FailedCommitLeavesNothing", testFailedCommit},
		{"StateOnly", testStateOnly},
		{"RowsInTx", testRowsInTx},
		{"ListPages", testListPages},
		{"RecordsPage", testRecordsPage},
		{"BlobOnce", testBlobOnce},
		{"Sweep", testSweep},
		{"HeadLock", testHeadLock},
		{"ReadersDuringTx", testReadersDuringTx},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t))
		})
	}
}

func testEmpty(t *testing.T, s ledger.Store) {
	ctx := t.Context()
	h, err := s.Head(ctx)
	check(t, err)
	equal(t, h, ledger.Head{})
	rows, err := s.Rows(ctx, []ledger.Key{{Kind: "node", ID: "a"}})
	check(t, err)
	records, err := s.Records(ctx, 0, 10)
	check(t, err)
	if len(rows)+len(records) != 0 {
		t.Errorf("empty store has rows %v, records %v", rows, records)
	}
	if _, err := s.Tile(ctx, 0, 0); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Tile = %v, want ErrNotFound", err)
	}
	if _, err := s.Blob(ctx, ledger.Hash{}); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("Blob = %v, want ErrNotFound", err)
	}
}

func testCommitIsSeen(t *testing.T, s ledger.Store) {
	ctx := t.Context()
	b := fill(start(t, s), 3)
	b.Tiles = []ledger.Tile{{Level: 2, Index: 7, Data: bytes.Repeat([]byte{9}, 8192)}}
	blob := bytes.Repeat([]byte("evidence "), 1000)
	b.Blobs = []ledger.Blob{pack(t, s, blob)}
	b.Puts = []ledger.Put{put("node", "a", "1"), put("node", "b", ""), put("token", "a", "\x00\xff")}
	commit(t, s, b)

	h, err := s.Head(ctx)
	check(t, err)
	equal(t, h, b.Head)
	records, err := s.Records(ctx, 0, 3)
	check(t, err)
	equal(t, records, b.Records)
	tile, err := s.Tile(ctx, 2, 7)
	check(t, err)
	equal(t, tile, b.Tiles[0].Data)
	got, err := s.Blob(ctx, b.Blobs[0].Sum)
	check(t, err)
	equal(t, got, blob)
	equal(t, rows(t, s, "node/a", "node/b", "token/a", "token/b"), b.Puts)

	b = next(b)
	b.Puts = []ledger.Put{put("node", "a", "2"), {Key: ledger.Key{Kind: "node", ID: "b"}}}
	commit(t, s, b)
	equal(t, rows(t, s, "node/a", "node/b"), b.Puts[:1])
}

func testRollback(t *testing.T, s ledger.Store) {
	b := start(t, s)
	tx := begin(t, s)
	tx.Rollback()
	tx.Rollback()
	if err := tx.Commit(fill(b, 1)); err == nil {
		t.Error("a transaction that was rolled back commits")
	}
	if h, err := s.Head(t.Context()); err != nil || h.Size != 0 {
		t.Errorf("head = %+v, %v after a rollback", h, err)
	}
	commit(t, s, fill(b, 1)) // the lock is free
}

// testFailedCommit writes a tile that is there already, after other things.
func testFailedCommit(t *testing.T, s ledger.Store) {
	b := fill(start(t, s), 1)
	b.Tiles = []ledger.Tile{{Data: make([]byte, 8192)}}
	commit(t, s, b)
	bad := next(b)
	bad.Tiles = b.Tiles
	bad.Puts = []ledger.Put{put("node", "a", "1")}
	tx := begin(t, s)
	err := tx.Commit(bad)
	if err == nil || errors.Is(err, ledger.ErrUnknown) {
		t.Errorf("Commit of a tile that exists = %v, want an error with a known outcome", err)
	}
	tx.Rollback()
	h, err := s.Head(t.Context())
	check(t, err)
	equal(t, h, b.Head)
	if got := rows(t, s, "node/a"); len(got) != 0 {
		t.Errorf("a failed commit left %v", got)
	}
	commit(t, s, next(b))
}

func testStateOnly(t *testing.T, s ledger.Store) {
	b := start(t, s)
	b.Puts = []ledger.Put{put("request", "r", "{}")}
	commit(t, s, b)
	equal(t, rows(t, s, "request/r"), b.Puts)
	h, err := s.Head(t.Context())
	check(t, err)
	equal(t, h, b.Head)
}

func testRowsInTx(t *testing.T, s ledger.Store) {
	b := start(t, s)
	b.Puts = []ledger.Put{put("node", "a", "1"), put("node", "b", "2")}
	commit(t, s, b)
	tx := begin(t, s)
	defer tx.Rollback()
	equal(t, tx.Head(), b.Head)
	got, err := tx.Rows([]ledger.Key{{Kind: "node", ID: "b"}, {Kind: "node", ID: "c"}, {Kind: "node", ID: "a"}})
	check(t, err)
	slices.SortFunc(got, func(a, b ledger.Put) int { return bytes.Compare(a.Value, b.Value) })
	equal(t, got, b.Puts)
}

func testListPages(t *testing.T, s ledger.Store) {
	b := start(t, s)
	for _, id := range []string{"B", "a", "a/1", "b", "é"} {
		b.Puts = append(b.Puts, put("node", id, id))
	}
	b.Puts = append(b.Puts, put("nodes", "x", ""), put("nod", "x", ""))
	commit(t, s, b)
	var got []string
	for after := ""; ; {
		page, err := s.List(t.Context(), "node", after, 2)
		check(t, err)
		if len(page) == 0 {
			break
		}
		for _, p := range page {
			got = append(got, string(p.Value))
		}
		after = page[len(page)-1].Key.ID
	}
	equal(t, got, []string{"B", "a", "a/1", "b", "é"})
}

func testRecordsPage(t *testing.T, s ledger.Store) {
	b := fill(start(t, s), 3000)
	commit(t, s, b)
	var got []ledger.Record
	for from := uint64(5); from < 2999; {
		page, err := s.Records(t.Context(), from, 2999)
		check(t, err)
		if len(page) < 256 && from+uint64(len(page)) != 2999 {
			t.Fatalf("a page from %d has %d records, want at least 256", from, len(page))
		}
		got = append(got, page...)
		from += uint64(len(page))
	}
	equal(t, got, b.Records[5:2999])
}

func testBlobOnce(t *testing.T, s ledger.Store) {
	b := start(t, s)
	for _, data := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte{0}, 1<<20)} {
		b.Blobs = []ledger.Blob{pack(t, s, data)}
		commit(t, s, b)
		commit(t, s, b)
		got, err := s.Blob(t.Context(), b.Blobs[0].Sum)
		check(t, err)
		if !bytes.Equal(got, data) {
			t.Errorf("blob of %d bytes is read as %d", len(data), len(got))
		}
	}
}

// testHeadLock counts in a row, from many goroutines: an update would be lost
// if two of them held the lock at once.
func testHeadLock(t *testing.T, s ledger.Store) {
	b := start(t, s)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 5 {
				k := ledger.Key{Kind: "n", ID: "n"}
				tx, err := s.Begin(t.Context(), []ledger.Key{k, {Kind: "n", ID: "other"}}[:i%3]...)
				if err != nil {
					t.Error(err)
					return
				}
				old, err := tx.Rows([]ledger.Key{k})
				if err != nil {
					t.Error(err)
				}
				var value []byte
				if len(old) == 1 {
					value = old[0].Value
				}
				bb := b
				bb.Puts = []ledger.Put{put("n", "n", string(value)+"|")}
				if err := tx.Commit(bb); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := rows(t, s, "n/n"); len(got) != 1 || len(got[0].Value) != 40 {
		t.Errorf("after 40 increments the row is %s", got)
	}
	tx := begin(t, s)
	defer tx.Rollback()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Begin(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Begin while the lock is held = %v, want the deadline", err)
	}
}

func testReadersDuringTx(t *testing.T, s ledger.Store) {
	b := fill(start(t, s), 1)
	b.Puts = []ledger.Put{put("node", "a", "1")}
	commit(t, s, b)
	tx := begin(t, s)
	if _, err := tx.Rows([]ledger.Key{{Kind: "node", ID: "a"}}); err != nil {
		t.Fatal(err)
	}
	equal(t, rows(t, s, "node/a"), b.Puts)
	tx.Rollback()
}

// start writes the head of an empty log and returns a batch that changes
// nothing.
func start(t *testing.T, s ledger.Store) ledger.Batch {
	t.Helper()
	b := ledger.Batch{Head: ledger.Head{Root: sha256.Sum256(nil), Note: []byte("note 0")}}
	commit(t, s, b)
	return b
}

// fill returns a batch that adds n records to those of b.
func fill(b ledger.Batch, n int) ledger.Batch {
	size := b.Head.Size
	out := ledger.Batch{Head: ledger.Head{
		Size: size + uint64(n),
		Root: sha256.Sum256(fmt.Append(nil, "root", size, n)),
		At:   b.Head.At + 1,
		Note: fmt.Appendf(nil, "note %d", size+uint64(n)),
	}}
	for i := range uint64(n) {
		out.Records = append(out.Records, ledger.Record{
			Index: size + i, At: out.Head.At, Kind: "test.kind", Subject: "s",
			Hash: sha256.Sum256(fmt.Append(nil, size+i)), Data: fmt.Appendf(nil, `{"n":%d}`, size+i),
		})
	}
	return out
}

func next(b ledger.Batch) ledger.Batch { return fill(b, 1) }

func begin(t *testing.T, s ledger.Store) ledger.Tx {
	t.Helper()
	tx, err := s.Begin(t.Context())
	check(t, err)
	return tx
}

func commit(t *testing.T, s ledger.Store, b ledger.Batch) {
	t.Helper()
	check(t, begin(t, s).Commit(b))
}

func pack(t *testing.T, s ledger.Store, data []byte) ledger.Blob {
	t.Helper()
	b, err := s.Pack(data)
	check(t, err)
	if b.Sum != sha256.Sum256(data) {
		t.Errorf("Pack says that %d bytes have the hash %x", len(data), b.Sum)
	}
	return b
}

func put(kind, id, value string) ledger.Put {
	return ledger.Put{Key: ledger.Key{Kind: kind, ID: id}, Value: []byte(value)}
}

// rows reads rows named "kind/id", sorted as asked for.
func rows(t *testing.T, s ledger.Store, names ...string) []ledger.Put {
	t.Helper()
	var keys []ledger.Key
	for _, n := range names {
		kind, id, _ := bytes.Cut([]byte(n), []byte("/"))
		keys = append(keys, ledger.Key{Kind: string(kind), ID: string(id)})
	}
	got, err := s.Rows(t.Context(), keys)
	check(t, err)
	slices.SortFunc(got, func(a, b ledger.Put) int { return slices.Index(keys, a.Key) - slices.Index(keys, b.Key) })
	return got
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t *testing.T, got, want T) {
	t.Helper()
	if reflect.DeepEqual(got, want) {
		return // cmp is slow on thousands of records
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mismatch (-want +got):\n%s", diff)
	}
}

// testSweep gives up two blobs, one of which comes back in the same commit, and
// the bytes of entries, whose hashes stay.
func testSweep(t *testing.T, s ledger.Store) {
	b := fill(start(t, s), 3)
	b.Records[1].Kind = "test.kept"
	large := make([]byte, 64<<10) // more than what is sent without asking
	for i := range large {
		large[i] = byte(i * i >> 3)
	}
	b.Blobs = []ledger.Blob{pack(t, s, []byte("old")), pack(t, s, large), pack(t, s, []byte("young"))}
	commit(t, s, b)
	swept := next(b)
	swept.Blobs = b.Blobs[1:2]
	swept.Sweeps = []ledger.Sweep{{Blobs: []ledger.Hash{b.Blobs[0].Sum, b.Blobs[1].Sum, sha256.Sum256([]byte("never stored"))}}, {From: 0, To: 2, Keep: []string{"test.kept"}}}
	commit(t, s, swept)

	if _, err := s.Blob(t.Context(), b.Blobs[0].Sum); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("a blob that was given up = %v, want ErrNotFound", err)
	}
	for _, bl := range b.Blobs[1:] {
		if _, err := s.Blob(t.Context(), bl.Sum); err != nil {
			t.Errorf("a blob that is kept: %v", err)
		}
	}
	want := slices.Concat(b.Records, swept.Records)
	want[0].Data, want[0].Subject = nil, ""
	got, err := s.Records(t.Context(), 0, 4)
	check(t, err)
	for i := range got {
		if len(got[i].Data) == 0 {
			got[i].Data = nil
		}
	}
	equal(t, got, want)
	commit(t, s, next(swept)) // and all goes on
}
