package store_test

import (
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// large is the size of the pruned log that proofs are made from.
const large = 10_000_000

// largeLeaf is the leaf hash of an entry of that log. Any 32 bytes can be one,
// so these are what SQL writes fastest.
func largeLeaf(i uint64) (h ledger.Hash) {
	copy(h[:], fmt.Sprintf("%032d", i))
	return h
}

var largeDir string // removed by TestMain

// largeLog makes, once, a database whose log has leaf hashes and tiles, but not
// the entries themselves: a log that was pruned.
func largeLog(b *testing.B) string {
	path := filepath.Join(largeDir, "writ.db")
	if largeDir != "" {
		return path
	}
	var err error
	if largeDir, err = os.MkdirTemp("", "writ-large-"); err != nil {
		b.Fatal(err)
	}
	path = filepath.Join(largeDir, "writ.db")
	s, err := store.OpenSQLite(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", path+"?_pragma=synchronous(off)&_pragma=cache_size(-200000)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	exec := func(query string, args ...any) {
		if _, err := db.ExecContext(b.Context(), query, args...); err != nil {
			b.Fatal(err)
		}
	}
	exec("BEGIN")
	exec(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)
		INSERT INTO log_entries SELECT i, 1, 'test.large', '', CAST(format('%032d', i) AS BLOB), x'' FROM n`, large)
	t := &tree{tile: func(level int, index int64, data []byte) {
		exec(`INSERT INTO log_tiles VALUES (?, ?, ?)`, level, index, data)
	}}
	for i := range uint64(large) {
		t.push(0, largeLeaf(i))
	}
	root := t.root()
	exec(`INSERT INTO log_head VALUES (1, ?, ?, 1, ?)`, large, root[:], sign(b, ledger.Checkpoint{Origin: origin, Size: large, Root: root}))
	exec("COMMIT")
	exec("PRAGMA wal_checkpoint(truncate)")
	return path
}

// tree computes tiles and root of a growing tree in another way than package
// ledger: from rows of at most 256 hashes.
type tree struct {
	rows [8][]ledger.Hash // the unfinished tile of each level
	full [8]int64         // tiles finished
	tile func(level int, index int64, data []byte)
}

func (t *tree) push(level int, h ledger.Hash) {
	if t.rows[level] = append(t.rows[level], h); len(t.rows[level]) < 256 {
		return
	}
	var data []byte
	for _, h := range t.rows[level] {
		data = append(data, h[:]...)
	}
	t.tile(level, t.full[level], data)
	t.full[level]++
	root := fold(t.rows[level])
	t.rows[level] = t.rows[level][:0]
	t.push(level+1, root)
}

// fold is the root over hashes of complete subtrees of one size: RFC 6962,
// section 2.1.
func fold(hs []ledger.Hash) ledger.Hash {
	if len(hs) == 1 {
		return hs[0]
	}
	k := 1
	for 2*k < len(hs) {
		k *= 2
	}
	return tlog.NodeHash(fold(hs[:k]), fold(hs[k:]))
}

func (t *tree) root() ledger.Hash {
	var right *ledger.Hash
	for _, row := range t.rows {
		if right != nil {
			row = append(row[:len(row):len(row)], *right)
		}
		if len(row) > 0 {
			h := fold(row)
			right = &h
		}
	}
	return *right
}

func sign(b *testing.B, c ledger.Checkpoint) []byte {
	key := logKey()
	seed := append([]byte{1}, key.Seed()...) // 1: Ed25519, c2sp.org/signed-note
	vkey, err := ledger.VerifierKey(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		b.Fatal(err)
	}
	id := strings.Split(vkey, "+")[1]
	signer, err := note.NewSigner("PRIVATE+KEY+" + origin + "+" + id + "+" + base64.StdEncoding.EncodeToString(seed))
	if err != nil {
		b.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: string(c.Marshal())}, signer)
	if err != nil {
		b.Fatal(err)
	}
	return signed
}

func largeConfig(b *testing.B, s ledger.Store) ledger.Config {
	return ledger.Config{Store: s, Origin: origin, Key: logKey(), Adopt: true, GuardFile: filepath.Join(b.TempDir(), "guard")}
}

func BenchmarkProof(b *testing.B) {
	s := open(b, largeLog(b))
	l, err := ledger.Open(b.Context(), largeConfig(b, s))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.Run("10M", func(b *testing.B) {
		for b.Loop() {
			i := rand.Uint64N(large)
			text, err := l.Prove(b.Context(), i)
			if err != nil {
				b.Fatal(err)
			}
			if i%50 == 0 {
				wantProof(b, l, text, i)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	path := largeLog(b)
	cfg := largeConfig(b, nil)
	b.Run("10M", func(b *testing.B) {
		for b.Loop() {
			s, err := store.OpenSQLite(b.Context(), path)
			if err != nil {
				b.Fatal(err)
			}
			cfg.Store = s
			l, err := ledger.Open(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			if err := errors.Join(l.Close(), s.Close()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func wantProof(b *testing.B, l *ledger.Log, text string, i uint64) {
	p, err := ledger.ParseProof(text)
	if err != nil {
		b.Fatal(err)
	}
	c, err := ledger.OpenCheckpoint(p.Note, l.VerifierKey())
	if err != nil {
		b.Fatal(err)
	}
	if err := tlog.CheckRecord(p.Path, int64(c.Size), c.Root, int64(i), largeLeaf(i)); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkGrowth measures what an entry of 1.5 KB adds to the database, tiles
// and indexes included.
func BenchmarkGrowth(b *testing.B) {
	const entries = 20_000
	grow := func(b *testing.B, l *ledger.Log, size func() int64) {
		for b.Loop() {
			before := size()
			for range entries / 100 {
				d := benchDraft(0)
				one := d.Build
				d.Build = func(s ledger.Slot) (c ledger.Change, err error) {
					for range 100 {
						e, err := one(s)
						if err != nil {
							return c, err
						}
						c.Entries, c.Puts = append(c.Entries, e.Entries...), e.Puts
					}
					return c, nil
				}
				if _, err := l.Append(b.Context(), d); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size()-before)/entries, "B/entry")
		}
	}
	b.Run("sqlite", func(b *testing.B) {
		dir := b.TempDir()
		s := open(b, filepath.Join(dir, "writ.db"))
		l, err := ledger.Open(b.Context(), config(s, dir))
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		grow(b, l, func() int64 {
			raw(b, dir, "PRAGMA wal_checkpoint(truncate)")
			info, err := os.Stat(filepath.Join(dir, "writ.db"))
			if err != nil {
				b.Fatal(err)
			}
			return info.Size()
		})
	})
	b.Run("postgres", func(b *testing.B) {
		c := storetest.NewCluster(b)
		defer c.Close()
		_, l := verifierOn(b, c.URL(b), 0)
		grow(b, l, func() (n int64) {
			out := c.Exec(b, "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 's1' AND relkind = 'r'")
			if _, err := fmt.Sscan(out, &n); err != nil {
				b.Fatal(err)
			}
			return n
		})
	})
}
