package attestor

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// hostile is the world of an agent that has a token, and the request that its good
// token answers.
func (b *box) hostile(a *Agent) (*hostile.World, evidence.Request) {
	b.t.Helper()
	req := evidence.Request{Audience: "spiffe://test.invalid/enclave", Level: a.cfg.Level, R: random(32), ID: random(16)}
	c, err := b.d.claims(a.current())
	if err != nil {
		b.t.Fatal(err)
	}
	c.Nonce = req.R
	return &hostile.World{Issuer: b.d.tokenKey, Holder: a.key, Claims: *c, At: time.Unix(c.IssuedAt, 0)}, req
}

// TestHostileTokens: an agent keeps and hands on no token but the one it asked for,
// whatever comes from where its verifier should be.
func TestHostileTokens(t *testing.T) {
	t.Parallel()
	b, l, a := ready(t)
	if _, err := b.d.Freeze(t.Context(), "operator/test", "x"); err != nil { // so that there is an epoch before
		t.Fatal(err)
	}
	if _, err := b.d.Unfreeze(t.Context(), "operator/test", "x"); err != nil {
		t.Fatal(err)
	}
	b.mustAttest(a)
	w, req := b.hostile(a)
	hostile.Refused(t, w, func(tok string) error {
		_, err := a.verify(tok, req)
		return err
	})
	forge := func(tok string) string { return tok[:len(tok)-4] + "AAAA" }
	l.mu.Lock()
	l.bend = func(o *protocol.Outcome) { o.Token = forge(o.Token) }
	l.derive = func(g *protocol.Grant) { g.Token = forge(g.Token) }
	l.mu.Unlock()
	before := a.current()
	if err := a.attest(t.Context(), false); err == nil || a.current() != before {
		t.Errorf("a forged token was kept: %v", err)
	}
	if g, err := a.Lease(t.Context(), req); err == nil {
		t.Errorf("a forged token was handed on: %+v", g)
	}
}

// TestTokenAtTheSocket: no token is a credential at the agent's socket, nor a
// statement of how work ended; none that comes as an event ends anything.
func TestTokenAtTheSocket(t *testing.T) {
	t.Parallel()
	b, _, a := ready(t)
	w, _ := b.hostile(a)
	h := a.handler(t.Context(), Socket{})
	local := context.WithValue(t.Context(), peerKey{}, uint32(os.Getuid()))
	ask := func(method, path, body, authorization string) (*httptest.ResponseRecorder, error) {
		r := httptest.NewRequestWithContext(local, method, "http://agent"+path, strings.NewReader(body))
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code/100 == 2 {
			return rec, nil
		}
		if got := rec.Header().Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%d %s is no problem details", rec.Code, got)
		}
		return rec, errors.New(rec.Body.String())
	}
	if _, err := ask("GET", "/v1/status", "", ""); err != nil {
		t.Fatal(err)
	}
	hostile.Never(t, w, func(tok string) error {
		rec, err := ask("GET", "/v1/status", "", "DPoP "+tok)
		if err != nil && (rec.Code != http.StatusUnauthorized || !strings.Contains(rec.Header().Get("WWW-Authenticate"), `error="invalid_token"`)) {
			t.Errorf("%d %v", rec.Code, rec.Header())
		}
		return err
	})
	hostile.Never(t, w, func(tok string) error {
		_, err := ask("POST", "/v1/stops", `{"statement":"`+url.QueryEscape(tok)+`"}`, "")
		return err
	})
	pushes, cancel := a.Watch()
	defer cancel()
	base := func() string {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.base
	}
	before := base()
	hostile.Never(t, w, func(tok string) error {
		a.heard("revocation", tok)
		select {
		case p := <-pushes:
			t.Errorf("the keepers were told %+v", p)
			return nil
		default:
		}
		if base() != before {
			t.Error("the base token is gone")
		}
		return errors.New("it ends nothing")
	})
}
