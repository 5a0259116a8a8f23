package verifier_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/token"
)

// A node that has not shown for too long that it can halt work gets no token for
// any; a proof in which a key failed, or that is old, shows nothing.
func TestNodeThatCannotHalt(t *testing.T) {
	t.Parallel()
	d, n := ready(t, func(c *verifier.Config) { c.ProveHaltEvery, c.TokenLife = time.Hour, time.Minute })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jkt, err := token.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	base := d.claims(d.mustGrant(n).Token)
	refused := func(when string) {
		t.Helper()
		if _, err := d.Token(ctx, base, request(d, "r-"+when)); err == nil || !strings.Contains(err.Error(), "prove-halt") {
			t.Errorf("%s: %v", when, err)
		}
	}
	ask := func(id string) (exec string, admitted uint64) {
		t.Helper()
		req := request(d, id)
		req.Execution, req.Key = "prove-halt-"+id, jkt
		index := d.Log().Size()
		if _, err := d.Token(ctx, base, req); err != nil {
			t.Fatal(err)
		}
		return req.Execution, uint64(index)
	}
	report := func(exec string, admitted uint64, halted bool) {
		t.Helper()
		h := &bundle.Halt{Nonce: "0011223344556677"}
		for _, k := range []string{"kill", "kernel-timer", "init-watch", "keeper-death"} {
			h.Keys = append(h.Keys, bundle.HaltKey{Key: k, LatencyUS: 5, Halted: halted || k != "kernel-timer"})
		}
		s := bundle.Stop{Exec: exec, Cause: bundle.ProveHalt, Confirmed: true, Level: "E3", Admitted: admitted, Halt: h}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if s.Statement, err = token.SignStatement(b, key, rand.Reader); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Stopped(ctx, base, s); err != nil {
			t.Fatal(err)
		}
	}
	refused("never")
	library := request(d, "library")
	library.Execution, library.Level = "", "E0"
	if _, err := d.Token(ctx, base, library); err != nil {
		t.Errorf("a token for no execution: %v", err)
	}
	exec, at := ask("a")
	report(exec, at, false)
	refused("failed")
	exec, at = ask("b")
	report(exec, at, true)
	if _, err := d.Token(ctx, base, request(d, "proved")); err != nil {
		t.Errorf("after the proof: %v", err)
	}
	d.pass(61 * time.Minute)
	base = d.claims(d.mustGrant(n).Token)
	refused("old")
	report(exec, at, true) // replayed
	refused("replayed")
}
