package tessera

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tlog "github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"
)

// TestMain keeps Tessera's messages out of the lines of figures.
func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

const origin = "example.invalid/log"

// entryBytes is the size of an entry in BenchmarkAppend of verifier/store.
const entryBytes = 1500

// BenchmarkAppendPeer is Append of verifier/store for a log in files: what a
// client waits for until its entry is durable and covered by a signed
// checkpoint, with its inclusion proof.
//
// Both sides sync before they answer. Writ syncs SQLite's write-ahead log and
// its own guard file once per commit; Tessera opens each temporary file of a
// batch (bundle, tiles, tree state) O_SYNC, renames it and syncs its directory,
// and does the same for the checkpoint. Tessera changes no state row, and its
// shortest time between checkpoints is the 100 ms that are set here; batches
// leave after 1 ms, and nothing looks for duplicates.
func BenchmarkAppendPeer(b *testing.B) {
	for _, c := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("tessera/c=%d", c), func(b *testing.B) {
			l := open(b)
			benchAppend(b, l, c)
		})
	}
}

type log struct {
	add    tlog.AddFn
	wait   *tlog.PublicationAwaiter
	reader tlog.LogReader
	key    note.Verifier
}

func open(b *testing.B) *log {
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		b.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	driver, err := posix.New(ctx, posix.Config{Path: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	opts := tlog.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(100*time.Millisecond).
		WithBatching(512, time.Millisecond)
	appender, shutdown, reader, err := tlog.NewAppender(ctx, driver, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := shutdown(ctx); err != nil {
			b.Error(err)
		}
		cancel()
	})
	return &log{
		add:    appender.Add,
		wait:   tlog.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, time.Millisecond),
		reader: reader,
		key:    verifier,
	}
}

// append returns when the entry is in a checkpoint and its proof is made.
func (l *log) append(ctx context.Context, entry []byte) error {
	index, checkpoint, err := l.wait.Await(ctx, l.add(ctx, tlog.NewEntry(entry)))
	if err != nil {
		return fmt.Errorf("appending: %w", err)
	}
	n, err := note.Open(checkpoint, note.VerifierList(l.key))
	if err != nil {
		return fmt.Errorf("opening checkpoint: %w", err)
	}
	var size uint64
	if _, err := fmt.Sscanf(n.Text, origin+"\n%d\n", &size); err != nil {
		return fmt.Errorf("reading checkpoint: %w", err)
	}
	pb, err := client.NewProofBuilder(ctx, size, l.reader.ReadTile)
	if err != nil {
		return fmt.Errorf("proving entry %d: %w", index.Index, err)
	}
	if _, err := pb.InclusionProof(ctx, index.Index); err != nil {
		return fmt.Errorf("proving entry %d: %w", index.Index, err)
	}
	return nil
}

func benchAppend(b *testing.B, l *log, clients int) {
	var left, serial atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	b.ResetTimer()
	for c := range clients {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				if err := l.append(context.Background(), entry(serial.Add(1))); err != nil {
					b.Error(err)
					return
				}
				took[c] = append(took[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	if len(all) == 0 {
		b.Fatal("nothing was appended")
	}
	slices.Sort(all)
	ms := func(p int) float64 { return float64(all[len(all)*p/100].Microseconds()) / 1000 }
	b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(ms(50), "p50-ms")
	b.ReportMetric(ms(99), "p99-ms")
}

// entry makes bytes that no other entry has.
func entry(serial int64) []byte {
	sum := sha256.Sum256(fmt.Append(nil, serial))
	return append(sum[:], bytes.Repeat([]byte("x"), entryBytes-len(sum))...)
}
