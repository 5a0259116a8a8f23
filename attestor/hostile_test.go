package attestor

import (
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestHostileTokens: an agent keeps and hands on no token but the one it asked for,
// whatever comes from where its verifier should be.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	req := evidence.Request{Audience: "spiffe://test.invalid/enclave", Level: a.cfg.Level, R: random(32), ID: random(16)}
	c, err := b.d.claims(a.current())
	if err != nil {
		t.Fatal(err)
	}
	c.Nonce = req.R
	w := &hostile.World{Issuer: b.d.tokenKey, Holder: a.key, Claims: *c, At: time.Unix(c.IssuedAt, 0)}
	hostile.Refused(t, w, hostile.Mutations/4, func(tok string) error {
		_, err := a.verify(tok, req)
		return err
	})
	l.mu.Lock()
	l.bend = func(o *protocol.Outcome) { o.Token = o.Token[:len(o.Token)-4] + "AAAA" }
	l.mu.Unlock()
	before := a.current()
	if err := a.attest(t.Context(), false); err == nil || a.current() != before {
		t.Errorf("a forged token was kept: %v", err)
	}
}
