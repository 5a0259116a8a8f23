package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// TestRetiredVerifierAppends: what a verifier signed before it was retired is
// history; a head it signs afterwards freezes the others.
func TestRetiredVerifierAppends(t *testing.T) {
	t.Parallel()
	const origin = "retired.invalid/log"
	dir, store := t.TempDir(), storetest.NewMemory()
	keys, vkeys := map[string]ed25519.PrivateKey{}, map[string]string{}
	for i, name := range []string{"a", "b"} {
		keys[name] = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(20 + i)}, ed25519.SeedSize))
		var err error
		if vkeys[name], err = ledger.VerifierKey(origin, keys[name].Public().(ed25519.PublicKey)); err != nil {
			t.Fatal(err)
		}
	}
	id, err := ledger.KeyID(origin, vkeys["b"])
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string, peers, retired []string) *ledger.Log {
		t.Helper()
		l, err := ledger.Open(t.Context(), ledger.Config{Store: store, Origin: origin, Key: keys[name], Peers: peers, Retired: retired, GuardFile: filepath.Join(dir, name), Adopt: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	add := func(l *ledger.Log) error {
		_, err := l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Entries: []ledger.Entry{{Kind: "test.made", Subject: "s"}}}, nil
		}})
		return err
	}
	a := open("a", []string{vkeys["b"]}, nil)
	b := open("b", []string{vkeys["a"]}, nil)
	if err := errors.Join(add(a), add(b), a.Close()); err != nil {
		t.Fatal(err)
	}
	seen := b.Checkpoint()

	a = open("a", nil, []string{vkeys["b"]}) // the last head is the retired one's: history
	if !a.HeadSignedBy(id) || a.HeadSignedBy("00") {
		t.Error("who signed the head is not told")
	}
	if err := add(a); err != nil || a.HeadSignedBy(id) {
		t.Fatalf("going on from it: %v", err)
	}
	if err := a.Confront(t.Context(), seen); err != nil {
		t.Errorf("a client's checkpoint from before: %v", err)
	}
	if _, err := ledger.OpenCheckpoint(a.Checkpoint(), a.VerifierKeys()...); err != nil || len(a.VerifierKeys()) != 1 {
		t.Errorf("keys to trust are %v: %v", a.VerifierKeys(), err)
	}
	if err := add(b); err != nil { // it has the database's password still
		t.Fatal(err)
	}
	for range 2 {
		if err := add(a); !errors.Is(err, ledger.ErrKey) {
			t.Errorf("after the retired verifier went on: %v", err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a = open("a", nil, []string{vkeys["b"]}); !a.HeadSignedBy(id) {
		t.Error("a restart does not see who signed the head")
	}
}
