package enclave

import (
	"errors"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestHostileTokens: a keeper takes no other token than the one it asked for, and
// none as an event.
func TestHostileTokens(t *testing.T) {
	m, a := admitting(t)
	g := newGrant(m.here)
	var claims token.Claims
	a.set(func() {
		a.change = func(c *token.Claims) { claims = *c }
		a.boot, a.seq = 7, 8
		a.issue(request{Audience: m.audience, Workload: m.workload, Execution: m.execution, Level: m.level.String(), R: g.R})
	})
	claims.Writ.Epoch = 3
	keeper := func() *admission {
		return &admission{trust: m.trust, here: m.here, audience: m.audience, workload: m.workload, execution: m.execution, level: m.level,
			subject: claims.Subject, boot: claims.BootCount, seq: claims.Writ.Seq - 1, epoch: claims.Writ.Epoch}
	}
	w := &hostile.World{Issuer: a.key, Holder: a.key, Claims: claims, At: time.Unix(claims.IssuedAt, 0), Slow: true}
	hostile.Refused(t, w, func(tok string) error {
		g.Token = tok
		_, err := keeper().admit(g, w.At)
		return err
	})
	hostile.Never(t, w, func(tok string) error {
		over, err := keeper().ends(tok, w.At)
		if err == nil && !over {
			err = errors.New("it ends nothing")
		}
		return err
	})
}
