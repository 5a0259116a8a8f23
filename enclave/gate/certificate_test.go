package gate

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/token"
)

// certificate is a client certificate of a key's own.
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key := newKey(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func pemOf(c tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

// boundTo is a token bound to a client certificate.
func (w *world) boundTo(c tls.Certificate) string {
	return w.token(func(claims *token.Claims) {
		claims.Confirm = token.Confirm{X5T: token.CertificateThumbprint(c.Certificate[0])}
	})
}

// TestTokenStolenToAnotherCertificate: a token that is bound to a client certificate
// passes over a connection with that one, and over no other, by no other proof, and
// nowhere if the gate does not know certificates.
func TestTokenStolenToAnotherCertificate(t *testing.T) {
	w := newWorld(t)
	w.cfg.Certificates = true
	mine, thiefs := certificate(t), certificate(t)
	tok := w.boundTo(mine)
	g := w.gate()
	escaped := func(c tls.Certificate) string { return url.PathEscape(pemOf(c)) }
	ask := func(g *Gate, header map[string]string) int {
		r := httptest.NewRequest("GET", "http://127.0.0.1/v1/authz", nil)
		r.Header.Set("X-Original-Method", "GET")
		r.Header.Set("X-Original-URI", "/things")
		for name, value := range header {
			r.Header.Set(name, value)
		}
		rec := httptest.NewRecorder()
		g.Handler().ServeHTTP(rec, r)
		return rec.Code
	}
	if code := ask(g, map[string]string{"Authorization": "Bearer " + tok, escapedCertHeader: escaped(mine)}); code != 204 {
		t.Fatalf("with its certificate: %d", code)
	}
	for name, header := range map[string]map[string]string{
		"another certificate":                 {"Authorization": "Bearer " + tok, escapedCertHeader: escaped(thiefs)},
		"no certificate":                      {"Authorization": "Bearer " + tok},
		"an empty one":                        {"Authorization": "Bearer " + tok, escapedCertHeader: ""},
		"no PEM":                              {"Authorization": "Bearer " + tok, escapedCertHeader: "x"},
		"two in one":                          {"Authorization": "Bearer " + tok, escapedCertHeader: escaped(thiefs) + escaped(mine)},
		"the other header":                    {"Authorization": "Bearer " + tok, clientCertHeader: ":" + base64.StdEncoding.EncodeToString(mine.Certificate[0]) + ":"},
		"a proof in its place":                {"Authorization": "DPoP " + tok, "DPoP": w.proof(w.agent, tok, "GET", origin+"/things")},
		"a token that is bound to a key":      {"Authorization": "Bearer " + w.token(nil), escapedCertHeader: escaped(mine)},
		"a token of another issuer":           {"Authorization": "Bearer " + newWorld(t).boundTo(mine), escapedCertHeader: escaped(mine)},
		"the token as DPoP, with its own one": {"Authorization": "DPoP " + tok, escapedCertHeader: escaped(mine)},
	} {
		if code := ask(g, header); code != 401 {
			t.Errorf("%s: %d, expected 401", name, code)
		}
	}
	// Every bad token, by this entrance too.
	c := w.claims()
	c.Confirm = token.Confirm{X5T: token.CertificateThumbprint(mine.Certificate[0])}
	hostile.Refused(t, &hostile.World{Issuer: w.issuer, Holder: w.agent, Claims: c, At: w.cfg.Now()}, func(tok string) error {
		if code := ask(g, map[string]string{"Authorization": "Bearer " + tok, escapedCertHeader: escaped(mine)}); code != 204 {
			return fmt.Errorf("%d", code)
		}
		return nil
	})
	w.cfg.Certificates = false
	if code := ask(w.gate(), map[string]string{"Authorization": "Bearer " + tok, escapedCertHeader: escaped(mine)}); code != 401 {
		t.Errorf("a gate that knows no certificates: %d", code)
	}
	w.cfg.Certificates, w.cfg.Proxy = true, Caddy
	g = w.gate()
	for value, want := range map[string]int{":" + base64.StdEncoding.EncodeToString(mine.Certificate[0]) + ":": 204, ":" + base64.StdEncoding.EncodeToString(thiefs.Certificate[0]) + ":": 401, "::": 401, "": 401, ":x": 401} {
		if code := ask(g, map[string]string{"Authorization": "Bearer " + tok, clientCertHeader: value, "X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/things"}); code != want {
			t.Errorf("Client-Cert %.20q: %d, expected %d", value, code, want)
		}
	}
	w.cfg.Proxy, w.cfg.Upstream = "", &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	if _, err := New(w.cfg); err == nil {
		t.Error("a gate believes clients what certificate they have")
	}
}

// TestNginxNamesTheCertificate: a real nginx, configured as documented, tells the gate
// the certificate of the connection, whatever the client says of it.
func TestNginxNamesTheCertificate(t *testing.T) {
	w := newWorld(t)
	w.cfg.Now, w.cfg.Certificates = time.Now, true
	var reached atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	t.Cleanup(service.Close)
	front := httptest.NewServer(w.gate().Handler())
	t.Cleanup(front.Close)
	locations := strings.NewReplacer("127.0.0.1:8480", front.Listener.Addr().String(), "127.0.0.1:8080", service.Listener.Addr().String()).Replace(documented(t, "nginx:"))
	dir := t.TempDir()
	server := certificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"cert.pem": pemOf(server), "key.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tlsOf := "listen unix:" + dir + "/tls ssl;\nssl_certificate cert.pem;\nssl_certificate_key key.pem;\nssl_verify_client optional_no_ca;\n"
	startNginx(t, dir, map[string]string{"plain": tlsOf + locations})

	mine, thiefs := certificate(t), certificate(t)
	tok := w.boundTo(mine)
	get := func(with *tls.Certificate, header map[string]string) int {
		t.Helper()
		tr := &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "tls"))
			},
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if with == nil {
					return new(tls.Certificate), nil
				}
				return with, nil
			}},
		}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest("GET", "https://localhost/things", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok)
		for name, value := range header {
			req.Header.Set(name, value)
		}
		res, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if code := get(&mine, nil); code != 200 || reached.Load() != 1 {
		t.Errorf("with its certificate: %d, reached %d times", code, reached.Load())
	}
	said := map[string]string{escapedCertHeader: url.PathEscape(pemOf(mine)), clientCertHeader: ":" + base64.StdEncoding.EncodeToString(mine.Certificate[0]) + ":"}
	for name, with := range map[string]*tls.Certificate{"another certificate": &thiefs, "none": nil} {
		for _, header := range []map[string]string{nil, said} {
			if code := get(with, header); code != 401 {
				t.Errorf("with %s, saying %v: %d", name, header != nil, code)
			}
		}
	}
	if reached.Load() != 1 {
		t.Error("a stolen token reached the service")
	}
}
