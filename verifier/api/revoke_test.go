package api

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// revoke asks for the end of a token, with what change adds to the request.
func (d *domain) revoke(c *http.Client, tok string, change ...func(*http.Request)) reply {
	d.t.Helper()
	return d.ask(c, http.MethodPost, "/oauth2/revoke", mediaForm, revocation(tok), change...)
}

func revocation(tok string) []byte {
	return []byte(url.Values{"token": {tok}, "token_type_hint": {"access_token"}}.Encode())
}

// TestHolderEndsItsToken: whoever holds the key ends the token and all that rests on
// the same evidence; the node's stream says so, the history keeps it, and the node
// may attest anew.
func TestHolderEndsItsToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	p := d.party()
	further, err := c.Token(t.Context(), base, n.key, n.request("job"))
	if err != nil {
		t.Fatal(err)
	}
	l := d.listener(c, n, base)
	d.open("1")
	before := d.svc.Log().Size()
	got := d.revoke(d.http(), further.Token, d.prove(proven{base: base, key: n.key, body: revocation(further.Token)}))
	if got.status != http.StatusOK || got.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s", got.status, got.header, got.body)
	}
	if e := d.verified(wait(t, "the event", l.heard), base); e.Cause != "ended" {
		t.Errorf("cause %q", e.Cause)
	}
	for name, tok := range map[string]string{"the token": further.Token, "its base": base} {
		if p.active(tok) == nil {
			t.Errorf("%s still counts", name)
		}
	}
	_, err = c.Token(t.Context(), base, n.key, n.request("job2"))
	refused(t, err, protocol.TokenRevoked)
	page, err := d.first.Audit(t.Context(), before, before+1)
	if err != nil || len(page.Entries) != 1 {
		t.Fatalf("%+v %v", page, err)
	}
	leaf, err := ledger.ParseLeaf(page.Entries[0].Leaf)
	if err != nil || leaf.Kind != bundle.Revoked || leaf.Subject != subjectOf(d.name, n.id) || leaf.Actor != subjectOf(d.name, "node/"+n.id) {
		t.Errorf("recorded as %+v %v", leaf, err)
	}
	// Once more: what is ended stays so, and is not told twice.
	got = d.revoke(d.http(), base, d.prove(proven{base: base, key: n.key, body: revocation(base)}))
	if got.status != http.StatusOK || d.svc.Log().Size() != before+1 {
		t.Errorf("a second time: %d %s, %d entries", got.status, got.body, d.svc.Log().Size()-before)
	}
	if fresh := n.mustGrant(c); p.active(fresh) != nil {
		t.Error("the node cannot come back")
	}
}

// TestRevokeAnothersToken: no node can end what another one holds.
func TestRevokeAnothersToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	victim, c, base := d.working()
	thief := d.machine("c-grub-sb")
	d.enrol(thief, "grub")
	own := thief.mustGrant(c)
	p := d.party()
	got := d.revoke(d.http(), base, d.prove(proven{base: own, key: thief.key, body: revocation(base)}))
	if got.status != http.StatusForbidden || !strings.Contains(string(got.body), `"error":"unauthorized_client"`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	got = d.revoke(d.http(), base, d.prove(proven{base: base, key: thief.key, body: revocation(base)}))
	if got.status != http.StatusUnauthorized || got.code(t) != codeUnauthenticated {
		t.Errorf("with the stolen token: %d %s", got.status, got.body)
	}
	if err := p.active(base); err != nil {
		t.Errorf("the token of %s: %v", victim.id, err)
	}
}

// TestOperatorEndsToken: an operator ends anybody's token; two credentials at once
// are none.
func TestOperatorEndsToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, _, base := d.working()
	p := d.party()
	actor := d.http(d.identity(keys.Operator{Name: "a", Roles: []keys.Role{keys.Actor}}).Certificate)
	got := d.revoke(actor, base, d.prove(proven{base: base, key: n.key, body: revocation(base)}))
	if got.status != http.StatusUnauthorized || p.active(base) != nil {
		t.Errorf("with two credentials: %d %s", got.status, got.body)
	}
	if got := d.revoke(actor, base); got.status != http.StatusOK || p.active(base) == nil {
		t.Errorf("%d %s, %v", got.status, got.body, p.active(base))
	}
}

// TestRevokeUnknownToken: a token that is none of ours changes nothing, and the
// answer says nothing of it.
func TestRevokeUnknownToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	_, _, base := d.working()
	actor := d.http(d.identity(keys.Operator{Name: "a", Roles: []keys.Role{keys.Actor}}).Certificate)
	before := d.svc.Log().Size()
	for _, tok := range []string{"x", base[:len(base)-3], base + "x", strings.Repeat("A.", 3000)} {
		if got := d.revoke(actor, tok); got.status != http.StatusOK || string(got.body) != "{}" {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	if d.svc.Log().Size() != before {
		t.Error("it is in the history")
	}
}
