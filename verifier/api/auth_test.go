package api

import (
	"crypto"
	"crypto/rand"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// proven adds a token and a proof to a request. Fields that are set replace what
// would be right.
type proven struct {
	base, path, proof string
	key               crypto.Signer
	body              []byte
	at                time.Time
}

func (d *domain) prove(p proven) func(*http.Request) {
	return func(r *http.Request) {
		call := token.Call{Method: r.Method, URL: d.url + r.URL.Path, Token: p.base, Body: p.body}
		if p.path != "" {
			call.URL = p.path
		}
		if p.at.IsZero() {
			p.at = time.Now()
		}
		if p.proof == "" {
			var err error
			if p.proof, err = token.NewProof(call, p.key, p.at, rand.Reader); err != nil {
				d.t.Fatal(err)
			}
		}
		r.Header.Set("Authorization", "DPoP "+p.base)
		r.Header.Set("DPoP", p.proof)
	}
}

// TestRolesNeverFallBack walks the table with one operator of each role, and
// with nodes' credentials.
func TestRolesNeverFallBack(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, _, base := d.working()
	for _, role := range keys.AllRoles() {
		o := keys.Operator{Name: string(role), Roles: []keys.Role{role}}
		c := d.http(d.identity(o).Certificate)
		for _, r := range d.srv.publicRoutes() {
			var body []byte
			if r.in != "" {
				body = []byte("{}")
			}
			if r.stream && r.auth == operator && o.May(r.roles...) {
				continue // it does not end: TestFeed
			}
			if r.page != "" {
				continue // closed, whoever asks: TestClosedPageTellsNothing
			}
			got := d.ask(c, r.method, r.sample(), r.in, body)
			switch {
			case r.auth == public || ((r.auth == operator || r.auth == holder) && o.May(r.roles...)):
				if got.status == http.StatusUnauthorized || (got.status == http.StatusForbidden && r.name != "freeze") {
					t.Errorf("%s: %s %s: %d %s", role, r.method, r.path, got.status, got.body)
				}
			case r.auth == operator, r.auth == holder:
				if got.status != http.StatusForbidden || got.code(t) != codeRole {
					t.Errorf("%s: %s %s: %d %s, want %s", role, r.method, r.path, got.status, got.body, codeRole)
				}
			default: // an operator's certificate is no node's credential, nor as good as none
				if got.status != http.StatusUnauthorized || got.code(t) != codeUnauthenticated {
					t.Errorf("%s: %s %s: %d %s, want %s", role, r.method, r.path, got.status, got.body, codeUnauthenticated)
				}
			}
		}
	}
	for _, r := range d.srv.publicRoutes() {
		if r.auth == nodeKey || r.auth == endedKey || r.auth == holder || r.page != "" {
			continue
		}
		got := d.ask(d.http(), r.method, r.sample(), r.in, nil, d.prove(proven{base: base, key: n.key}))
		if got.status != http.StatusUnauthorized || got.code(t) != codeUnauthenticated {
			t.Errorf("a node's token at %s %s: %d %s", r.method, r.path, got.status, got.body)
		}
	}
}

// TestFreezeAndUnfreezeAreTwoRoles: who may close may not open.
func TestFreezeAndUnfreezeAreTwoRoles(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	actor := d.as(keys.Operator{Name: "a", Roles: []keys.Role{keys.Actor}})
	approver := d.as(keys.Operator{Name: "b", Roles: []keys.Role{keys.Approver}})
	if _, err := approver.Freeze(t.Context(), protocol.GovernanceChange{Frozen: true, Reason: "x"}); err == nil {
		t.Error("an approver froze the domain")
	}
	if g, err := actor.Freeze(t.Context(), protocol.GovernanceChange{Frozen: true, Reason: "x"}); err != nil || !g.Frozen {
		t.Fatal(g, err)
	}
	if got := d.ask(http.DefaultClient, http.MethodGet, d.admin+"/readyz", "", nil); got.status != http.StatusServiceUnavailable || !strings.Contains(string(got.body), "[-]governance failed") {
		t.Errorf("frozen, but readyz says %d %s", got.status, got.body)
	}
	_, err := actor.Freeze(t.Context(), protocol.GovernanceChange{Reason: "x"})
	refused(t, err, codeRole)
	if g, err := approver.Freeze(t.Context(), protocol.GovernanceChange{Reason: "x"}); err != nil || g.Frozen {
		t.Fatal(g, err)
	}
}

// TestForeignOperator: a certificate of another domain's operator CA ends the
// connection, also for what is public.
func TestForeignOperator(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	other, err := keys.Open(t.TempDir(), d.name, true, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	file, err := other.IssueOperator(keys.Operator{Name: "first", Roles: keys.AllRoles()}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := keys.ParseIdentity(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/nodes", "/v1/domain"} {
		if got, err := d.try(d.http(id.Certificate), http.MethodGet, path, "", nil); err == nil {
			t.Errorf("%s answered %d to a certificate of another CA", path, got.status)
		}
	}
}

// TestExpiredOperatorOnAnOldConnection: a connection outlives no certificate.
func TestExpiredOperatorOnAnOldConnection(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	c := d.http(d.identity(keys.Operator{Name: "v", Roles: []keys.Role{keys.Viewer}}).Certificate)
	if got := d.ask(c, http.MethodGet, "/v1/nodes", "", nil); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	d.ahead.Store(int64(2 * time.Hour))
	if got := d.ask(c, http.MethodGet, "/v1/nodes", "", nil); got.status != http.StatusUnauthorized {
		t.Errorf("an hour after it expired: %d %s", got.status, got.body)
	}
}

// TestActorIsTheCertificate: the history names who acted, from the certificate.
func TestActorIsTheCertificate(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	alice := d.as(keys.Operator{Name: "alice", Roles: []keys.Role{keys.Actor}})
	if _, err := alice.MintJoinToken(t.Context(), protocol.NewJoinToken{Class: "grub"}); err != nil {
		t.Fatal(err)
	}
	page, err := d.first.Audit(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	last := string(page.Entries[len(page.Entries)-1].Leaf)
	if want := `"actor":"` + subjectOf(d.name, "operator/alice") + `"`; !strings.Contains(last, want) || !strings.Contains(last, "join-token.created") {
		t.Errorf("last entry %s, want %s", last, want)
	}
}

// TestReplayedProof: a proof that was overheard is good for nothing.
func TestReplayedProof(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, _, base := d.working()
	body := n.request("job").Marshal()
	proof, err := token.NewProof(token.Call{Method: http.MethodPost, URL: d.url + "/v1/tokens", Token: base, Body: body}, n.key, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{http.StatusOK, http.StatusUnauthorized} {
		got := d.ask(d.http(), http.MethodPost, "/v1/tokens", mediaJSON, body, d.prove(proven{base: base, proof: proof}))
		if got.status != want {
			t.Fatalf("use %d: %d %s, want %d", i+1, got.status, got.body, want)
		}
		if want == http.StatusUnauthorized && !strings.HasPrefix(got.header.Get("WWW-Authenticate"), `DPoP error="invalid_dpop_proof"`) {
			t.Errorf("WWW-Authenticate: %q", got.header.Get("WWW-Authenticate"))
		}
	}
}

// TestProofs tries every proof and token that is not the right one.
func TestProofs(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, _, base := d.working()
	body := n.request("job").Marshal()
	other := p256(t)
	forge := func(change func(*token.Claims), key crypto.Signer) string {
		c := *d.claims(base)
		change(&c)
		tok, err := token.Issue(c, key, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	for name, p := range map[string]proven{
		"for another path":      {base: base, key: n.key, body: body, path: d.url + "/v1/stops"},
		"for another verifier":  {base: base, key: n.key, body: body, path: "https://other.example/v1/tokens"},
		"for another port":      {base: base, key: n.key, body: body, path: "https://127.0.0.1:1/v1/tokens"},
		"for another body":      {base: base, key: n.key, body: n.request("other").Marshal()},
		"without a body digest": {base: base, key: n.key},
		"of long ago":           {base: base, key: n.key, body: body, at: time.Now().Add(-2 * token.ProofWindow)},
		"of the future":         {base: base, key: n.key, body: body, at: time.Now().Add(2 * token.ProofWindow)},
		"by another key":        {base: base, key: other, body: body},
		"not a proof":           {base: base, proof: "x.y.z"},
		"the token as a proof":  {base: base, proof: base},
		"no token":              {base: "", key: n.key, body: body},
		"by another issuer":     {base: forge(func(*token.Claims) {}, p256(t)), key: n.key, body: body},
		"for another audience":  {base: forge(func(c *token.Claims) { c.Audience = "https://other.example" }, tokenKey(d)), key: n.key, body: body},
		"expired":               {base: forge(func(c *token.Claims) { c.IssuedAt, c.NotBefore, c.Expires = 1000, 1000, 1060 }, tokenKey(d)), key: n.key, body: body},
		"bound to another key": {base: forge(func(c *token.Claims) {
			c.Confirm.JKT, _ = token.Thumbprint(other.Public())
		}, tokenKey(d)), key: n.key, body: body},
	} {
		got := d.ask(d.http(), http.MethodPost, "/v1/tokens", mediaJSON, body, d.prove(p))
		if got.status != http.StatusUnauthorized || !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "DPoP ") {
			t.Errorf("proof %s: %d %s", name, got.status, got.body)
		}
	}
	right := d.prove(proven{base: base, key: n.key, body: body})
	for name, change := range map[string]func(*http.Request){
		"two proofs": func(r *http.Request) { right(r); r.Header.Add("DPoP", r.Header.Get("DPoP")) },
		"two tokens": func(r *http.Request) { right(r); r.Header.Add("Authorization", r.Header.Get("Authorization")) },
		"as bearer":  func(r *http.Request) { right(r); r.Header.Set("Authorization", "Bearer "+base) },
		"no proof":   func(r *http.Request) { right(r); r.Header.Del("DPoP") },
	} {
		if got := d.ask(d.http(), http.MethodPost, "/v1/tokens", mediaJSON, body, change); got.status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if got := d.ask(d.http(), http.MethodPost, "/v1/tokens", mediaJSON, body, right); got.status != http.StatusOK {
		t.Errorf("the right one: %d %s", got.status, got.body)
	}
}

// TestTokenOfARevokedNode: the status is looked at, not only the signature.
func TestTokenOfARevokedNode(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Token(t.Context(), base, n.key, n.request("job"))
	refused(t, err, protocol.TokenRevoked)
	if _, err := n.attest(c); err == nil {
		t.Error("a suspended node got a token")
	}
	if _, err := c.Stopped(t.Context(), base, n.key, stopOf("job")); err != nil {
		t.Errorf("the end of its work is not recorded: %v", err)
	}
}

// TestNoOperatorWithoutCertificate: the tool's error is a refusal, not silence.
func TestNoOperatorWithoutCertificate(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	_, err := d.client(client.Config{CA: d.keys.CA(), Domain: d.name}).Nodes(t.Context(), "", 0)
	refused(t, err, codeUnauthenticated)
}
