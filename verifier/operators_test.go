package verifier_test

import (
	"testing"

	"github.com/writ-attestation/writ/verifier"
)

// TestRevokedOperatorsAgreement: what a stolen certificate has agreed to does not count
// towards what others agree to later, and fsck derives the same.
func TestRevokedOperatorsAgreement(t *testing.T) {
	t.Parallel()
	d := newDomain(t, func(c *verifier.Config) { c.Approvals = 2 })
	if _, err := d.Freeze(ctx, "operator/alice", "an incident"); err != nil {
		t.Fatal(err)
	}
	if g, err := d.Unfreeze(ctx, "operator/mallory", "nothing happened"); err != nil || !g.Frozen {
		t.Fatalf("mallory alone: %+v, %v", g, err)
	}
	for i, actor := range []string{"operator/alice", "operator/alice", "operator/bob"} {
		c, err := d.RevokeOperator(ctx, actor, "mallory", "laptop stolen")
		if err != nil || c.Revoked != (i == 2) {
			t.Fatalf("%s agrees: %+v, %v", actor, c, err)
		}
		if found := d.fsckState(); len(found) > 0 {
			t.Errorf("after %s: %v", actor, found)
		}
	}
	if g, err := d.Unfreeze(ctx, "operator/alice", "it is over"); err != nil || !g.Frozen || g.Approvals != 1 {
		t.Errorf("alice and who was revoked lifted the freeze: %+v, %v", g, err)
	}
	if g, err := d.Unfreeze(ctx, "operator/bob", "it is over"); err != nil || g.Frozen {
		t.Errorf("alice and bob: %+v, %v", g, err)
	}
	if found := d.fsckState(); len(found) > 0 {
		t.Error(found)
	}
	if _, err := d.RevokeOperator(ctx, "operator/alice", "../alice", "x"); err == nil {
		t.Error("a name that nobody can have was revoked")
	}
}
