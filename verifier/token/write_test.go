package token_test

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"testing/quick"

	"github.com/writ-attestation/writ/verifier/token"
)

// TestClaimsForm: claims are written as encoding/json writes them, whatever they say,
// so that what an earlier version hashed and stored is what this one makes.
func TestClaimsForm(t *testing.T) {
	same := func(c token.Claims) bool {
		want, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		got := c.AppendJSON([]byte("x"))
		if string(got) != "x"+string(want) {
			t.Errorf("written\n%s, expected\nx%s", got, want)
			return false
		}
		return true
	}
	full := good()
	full.Listed = token.Listed{List: token.Place{Index: 7, URI: "https://a.invalid/<1>"}}
	full.Writ.Execution, full.Writ.Workload, full.Writ.Prev = "e-1", "sha256:00", "p"
	full.Confirm.X5T = "x"
	full.Submods["os-runtime"] = token.Submod{Vector: token.Vector{InstanceIdentity: -1, FileSystem: 2, RuntimeOpaque: 3, StorageOpaque: 4, SourcedData: 127}}
	for _, c := range []token.Claims{{}, good(), full} {
		same(c)
	}
	if err := quick.Check(same, &quick.Config{MaxCount: 300}); err != nil {
		t.Error(err)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 100 { // some members, not all
		c := full
		for _, s := range []*string{&c.Confirm.JKT, &c.Confirm.X5T, &c.Writ.Prev, &c.Writ.Execution, &c.Writ.Workload, &c.Audience} {
			if r.IntN(2) == 0 {
				*s = ""
			}
		}
		if r.IntN(2) == 0 {
			c.Listed = token.Listed{}
		}
		if !same(c) {
			t.Fatalf("seed %d", seed)
		}
	}
}
