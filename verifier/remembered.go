package verifier

import (
	"bytes"
	"context"
	"sync"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// remembered keeps state rows as they were last seen, with what they say: a node
// that renews finds its own as it left them. Another verifier may have changed
// them since. So nothing follows from a remembered row alone: what is granted or
// denied is held against the rows under the head lock, and what is refused before
// that, against those in the store (see [reads]).
type remembered struct {
	mu   sync.RWMutex
	rows map[ledger.Key]seen
	size int
}

// seen is a row and its decoded value, which nobody changes any more.
type seen struct {
	raw   []byte
	value any
}

// maxRemembered bounds the rows (bytes as stored); past it all are forgotten.
const maxRemembered = 32 << 20

func (m *remembered) get(k ledger.Key) (seen, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, ok := m.rows[k]
	return s, ok
}

func (m *remembered) put(k ledger.Key, s seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.size += len(s.raw) - len(m.rows[k].raw)
	if m.rows == nil || m.size > maxRemembered {
		m.rows, m.size = map[ledger.Key]seen{}, len(s.raw)
	}
	m.rows[k] = s
}

// reads are the rows that one attempt rests on.
type reads struct {
	s      *Service
	fresh  bool // take none from memory
	rows   map[ledger.Key][]byte
	forged bool // what was sent is not authentic, by these rows
}

// read is [row], from memory where it may be. What it returns must not be changed.
func read[T any](ctx context.Context, r *reads, key ledger.Key) (v *T, ok bool, err error) {
	if m, ok := r.s.rows.get(key); ok && !r.fresh {
		r.rows[key] = m.raw
		return m.value.(*T), true, nil
	}
	raw, ok, err := r.s.log.Get(ctx, key)
	if err != nil || !ok {
		return nil, false, err
	}
	v = new(T)
	if err := unmarshalRow(raw, key, v); err != nil {
		return nil, false, err
	}
	r.rows[key] = raw
	r.s.rows.put(key, seen{raw, v})
	return v, true, nil
}

// holds reports whether a row is the one, under the head lock, that was read.
func (r *reads) holds(slot ledger.Slot, key ledger.Key) bool {
	now, ok := slot.Row(key)
	then, read := r.rows[key]
	return ok && read && bytes.Equal(now, then)
}

// current reports whether the rows are those in the store.
func (r *reads) current(ctx context.Context) (bool, error) {
	if r.fresh {
		return true, nil // they were when they were read
	}
	for key, raw := range r.rows {
		now, ok, err := r.s.log.Get(ctx, key)
		if err != nil || !ok || !bytes.Equal(now, raw) {
			return false, err
		}
	}
	return true, nil
}
