package api

import (
	"net/http"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestRevokedOperatorCertificate: a certificate that was stolen is refused everywhere
// from the moment on at which enough operators agree, by connections, sessions, codes
// and streams that began before; and nobody throws another out alone.
func TestRevokedOperatorCertificate(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"), option{service: func(c *verifier.Config) { c.Approvals = 2 }})
	alice := d.as(keys.Operator{Name: "alice", Roles: []keys.Role{keys.Approver}})
	stolen := d.identity(keys.Operator{Name: "bob", Roles: keys.AllRoles()})
	bob, bare := d.client(client.Config{Operator: stolen}), d.http(stolen.Certificate)
	b := d.browser()
	b.signIn(bob)
	code, err := bob.SignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	opened, ended := make(chan struct{}, 16), make(chan error, 1)
	go func() {
		ended <- bob.Feed(t.Context(), func() {}, func(string, string) { opened <- struct{}{} })
	}()
	wait(t, "the feed", opened)

	works := func(when string) {
		t.Helper()
		if _, err := bob.Nodes(t.Context(), "", 0); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	revoke := func(c *client.Client, who string, want bool) {
		t.Helper()
		out, err := c.RevokeOperator(t.Context(), protocol.OperatorRevocation{Operator: who, Reason: "laptop stolen"})
		if err != nil || out.Revoked != want || out.Needed != 2 {
			t.Fatalf("revoking %s: %+v, %v", who, out, err)
		}
	}
	revoke(d.first, "bob", false)
	works("one operator has agreed")
	revoke(d.first, "bob", false)
	works("the same has agreed twice")
	revoke(alice, "bob", true)

	_, err = bob.Nodes(t.Context(), "", 0)
	refused(t, err, codeUnauthenticated)
	_, err = bob.RevokeOperator(t.Context(), protocol.OperatorRevocation{Operator: "alice", Reason: "revenge"})
	refused(t, err, codeUnauthenticated)
	if got := d.ask(bare, http.MethodGet, "/log/checkpoint", "", nil); got.status != http.StatusUnauthorized {
		t.Errorf("for what is public it passes for no certificate: %d", got.status)
	}
	if got := b.send(http.MethodGet, consolePath, nil); got.status != http.StatusUnauthorized || got.code(t) != codeSession {
		t.Errorf("its session lives on: %d %s", got.status, got.body)
	}
	if got := d.browser().send(http.MethodPost, "/v1/sessions", protocol.SignInCode{Code: code.Code}); got.status != http.StatusUnauthorized {
		t.Errorf("its code signs in: %d %s", got.status, got.body)
	}
	wait(t, "the end of its feed", ended)
	if _, err := alice.Nodes(t.Context(), "", 0); err != nil {
		t.Errorf("alice: %v", err)
	}
	d.reissued(keys.Operator{Name: "bob", Roles: []keys.Role{keys.Viewer}})
}

// reissued gives a revoked name another certificate, which counts only if it was made
// after that.
func (d *domain) reissued(o keys.Operator) {
	d.t.Helper()
	_, err := d.as(o).Nodes(d.t.Context(), "", 0) // backdated, as all are
	refused(d.t, err, codeUnauthenticated)
	list, err := d.first.RevokedOperators(d.t.Context())
	if err != nil || len(list) != 1 || list[0].Operator != o.Name {
		d.t.Fatalf("revoked are %+v, %v", list, err)
	}
	at := time.Unix(list[0].At, 0)
	if _, err := d.keys.ReissueOperator(o, time.Hour, at, at); err == nil {
		d.t.Error("a certificate was made that is revoked already")
	}
	file, err := d.keys.ReissueOperator(o, time.Hour, at.Add(2*time.Second), at)
	if err != nil {
		d.t.Fatal(err)
	}
	id, err := keys.ParseIdentity(file)
	if err != nil {
		d.t.Fatal(err)
	}
	d.ahead.Add(int64(3 * time.Second))
	if _, err := d.client(client.Config{Operator: id}).Nodes(d.t.Context(), "", 0); err != nil {
		d.t.Errorf("the certificate made since: %v", err)
	}
}

// TestOperatorRevokesOnlyItself: whose certificate it is needs nobody else to end it,
// and no role to do so; for all others it takes approvers.
func TestOperatorRevokesOnlyItself(t *testing.T) {
	t.Parallel()
	d := newDomain(t, option{service: func(c *verifier.Config) { c.Approvals = 2 }})
	viewer := d.as(keys.Operator{Name: "carol", Roles: []keys.Role{keys.Viewer}})
	_, err := viewer.RevokeOperator(t.Context(), protocol.OperatorRevocation{Operator: "first"})
	refused(t, err, codeRole)
	if out, err := viewer.RevokeOperator(t.Context(), protocol.OperatorRevocation{Operator: "carol", Reason: "lost"}); err != nil || !out.Revoked {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err = viewer.Nodes(t.Context(), "", 0)
	refused(t, err, codeUnauthenticated)
}
