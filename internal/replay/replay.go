// Package replay remembers the proofs of possession that were used, so that none
// is good twice. What it remembers is lost with the process: a proof seen just
// before a restart counts once more after it, for at most token.ProofWindow.
package replay

import (
	"cmp"
	"errors"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

const (
	inAll = 1 << 20               // proofs remembered at most
	keep  = 2 * token.ProofWindow // for at least this long
)

// The two refusals.
var (
	ErrSeen = errors.New("this proof was used before; make one for each request")
	ErrFull = errors.New("too many proofs in two minutes")
)

// A Memory remembers the ids of proofs for as long as one can count: the newer
// half is what came since the last turn, the older what came before it. The zero
// Memory is empty and ready. It is safe for concurrent use.
//
// Who sends more proofs in two minutes than there is room for is told to wait:
// forgetting one would let it in again.
type Memory struct {
	PerKey int // proofs of one key remembered at most; 0: 4096

	mu           sync.Mutex
	turned       time.Time
	newer, older map[token.Holder]bool
	keys         [2]map[string]int // proofs by key, newer and older
}

// First refuses a proof that was seen before, with ErrSeen, or that there is no
// room to remember, with ErrFull.
func (m *Memory) First(h token.Holder, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if age := now.Sub(m.turned).Abs(); age >= keep || m.newer == nil {
		m.older, m.keys[1] = m.newer, m.keys[0]
		if age >= 2*keep {
			m.older, m.keys[1] = nil, nil
		}
		m.newer, m.keys[0], m.turned = map[token.Holder]bool{}, map[string]int{}, now
	}
	if m.newer[h] || m.older[h] {
		return ErrSeen
	}
	if m.keys[0][h.JKT]+m.keys[1][h.JKT] >= cmp.Or(m.PerKey, 4096) || len(m.newer)+len(m.older) >= inAll {
		return ErrFull
	}
	m.newer[h] = true
	m.keys[0][h.JKT]++
	return nil
}
