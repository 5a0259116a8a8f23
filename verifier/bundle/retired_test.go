package bundle_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// TestRetiredLogKeySignsOn: what a verifier signed before it was retired is believed,
// what its key signs over a larger tree is not.
func TestRetiredLogKeySignsOn(t *testing.T) {
	t.Parallel()
	open := func(origin string, n byte) *ledger.Log {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
		l, err := ledger.Open(t.Context(), ledger.Config{Store: storetest.NewMemory(), Origin: origin, Key: key, GuardFile: filepath.Join(t.TempDir(), "guard")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	l, other := open("retired.invalid/log", 1), open("retired.invalid/log", 2)
	var notes [][]byte
	var receipts []ledger.Receipt
	for range 4 {
		r, err := l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Entries: []ledger.Entry{{Kind: "test.made"}}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		notes, receipts = append(notes, l.Checkpoint()), append(receipts, r[0])
	}
	tr := &bundle.Trust{V: 1, Domain: "retired.invalid", Log: []string{other.VerifierKey()}, Retired: &bundle.Retired{Log: []bundle.RetiredLogKey{{Key: l.VerifierKey(), Size: 3}}}}
	tr, err := bundle.ParseTrust(tr.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	for i := range notes {
		want := i < 3
		if _, err := tr.OpenCheckpoint(notes[i]); (err == nil) != want {
			t.Errorf("a checkpoint of size %d: %v", i+1, err)
		}
		if _, _, err := tr.CheckProof(receipts[i].Proof, receipts[i].Entry); (err == nil) != want {
			t.Errorf("a receipt under size %d: %v", i+1, err)
		}
		if r := bundle.InspectReceipt(receipts[i].Proof, receipts[i].Entry, tr); (r.Result == bundle.ResultVerified) != want {
			t.Errorf("a receipt under size %d: %s", i+1, r.Result)
		}
	}
	lied := bytes.Replace(notes[3], []byte("\n4\n"), []byte("\n3\n"), 1)
	if _, err := tr.OpenCheckpoint(lied); err == nil {
		t.Error("a checkpoint that says another size than was signed is believed")
	}
	if _, err := (&bundle.Trust{Log: tr.Log}).OpenCheckpoint(notes[0]); err == nil {
		t.Error("the retired key is believed without a word on it")
	}
	foreign := open("another.invalid/log", 3)
	for what, r := range map[string]*bundle.Retired{
		"another log's key": {Log: []bundle.RetiredLogKey{{Key: foreign.VerifierKey(), Size: 3}}},
		"no key":            {TokenKeys: []bundle.RetiredTokenKey{{JWK: json.RawMessage(`{}`), From: 1, Until: 2}}},
	} {
		bad := *tr
		bad.Retired = r
		if _, err := bundle.ParseTrust(bad.Marshal()); err == nil {
			t.Errorf("%s is taken for a retired key", what)
		}
	}
}
