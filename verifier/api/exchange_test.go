package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

const cloud = "sts.cloud.example"

// exchanges lets base tokens be exchanged for one audience.
var exchanges = option{service: func(c *verifier.Config) { c.Exchange = []string{cloud} }}

func exchangeForm(base, audience string) []byte {
	return []byte(url.Values{"grant_type": {protocol.GrantExchange}, "subject_token": {base}, "subject_token_type": {protocol.TypeJWT}, "audience": {audience}}.Encode())
}

// TestExchange: a bearer token for a listed audience verifies with the keys of the
// SPIFFE bundle, ends with the base token, has no key, and is no token of ours.
func TestExchange(t *testing.T) {
	t.Parallel()
	d := newDomain(t, exchanges)
	n, _, base := d.working()
	ask := func(form []byte) reply {
		return d.ask(d.http(), http.MethodPost, "/oauth2/token", mediaForm, form, d.prove(proven{base: base, key: n.key, body: form}))
	}
	got := ask(exchangeForm(base, cloud))
	var out protocol.Exchanged
	if err := json.Unmarshal(got.body, &out); err != nil || got.status != http.StatusOK || out.Type != "Bearer" || out.Issued != protocol.TypeJWT || got.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", got.status, got.body)
	}
	var bundle jose.JSONWebKeySet
	if err := json.Unmarshal(d.ask(d.http(), http.MethodGet, "/spiffe/bundle.json", "", nil).body, &bundle); err != nil || len(bundle.Keys) == 0 || bundle.Keys[0].Use != "jwt-svid" {
		t.Fatalf("%+v %v", bundle, err)
	}
	tok, err := jwt.ParseSigned(out.Token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	all := map[string]any{}
	if err := tok.Claims(bundle.Key(tok.Headers[0].KeyID)[0].Key, &claims, &all); err != nil {
		t.Fatal(err)
	}
	c := d.claims(base)
	if typ := tok.Headers[0].ExtraHeaders["typ"]; typ != "JWT" || claims.Subject != c.Subject || claims.Issuer != c.Issuer || !claims.Audience.Contains(cloud) || claims.Expiry.Time().Unix() != c.Expires || all["cnf"] != nil || all["writ"] != nil {
		t.Errorf("typ %v, %v", typ, all)
	}
	if d.party().active(out.Token) == nil {
		t.Error("a bearer token counts as a token of ours")
	}
	if _, err := token.Verify(out.Token, d.svc.TokenKeys(), token.Expect{Issuer: d.svc.Issuer(), Domain: d.name, Audience: cloud}, time.Now()); token.Code(err) != token.WrongType {
		t.Errorf("a bearer token as a token of ours: %v", err)
	}
	for name, bad := range map[string]struct{ old, new, code string }{
		"another audience": {cloud, "elsewhere.example", "invalid_target"},
		"another grant":    {"token-exchange", "other", "unsupported_grant_type"},
		"no subject":       {"subject_token=", "x=", "invalid_request"},
		"another subject":  {"subject_token=", "subject_token=x", "invalid_request"},
		"another type":     {"token-type%3Ajwt", "token-type%3Arefresh_token", "invalid_request"},
	} {
		got := ask([]byte(strings.Replace(string(exchangeForm(base, cloud)), bad.old, bad.new, 1)))
		if got.status != http.StatusBadRequest || !strings.Contains(string(got.body), `"error":"`+bad.code+`"`) {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	if got := ask(exchangeForm(base, cloud)); got.status != http.StatusUnauthorized {
		t.Errorf("of a suspended node: %d %s", got.status, got.body)
	}
}

// TestNoExchangeUnlessAllowed: off by default, and then not named in the metadata.
func TestNoExchangeUnlessAllowed(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, _, base := d.working()
	form := exchangeForm(base, cloud)
	got := d.ask(d.http(), http.MethodPost, "/oauth2/token", mediaForm, form, d.prove(proven{base: base, key: n.key, body: form}))
	if got.status != http.StatusBadRequest || !strings.Contains(string(got.body), `"error":"invalid_target"`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := d.ask(d.http(), http.MethodGet, "/.well-known/oauth-authorization-server", "", nil); strings.Contains(string(got.body), "token_endpoint") {
		t.Errorf("metadata names an exchange that is off: %s", got.body)
	}
}
