package storetest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// Memory is a ledger.Store in memory, for tests: as strict as the real ones,
// and checking at each commit what they leave to the ledger.
type Memory struct {
	// OnCommit, if set, decides what becomes of a commit: whether its changes
	// are made, and what Commit returns.
	OnCommit func(ledger.Batch) (apply bool, err error)

	lock chan struct{} // the head lock

	mu      sync.RWMutex
	head    ledger.Head
	records []ledger.Record
	tiles   map[tileID][]byte
	rows    map[ledger.Key][]byte
	blobs   map[ledger.Hash][]byte
}

type tileID struct {
	level int
	index uint64
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		lock:  make(chan struct{}, 1),
		tiles: map[tileID][]byte{},
		rows:  map[ledger.Key][]byte{},
		blobs: map[ledger.Hash][]byte{},
	}
}

// Begin implements ledger.Store.
func (m *Memory) Begin(ctx context.Context, _ ...ledger.Key) (ledger.Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case m.lock <- struct{}{}:
		head, err := m.Head(ctx)
		return &memoryTx{store: m, head: head}, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Pack implements ledger.Store.
func (m *Memory) Pack(data []byte) (ledger.Blob, error) {
	return ledger.Blob{Sum: sha256.Sum256(data), Size: int64(len(data)), Packed: data}, nil
}

// Head implements ledger.Reader.
func (m *Memory) Head(context.Context) (ledger.Head, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := m.head
	h.Note = slices.Clone(h.Note)
	return h, nil
}

// Rows implements ledger.Reader.
func (m *Memory) Rows(_ context.Context, keys []ledger.Key) ([]ledger.Put, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []ledger.Put
	for _, k := range keys {
		if v, ok := m.rows[k]; ok {
			out = append(out, ledger.Put{Key: k, Value: clone(v)})
		}
	}
	return out, nil
}

// List implements ledger.Reader.
func (m *Memory) List(_ context.Context, kind, after string, limit int) ([]ledger.Put, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []ledger.Put
	for k, v := range m.rows {
		if k.Kind == kind && k.ID > after {
			out = append(out, ledger.Put{Key: k, Value: clone(v)})
		}
	}
	slices.SortFunc(out, func(a, b ledger.Put) int { return cmp.Compare(a.Key.ID, b.Key.ID) })
	return out[:min(limit, len(out))], nil
}

// Records implements ledger.Reader.
func (m *Memory) Records(_ context.Context, from, to uint64) ([]ledger.Record, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	to = min(to, uint64(len(m.records)), from+256)
	if from >= to {
		return nil, nil
	}
	out := slices.Clone(m.records[from:to])
	for i := range out {
		out[i].Data = slices.Clone(out[i].Data)
	}
	return out, nil
}

// Tile implements ledger.Reader.
func (m *Memory) Tile(_ context.Context, level int, index uint64) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t, ok := m.tiles[tileID{level, index}]
	if !ok {
		return nil, ledger.ErrNotFound
	}
	return slices.Clone(t), nil
}

// Blob implements ledger.Reader.
func (m *Memory) Blob(_ context.Context, sum ledger.Hash) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, ok := m.blobs[sum]
	if !ok {
		return nil, ledger.ErrNotFound
	}
	return clone(b), nil
}

type memoryTx struct {
	store *Memory
	head  ledger.Head
	read  bool
	ended bool
}

func (tx *memoryTx) Head() ledger.Head { return tx.head }

func (tx *memoryTx) Rows(keys []ledger.Key) ([]ledger.Put, error) {
	if tx.read || tx.ended {
		return nil, errors.New("storetest: rows are read twice, or after the end")
	}
	tx.read = true
	return tx.store.Rows(context.Background(), keys)
}

func (tx *memoryTx) Rollback() {
	if !tx.ended {
		tx.ended = true
		<-tx.store.lock
	}
}

func (tx *memoryTx) Commit(b ledger.Batch) error {
	if tx.ended {
		return errors.New("storetest: transaction has ended")
	}
	defer tx.Rollback()
	apply, err := true, error(nil)
	if tx.store.OnCommit != nil {
		apply, err = tx.store.OnCommit(b)
	}
	if !apply {
		return err
	}
	return errors.Join(tx.store.apply(tx.head, b), err)
}

// apply makes the changes, or none of them.
func (m *Memory) apply(old ledger.Head, b ledger.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(old, b); err != nil {
		return fmt.Errorf("storetest: %w", err)
	}
	m.head = b.Head
	for _, r := range b.Records {
		r.Data = slices.Clone(r.Data)
		m.records = append(m.records, r)
	}
	for _, t := range b.Tiles {
		m.tiles[tileID{t.Level, t.Index}] = slices.Clone(t.Data)
	}
	for _, p := range b.Puts {
		if p.Value == nil {
			delete(m.rows, p.Key)
		} else {
			m.rows[p.Key] = clone(p.Value)
		}
	}
	for _, s := range b.Sweeps {
		for _, sum := range s.Blobs {
			delete(m.blobs, sum)
		}
		for i := s.From; i < s.To; i++ {
			if !slices.Contains(s.Keep, m.records[i].Kind) {
				m.records[i].Data, m.records[i].Subject = []byte{}, ""
			}
		}
	}
	for _, bl := range b.Blobs {
		m.blobs[bl.Sum] = clone(bl.Packed)
	}
	return nil
}

func (m *Memory) check(old ledger.Head, b ledger.Batch) error {
	if m.head.Size != old.Size {
		return fmt.Errorf("head moved from %d to %d under its lock", old.Size, m.head.Size)
	}
	if b.Head.Size != old.Size+uint64(len(b.Records)) || b.Head.At < old.At || len(b.Head.Note) == 0 {
		return fmt.Errorf("%d records take the head from size %d to %d", len(b.Records), old.Size, b.Head.Size)
	}
	for i, r := range b.Records {
		if r.Index != old.Size+uint64(i) || r.At < old.At || r.At > b.Head.At {
			return fmt.Errorf("record %d has index %d and time %d", i, r.Index, r.At)
		}
	}
	for _, t := range b.Tiles {
		if _, ok := m.tiles[tileID{t.Level, t.Index}]; ok || len(t.Data) != 8192 {
			return fmt.Errorf("tile %d of level %d is written twice or has %d bytes", t.Index, t.Level, len(t.Data))
		}
	}
	seen := map[ledger.Key]bool{}
	for _, p := range b.Puts {
		if seen[p.Key] {
			return fmt.Errorf("row %v is written twice", p.Key)
		}
		seen[p.Key] = true
	}
	for _, bl := range b.Blobs {
		if sha256.Sum256(bl.Packed) != bl.Sum {
			return fmt.Errorf("blob %x has another hash", bl.Sum)
		}
	}
	return nil
}

// clone copies a value that is there: never nil, which would mean that it is
// not.
func clone(b []byte) []byte { return append([]byte{}, b...) }
