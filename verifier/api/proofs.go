package api

import (
	"net/http"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// Proofs remembered at most, of one key and in all. Who sends more in two
// minutes is told to wait: forgetting one would let it in again.
const (
	proofsPerKey = 4096
	proofsInAll  = 1 << 20
	proofsFor    = 2 * token.ProofWindow
)

// proofs remembers the ids of proofs for as long as one can count: the newer
// half is what came since the last turn, the older what came before it.
type proofs struct {
	mu           sync.Mutex
	turned       time.Time
	newer, older map[token.Holder]bool
	keys         [2]map[string]int // proofs by key, newer and older
}

// first refuses a proof that was seen before.
func (p *proofs) first(h token.Holder, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if age := now.Sub(p.turned).Abs(); age >= proofsFor || p.newer == nil {
		p.older, p.keys[1] = p.newer, p.keys[0]
		if age >= 2*proofsFor {
			p.older, p.keys[1] = nil, nil
		}
		p.newer, p.keys[0], p.turned = map[token.Holder]bool{}, map[string]int{}, now
	}
	if p.newer[h] || p.older[h] {
		return unproven("invalid_dpop_proof", &token.Error{Code: token.BadProof, Detail: "this proof was used before; make one for each request"})
	}
	if p.keys[0][h.JKT]+p.keys[1][h.JKT] >= proofsPerKey || len(p.newer)+len(p.older) >= proofsInAll {
		return &httpError{status: http.StatusTooManyRequests, code: codeRateLimited, detail: "too many proofs in two minutes", retry: 30}
	}
	p.newer[h] = true
	p.keys[0][h.JKT]++
	return nil
}
