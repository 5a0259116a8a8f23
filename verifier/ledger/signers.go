package ledger

import (
	"bytes"
	"maps"
	"math"
	"slices"
)

// Signers are the keys of a log.
type Signers struct {
	Keys    []string // whose checkpoints are the log's, as [VerifierKey] writes them
	Retired []Retired
}

// Retired is the key of a verifier that was retired. Whoever has it can sign
// anything, so it counts for what it may have signed before its end alone.
type Retired struct {
	Key  string
	Size uint64 // of the largest such checkpoint: the index of the entry that retires it
}

// Of returns the keys that may have signed note: those of now, and retired ones if
// they had not been when the log was as large as the note says it is. Nothing of
// the note is checked.
func (s Signers) Of(note []byte) []string {
	text, _, ok := bytes.Cut(note, []byte("\n\n"))
	c, err := ParseCheckpoint(append(bytes.Clone(text), '\n'))
	if !ok || err != nil {
		return s.Keys
	}
	keys := slices.Clip(s.Keys)
	for _, r := range s.Retired {
		if c.Size <= r.Size {
			keys = append(keys, r.Key)
		}
	}
	return keys
}

// all are the keys that ever were the log's.
func (s Signers) all() []string {
	keys := slices.Clip(s.Keys)
	for _, r := range s.Retired {
		keys = append(keys, r.Key)
	}
	return keys
}

// Retire says which entries retired keys, by the ids of those: see [KeyID]. From
// then on nothing counts that such a key signs over a larger tree: of whoever has
// stolen it no word freezes the log.
func (l *Log) Retire(ends map[string]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = maps.Clone(ends)
}

// signers are the log's keys, with the ends of those retired as far as they are
// known.
func (l *Log) signers() Signers {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Signers{Keys: l.vkeys}
	for _, k := range l.retired {
		size := uint64(math.MaxUint64)
		if id, err := KeyID(l.origin, k); err == nil {
			if end, ok := l.ends[id]; ok {
				size = end
			}
		}
		s.Retired = append(s.Retired, Retired{k, size})
	}
	return s
}
