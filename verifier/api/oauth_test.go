package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

const elsewhere = "https://jobs.test.invalid"

// serves lets nodes ask for tokens for another audience.
var serves = option{service: func(c *verifier.Config) { c.Audiences = []string{elsewhere} }}

// party is a relying party that asks the handler itself: ten thousand requests over
// TLS would only measure TLS.
type party struct {
	*domain
	leaf *x509.Certificate
}

func (d *domain) party() party {
	d.t.Helper()
	id := d.identity(keys.Operator{Name: "party", Roles: []keys.Role{keys.RelyingParty}})
	leaf, err := x509.ParseCertificate(id.Certificate.Certificate[0])
	if err != nil {
		d.t.Fatal(err)
	}
	return party{d, leaf}
}

// active asks whether a token counts. Anything but a whole yes must be the one no.
func (d party) active(tok string) error {
	d.t.Helper()
	ctx := context.WithValue(context.WithValue(d.t.Context(), http.LocalAddrContextKey, d.address()), peerKey{}, &peer{})
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, d.url+"/oauth2/introspect", strings.NewReader(url.Values{"token": {tok}}.Encode()))
	req.Header.Set("Content-Type", mediaForm)
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{d.leaf}}
	rec := httptest.NewRecorder()
	d.srv.public.Handler.ServeHTTP(rec, req)
	r := rec.Result()
	var raw json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
		d.t.Fatal(err)
	}
	if tok == "" && r.StatusCode == http.StatusBadRequest {
		return errors.New("no token")
	}
	if r.StatusCode != http.StatusOK || r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Content-Type") != mediaJSON {
		d.t.Fatalf("%s %v %s", r.Status, r.Header, raw)
	}
	if string(raw) == `{"active":false}` {
		return errors.New("inactive")
	}
	var yes struct {
		Active             bool
		Iss, Sub, Aud, Jti string
		Type               string `json:"token_type"`
		Iat, Nbf, Exp      int64
		Cnf                struct{ JKT string }
	}
	if err := json.Unmarshal(raw, &yes); err != nil || !yes.Active || yes.Iss == "" || yes.Sub == "" || yes.Aud == "" || yes.Jti == "" ||
		yes.Type != "DPoP" || yes.Iat == 0 || yes.Nbf == 0 || yes.Exp == 0 || yes.Cnf.JKT == "" {
		d.t.Fatalf("a yes that is none: %s", raw)
	}
	return nil
}

// TestIntrospectHostileTokens: no bad token counts, and nothing is said of why.
func TestIntrospectHostileTokens(t *testing.T) {
	t.Parallel()
	d := newDomain(t, serves, lasting)
	n, base := d.seasoned()
	hostile.Refused(t, d.hostile(n, base), d.party().active)
}

// TestIntrospectEndedToken: a token counts for every audience the domain serves, and
// for none once it was ended.
func TestIntrospectEndedToken(t *testing.T) {
	t.Parallel()
	d := newDomain(t, serves)
	n, c, base := d.working()
	p := d.party()
	req := n.request("")
	req.Audience = elsewhere
	further, err := c.Token(t.Context(), base, n.key, req)
	if err != nil {
		t.Fatal(err)
	}
	for name, tok := range map[string]string{"base": base, "further": further.Token} {
		if err := p.active(tok); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	for name, tok := range map[string]string{"base": base, "further": further.Token} {
		if p.active(tok) == nil {
			t.Errorf("%s counts though its node is suspended", name)
		}
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "active", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	if p.active(base) == nil {
		t.Error("an ended token came back with its node")
	}
	fresh := n.mustGrant(c)
	if err := p.active(fresh); err != nil {
		t.Errorf("after the suspension: %v", err)
	}
	if _, err := d.first.Freeze(t.Context(), protocol.GovernanceChange{Frozen: true, Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	if p.active(fresh) == nil {
		t.Error("a token counts in a frozen domain")
	}
}

// TestIntrospectInForm: what is no form, or one in two readings, is refused with the
// errors of RFC 6749 and RFC 9457 at once.
func TestIntrospectInForm(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	c := d.http(d.identity(keys.Operator{Name: "party", Roles: []keys.Role{keys.RelyingParty}}).Certificate)
	for name, bad := range map[string]struct {
		media, body string
		code, oauth string
	}{
		"no token":      {mediaForm, "token_type_hint=access_token", codeMalformed, "invalid_request"},
		"given twice":   {mediaForm, "token=a&token=b", codeMalformed, "invalid_request"},
		"bad escape":    {mediaForm, "token=%zz", codeMalformed, "invalid_request"},
		"not UTF-8":     {mediaForm, "token=\xff", codeMalformed, "invalid_request"},
		"another media": {mediaJSON, `{"token":"a"}`, codeMediaType, "invalid_request"},
	} {
		got := d.ask(c, http.MethodPost, "/oauth2/introspect", bad.media, []byte(bad.body))
		var p struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		if err := json.Unmarshal(got.body, &p); err != nil || got.code(t) != bad.code || p.Error != bad.oauth || p.Description == "" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	got := d.ask(c, http.MethodPost, "/oauth2/introspect", mediaForm+"; charset=UTF-8", []byte("token=x&unknown=1"))
	if got.status != http.StatusOK || string(got.body) != `{"active":false}` {
		t.Errorf("an unknown parameter: %d %s", got.status, got.body)
	}
	got = d.ask(d.http(), http.MethodPost, "/oauth2/introspect", mediaForm, []byte("token=x"))
	if got.status != http.StatusUnauthorized || !strings.Contains(string(got.body), `"error":"invalid_client"`) {
		t.Errorf("a stranger: %d %s", got.status, got.body)
	}
}
