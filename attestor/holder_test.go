package attestor

import (
	"testing"

	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	tpm2Certify    = 0x148 // TPM_CC_Certify
	tpm2ReadPublic = 0x173 // TPM_CC_ReadPublic
)

// TestRenewedMeanwhile: who asks for a token while the base token is renewed is not
// refused because the verifier knows of the later one already; who is refused for
// another reason is asked for once.
func TestRenewedMeanwhile(t *testing.T) {
	t.Parallel()
	b, _, a := ready(t)
	asked := 0
	got, err := further(t.Context(), a, func(_ Verifier, base string) (*string, error) {
		if asked++; asked == 1 {
			b.mustAttest(a)
			return nil, protocol.Refuse(protocol.TokenRevoked, "the base token is not the node's latest")
		}
		return &base, nil
	})
	if err != nil || *got != a.current() || asked != 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	asked = 0
	if _, err := further(t.Context(), a, func(Verifier, string) (*string, error) {
		asked++
		return nil, protocol.Refuse(protocol.RequestRefused, "no")
	}); err == nil || asked != 1 {
		t.Errorf("refused: asked %d times, %v", asked, err)
	}
}

// TestKeyInTPM: an agent whose domain demands it keeps its key in the TPM. It is
// certified once in a boot; a reset of the TPM takes it, and the next one is certified
// in its turn.
func TestKeyInTPM(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "test.invalid")
	b := d.box()
	set := b.learn()
	set.PoP, set.Generation = reference.PoPTPM, set.Generation+1
	b.publish(set)
	l := &line{d: d}
	if err := b.agent(l).attest(t.Context(), false); err == nil {
		t.Error("an agent with its key in software got a token")
	}
	b.inTPM = true
	a := b.agent(l)
	b.mustAttest(a)
	bound := func() string {
		t.Helper()
		c, err := d.claims(a.current())
		if err != nil {
			t.Fatal(err)
		}
		key, _ := a.holder()
		want, err := token.Thumbprint(key.Public())
		if err != nil || c.Writ.Key != "tpm" || c.Confirm.JKT != want {
			t.Errorf("key %q, bound to %s, expected %s (%v)", c.Writ.Key, c.Confirm.JKT, want, err)
		}
		return c.Confirm.JKT
	}
	first := bound()
	b.mustAttest(a)
	b.spent()
	b.mustAttest(a)
	for i, c := range b.spent() {
		if want := []uint32{tpm2ReadPublic, tpm2Quote}; i >= len(want) || c.Code != want[i] {
			t.Errorf("command %d of a renewal is 0x%x", i+1, c.Code)
		}
	}
	if bound() != first {
		t.Error("the key changed without need")
	}
	if err := b.swtpm.PowerCycle(true); err != nil {
		t.Fatal(err)
	}
	b.boot()
	b.spent()
	b.mustAttest(a)
	certified := 0
	for _, c := range b.spent() {
		if c.Code == tpm2Certify && c.Result == 0 {
			certified++
		}
	}
	if bound() == first || certified != 1 {
		t.Errorf("after a reset: certified %d times, the same key: %v", certified, bound() == first)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := b.tpm.Leaks(); err != nil || n != 0 {
		t.Errorf("%d handles left in the TPM (%v)", n, err)
	}
}
