package verifier_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/token"
)

// listed is what the status list of a token says of it.
func (d *domain) listed(c *token.Claims) token.Status {
	d.t.Helper()
	d.pass(time.Second) // lists are handed out again for that long
	jwt, err := d.StatusList(d.t.Context(), 0)
	if err != nil {
		d.t.Fatal(err)
	}
	l, err := token.ParseStatusList(jwt, d.TokenKeys(), c.Listed.List.URI, d.now())
	if err != nil {
		d.t.Fatal(err)
	}
	if l.TTL != 10 || l.Expires-l.IssuedAt != 60 {
		d.t.Fatalf("ttl %d, life %d", l.TTL, l.Expires-l.IssuedAt)
	}
	return l.Status(c.Listed.List.Index)
}

// TestStatusListSaysWhatIntrospectionSays: whatever is done to a node and its domain,
// each token that has not expired is valid in its list exactly when it counts, and
// one that was invalid never comes back, also not after a restart.
func TestStatusListSaysWhatIntrospectionSays(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	other := d.machine("c-grub-sb")
	d.enrol(other, "grub")
	rnd := rand.New(rand.NewPCG(2, 6))
	held, dead := []string{}, map[string]bool{}
	grant := func(m *node) error {
		out, err := d.attest(m)
		if err == nil {
			held = append(held, out.Token)
		}
		return err
	}
	acts := map[string]func() error{
		"grant": func() error { return grant(n) },
		"renew": func() error { return grant(n) },
		"other": func() error { return grant(other) },
		"derive": func() error {
			if len(held) == 0 {
				return nil
			}
			base := held[len(held)-1]
			c, err := token.Verify(base, d.TokenKeys(), token.Expect{Issuer: d.Issuer(), Domain: d.cfg.Domain, Audience: d.EnclaveAudience()}, d.now())
			if err != nil {
				return err
			}
			g, err := d.Token(t.Context(), c, evidence.Request{Audience: d.EnclaveAudience(), Level: "E3", R: random(32), ID: random(12), Execution: "job"})
			if err == nil {
				held = append(held, g.Token)
			}
			return err
		},
		"revoke": func() error {
			if len(held) == 0 {
				return nil
			}
			return d.Revoke(t.Context(), operator, held[rnd.IntN(len(held))])
		},
		"deny": func() error {
			s := d.shot(n)
			s.log = nil
			_, err := d.Attest(t.Context(), s.take(n))
			return err
		},
		"suspend":  func() error { _, err := d.SetStatus(t.Context(), operator, n.id, verifier.Suspended, "x"); return err },
		"activate": func() error { _, err := d.SetStatus(t.Context(), operator, n.id, verifier.Active, "x"); return err },
		"freeze":   func() error { _, err := d.Freeze(t.Context(), operator, "x"); return err },
		"unfreeze": func() error { _, err := d.Unfreeze(t.Context(), operator, "x"); return err },
		"lapse":    func() error { d.pass(70 * time.Second); return nil },
		"declare":  func() error { return d.Lapse(t.Context()) },
		"restart":  func() error { return d.restart() },
	}
	names := []string{"grant", "derive", "other", "revoke", "grant", "renew", "suspend", "activate", "grant", "freeze", "unfreeze", "renew", "deny", "grant", "lapse", "declare", "grant", "restart"}
	all := []string{"grant", "renew", "other", "derive", "revoke", "deny", "suspend", "activate", "freeze", "unfreeze", "lapse", "declare", "restart", "grant", "renew", "unfreeze", "activate"}
	for range 40 {
		names = append(names, all[rnd.IntN(len(all))])
	}
	counted, ended, trace := 0, 0, ""
	for _, name := range names {
		trace += " " + name
		if err := acts[name](); err != nil {
			trace += "(refused)"
		}
		for i, tok := range held {
			c := parsed(t, d, tok)
			status := d.listed(c)
			live, err := d.Live(t.Context(), tok)
			if err != nil {
				t.Fatal(err)
			}
			expired := d.now().Unix() >= c.Expires
			switch {
			case !expired && (live != nil) != (status == token.Valid):
				t.Fatalf("after%s: token %d counts: %v, its status is %d", trace, i, live != nil, status)
			case dead[tok] && status == token.Valid:
				t.Fatalf("after%s: token %d came back", trace, i)
			}
			dead[tok] = dead[tok] || status != token.Valid
			if live != nil {
				counted++
			} else if !expired {
				ended++
			}
		}
		if len(held) > 6 {
			held = held[len(held)-6:]
		}
	}
	if counted < 20 || ended < 20 {
		t.Errorf("only %d looks at tokens that count and %d at ended ones:%s", counted, ended, trace)
	}
}

// parsed are the claims of a token of ours, expired or not.
func parsed(t *testing.T, d *domain, tok string) *token.Claims {
	t.Helper()
	for back := time.Duration(0); back < 30*time.Minute; back += 30 * time.Second {
		c, err := token.Verify(tok, d.TokenKeys(), token.Expect{Issuer: d.Issuer(), Domain: d.cfg.Domain, Audience: d.EnclaveAudience()}, d.now().Add(-back))
		if err == nil {
			return c
		}
	}
	t.Fatal("no token of ours")
	return nil
}

// TestTokensOfOneRunShareAStatus: the place of a token is the entry that began its
// node's run of legitimacy, and another run has another.
func TestTokensOfOneRunShareAStatus(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	first := d.claims(d.mustGrant(n).Token)
	second := d.claims(d.mustGrant(n).Token)
	want := token.Place{Index: uint64(first.Writ.Log.Index), URI: d.Issuer() + "/v1/status-lists/0"}
	if first.Listed.List != want || second.Listed != first.Listed {
		t.Errorf("places %+v and %+v, expected %+v", first.Listed, second.Listed, want)
	}
	d.pass(61 * time.Second)
	if third := d.claims(d.mustGrant(n).Token); third.Listed.List.Index != uint64(third.Writ.Log.Index) {
		t.Errorf("after a lapse the place is %+v", third.Listed)
	}
}

// TestStatusListOfNobody: there is no list beyond the log.
func TestStatusListOfNobody(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	for _, n := range []uint64{2, 1 << 40, 1<<63 - 1} {
		if _, err := d.StatusList(t.Context(), n); err == nil {
			t.Error(fmt.Sprintf("list %d exists", n))
		}
	}
}
