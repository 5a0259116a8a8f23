package store_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

const origin = "example.invalid/log"

func logKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
}

// BenchmarkBareSync is the floor below each append: 8 KB written in place and
// made durable.
func BenchmarkBareSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const slots = 1000
	page := make([]byte, 8192)
	for range slots {
		if _, err := f.Write(page); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if _, err := f.WriteAt(page, int64(i%slots)*8192); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
}

// BenchmarkAppend measures what a client waits for: an entry of 1.5 KB and a
// state row, durable, with proof and checkpoint.
func BenchmarkAppend(b *testing.B) {
	clients := []int{1, 16, 256}
	for _, c := range clients {
		b.Run(fmt.Sprintf("sqlite/c=%d", c), func(b *testing.B) {
			dir := b.TempDir()
			l, err := ledger.Open(b.Context(), config(open(b, filepath.Join(dir, "writ.db")), dir))
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			benchAppend(b, l, c)
		})
	}
	server := storetest.NewCluster(b)
	defer server.Close()
	for _, c := range clients {
		b.Run(fmt.Sprintf("postgres/c=%d", c), func(b *testing.B) {
			_, l := verifierOn(b, server.URL(b), 0)
			benchAppend(b, l, c)
		})
	}
}

func benchAppend(b *testing.B, l *ledger.Log, clients int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	b.ResetTimer()
	for c := range clients {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				rs, err := l.Append(context.Background(), benchDraft(c))
				if err != nil {
					b.Error(err)
					return
				}
				took[c] = append(took[c], time.Since(start))
				if len(took[c])%50 == 0 {
					if _, _, err := ledger.CheckProof(rs[0].Proof, rs[0].Entry, l.VerifierKey()); err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	ms := func(p int) float64 { return float64(all[len(all)*p/100].Microseconds()) / 1000 }
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(ms(50), "p50-ms")
	b.ReportMetric(ms(99), "p99-ms")
}

type benchData struct {
	Seq  int    `json:"seq"`
	Body string `json:"body"`
}

func benchDraft(client int) ledger.Draft {
	k := ledger.Key{Kind: "node", ID: fmt.Sprintf("node-%04d", client)}
	return ledger.Draft{Keys: []ledger.Key{k}, Build: func(s ledger.Slot) (ledger.Change, error) {
		row, _ := s.Row(k)
		seq, _ := strconv.Atoi(strings.TrimSpace(string(row)))
		return ledger.Change{
			Entries: []ledger.Entry{{Kind: "appraisal.decided", Subject: k.ID, Actor: "verifier", Data: benchData{seq, strings.Repeat("x", 1370)}}},
			Puts:    []ledger.Put{{Key: k, Value: fmt.Appendf(nil, "%300d", seq+1)}},
		}, nil
	}}
}
