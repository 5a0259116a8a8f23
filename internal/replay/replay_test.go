package replay

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// TestProofsAreBounded: nobody can make a server remember without end, and what
// it forgets cannot come back.
func TestProofsAreBounded(t *testing.T) {
	m := Memory{PerKey: 100}
	now := time.Unix(1_000_000, 0)
	first := token.Holder{JKT: "a", ID: "first"}
	if err := m.First(first, now); err != nil {
		t.Fatal(err)
	}
	for i := range m.PerKey {
		if err := m.First(token.Holder{JKT: "a", ID: strconv.Itoa(i)}, now); (err == nil) != (i < m.PerKey-1) {
			t.Fatalf("proof %d: %v", i, err)
		}
	}
	if err := m.First(token.Holder{JKT: "a", ID: "more"}, now); !errors.Is(err, ErrFull) {
		t.Errorf("more than there is room for: %v", err)
	}
	if err := m.First(token.Holder{JKT: "b", ID: "x"}, now); err != nil {
		t.Errorf("another key: %v", err)
	}
	for after := time.Duration(0); after <= 2*token.ProofWindow; after += token.ProofWindow / 4 {
		if err := m.First(first, now.Add(after)); !errors.Is(err, ErrSeen) {
			t.Errorf("after %s, while it can still count: %v", after, err)
		}
	}
	if err := m.First(token.Holder{JKT: "a", ID: "late"}, now.Add(3*keep)); err != nil || len(m.older) > 0 {
		t.Errorf("after a while: %v, %d remembered", err, len(m.older))
	}
}
