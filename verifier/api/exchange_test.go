package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
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
	if err := json.Unmarshal(d.ask(d.http(), http.MethodGet, "/spiffe/bundle.json", "", nil).body, &bundle); err != nil || len(bundle.Keys) == 0 || bundle.Keys[len(bundle.Keys)-1].Use != "jwt-svid" {
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

// svids lets nodes have X509-SVIDs, and those of class grub be one workload.
var svids = option{service: func(c *verifier.Config) {
	c.IssueSVIDs, c.Workloads = true, map[string][]string{"workload/api": {"grub"}, "workload/other": {"uki"}}
}}

func svidRequest(t testing.TB, workload string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(protocol.SVIDRequest{Workload: workload, Key: der})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSVID: an X509-SVID is of the authority in the bundle, ends with the token, and is
// for nobody that the node may not vouch for; with its node's legitimacy it is over.
func TestSVID(t *testing.T) {
	t.Parallel()
	d := newDomain(t, svids)
	n, _, base := d.working()
	ask := func(body []byte) reply {
		return d.ask(d.http(), http.MethodPost, "/v1/svids", mediaJSON, body, d.prove(proven{base: base, key: n.key, body: body}))
	}
	var bundle struct {
		Keys []struct {
			Use string
			X5c [][]byte
		}
	}
	if err := json.Unmarshal(d.ask(d.http(), http.MethodGet, "/spiffe/bundle.json", "", nil).body, &bundle); err != nil || bundle.Keys[0].Use != "x509-svid" || len(bundle.Keys[0].X5c) != 1 {
		t.Fatalf("%+v %v", bundle, err)
	}
	roots := x509.NewCertPool()
	root, err := x509.ParseCertificate(bundle.Keys[0].X5c[0])
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	c := d.claims(base)
	for workload, id := range map[string]string{"": c.Subject, "workload/api": "spiffe://" + domainName + "/workload/api"} {
		var out protocol.SVID
		got := ask(svidRequest(t, workload))
		if err := json.Unmarshal(got.body, &out); err != nil || got.status != http.StatusOK || out.ID != id || out.Expires != c.Expires {
			t.Fatalf("%d %s", got.status, got.body)
		}
		leaf, err := x509.ParseCertificate(out.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil || leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != id || leaf.NotAfter.Unix() != c.Expires {
			t.Errorf("%v: %v until %v", err, leaf.URIs, leaf.NotAfter)
		}
	}
	for _, workload := range []string{"workload/other", "workload/none", "node/00", "../x", "verifier/1"} {
		if got := ask(svidRequest(t, workload)); got.status != http.StatusForbidden || got.code(t) != protocol.RequestRefused {
			t.Errorf("%s: %d %s", workload, got.status, got.body)
		}
	}
	if got := ask([]byte(`{"key":"AAAA"}`)); got.status != http.StatusForbidden {
		t.Errorf("no key: %d", got.status)
	}
	if _, err := d.first.SetStatus(t.Context(), n.id, protocol.StatusChange{Status: "suspended", Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	if got := ask(svidRequest(t, "")); got.status != http.StatusUnauthorized {
		t.Errorf("a suspended node: %d %s", got.status, got.body)
	}
	off := newDomain(t)
	m, _, held := off.working()
	body := svidRequest(t, "")
	if got := off.ask(off.http(), http.MethodPost, "/v1/svids", mediaJSON, body, off.prove(proven{base: held, key: m.key, body: body})); got.status != http.StatusForbidden || got.code(t) != protocol.RequestRefused {
		t.Errorf("where they are off: %d %s", got.status, got.body)
	}
}

// TestWorkloadBearer: a bearer token is for a workload only where the node's class may
// vouch for it.
func TestWorkloadBearer(t *testing.T) {
	t.Parallel()
	d := newDomain(t, exchanges, svids)
	n, c, base := d.working()
	for workload, subject := range map[string]string{"workload/api": "spiffe://" + domainName + "/workload/api", "workload/other": "", "workload/none": "", "node/00": ""} {
		out, err := c.Exchange(t.Context(), base, n.key, cloud, workload)
		if subject == "" {
			if err == nil {
				t.Errorf("%s: %+v", workload, out)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		tok, err := jwt.ParseSigned(out.Token, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		var claims jwt.Claims
		if err := tok.Claims(d.svc.TokenKeys().Key(tok.Headers[0].KeyID), &claims); err != nil || claims.Subject != subject {
			t.Errorf("%+v %v", claims, err)
		}
	}
}
