package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// selfIssued is a client certificate of a key's own.
func selfIssued(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "work"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestTokenBoundToCertificate: a further token that is asked for over a connection with
// a client certificate is bound to it (RFC 8705), by introspection too, and is no
// credential here.
func TestTokenBoundToCertificate(t *testing.T) {
	t.Parallel()
	d := newDomain(t, serves)
	n, _, base := d.working()
	cert := selfIssued(t, nil)
	ask := func(c *http.Client, audience, id string) reply {
		req := n.request("")
		req.Audience, req.ID = audience, id
		body := req.Marshal()
		return d.ask(c, http.MethodPost, "/v1/tokens", mediaJSON, body, d.prove(proven{base: base, key: n.key, body: body}))
	}
	got := ask(d.http(cert), elsewhere, "bound-request-1")
	var g protocol.Grant
	if err := json.Unmarshal(got.body, &g); err != nil || got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	want := token.Confirm{X5T: token.CertificateThumbprint(cert.Certificate[0])}
	claims, err := token.Verify(g.Token, d.svc.TokenKeys(), token.Expect{Issuer: d.svc.Issuer(), Domain: d.name, Audience: elsewhere}, time.Now())
	if err != nil || claims.Confirm != want {
		t.Fatalf("bound to %+v, expected %+v (%v)", claims, want, err)
	}
	if got := ask(d.http(), elsewhere, "bound-request-1"); got.status == http.StatusOK {
		t.Error("the same request got another token without the certificate")
	}
	if got := ask(d.http(cert), d.svc.EnclaveAudience(), "bound-request-2"); got.status == http.StatusOK {
		t.Error("a token for the enclave is bound to a certificate")
	}

	party := d.http(d.identity(keys.Operator{Name: "party", Roles: []keys.Role{keys.RelyingParty}}).Certificate)
	got = d.ask(party, http.MethodPost, "/oauth2/introspect", mediaForm, []byte(url.Values{"token": {g.Token}}.Encode()))
	var said struct {
		Active bool
		Type   string            `json:"token_type"`
		Cnf    map[string]string `json:"cnf"`
	}
	if err := json.Unmarshal(got.body, &said); err != nil || !said.Active || said.Type != "Bearer" || len(said.Cnf) != 1 || said.Cnf["x5t#S256"] != want.X5T {
		t.Errorf("introspection: %s", got.body)
	}

	body := n.request("job").Marshal()
	if got := d.ask(d.http(cert), http.MethodPost, "/v1/tokens", mediaJSON, body, d.prove(proven{base: g.Token, key: n.key, body: body})); got.status != http.StatusUnauthorized {
		t.Errorf("a token bound to a certificate, with the node's proof: %d %s", got.status, got.body)
	}
	if got := d.ask(d.http(cert), http.MethodGet, "/v1/nodes", "", nil); got.status != http.StatusUnauthorized {
		t.Errorf("a key's own certificate as an operator's: %d %s", got.status, got.body)
	}
	if got := d.ask(d.http(cert), http.MethodGet, "/.well-known/jwks.json", "", nil); got.status != http.StatusOK {
		t.Errorf("what is public: %d", got.status)
	}
}

// TestSelfIssuedOperator: nobody becomes an operator by a certificate of their own.
func TestSelfIssuedOperator(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	for name, change := range map[string]func(*x509.Certificate){
		"an operator's names": func(c *x509.Certificate) {
			for _, s := range []string{"spiffe://" + d.name + "/operator/first", "tag:writ,2026:role/operator"} {
				u, err := url.Parse(s)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		},
		"a verifier's name": func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: d.name, Path: "/verifier/1"}}
		},
	} {
		if got, err := d.try(d.http(selfIssued(t, change)), http.MethodGet, "/v1/nodes", "", nil); err == nil {
			t.Errorf("%s: there is a connection: %d %s", name, got.status, got.body)
		}
	}
}
