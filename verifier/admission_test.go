package verifier_test

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestVerifierAdmittedByOne: whoever writes the configuration alone does not admit a
// verifier where that takes two operators.
func TestVerifierAdmittedByOne(t *testing.T) {
	t.Parallel()
	d := newDomain(t, func(c *verifier.Config) { c.KeyIDs["log"], c.Approvals = strings.Repeat("ee", 32), 2 })
	vkey, err := ledger.VerifierKey("test.invalid/log", ed25519.NewKeyFromSeed(bytes32(7)).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	id, err := ledger.KeyID("test.invalid/log", vkey)
	if err != nil {
		t.Fatal(err)
	}
	starts := func(peers ...string) error {
		d.cfg.PeerLogKeys = peers
		return d.restart()
	}
	if err := starts(id); !errors.Is(err, keys.ErrMissing) || !strings.Contains(err.Error(), "0 of 2 operators") {
		t.Errorf("nobody has agreed: %v", err)
	}
	for i, by := range []string{"operator/alice", "operator/alice", "operator/bob"} {
		if err := starts(); err != nil {
			t.Fatal(err)
		}
		a, err := d.Admit(ctx, by, vkey)
		if err != nil || a.LogKey != id || a.Needed != 2 || a.Approvals != 1+i/2 {
			t.Fatalf("%s agrees: %+v, %v", by, a, err)
		}
		if err := starts(id); (err == nil) != (i == 2) {
			t.Errorf("after %s agreed: %v", by, err)
		}
	}
	joined := 0
	for _, leaf := range d.entries(0) {
		if leaf.Kind == bundle.VerifierJoined {
			joined++
		}
	}
	if joined != 1 {
		t.Errorf("it has joined %d times", joined)
	}
	_, err = d.Admit(ctx, operator, vkey)
	refused(t, err, protocol.IllegalAct)
	_, err = d.Admit(ctx, operator, strings.Replace(vkey, "test.invalid", "other.invalid", 1))
	refused(t, err, protocol.IllegalAct)
	if err := starts(id); err != nil { // it is recorded: nobody is asked again
		t.Error(err)
	}
}
