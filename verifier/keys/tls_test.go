package keys_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/keys"
)

// clock is the time that the server under test is told.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

// serve answers with who the client was.
func serve(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			io.WriteString(w, "nobody")
			return
		}
		o, err := keys.OperatorOf(r.TLS.PeerCertificates[0], domain)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		io.WriteString(w, o.Name)
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "https://" + l.Addr().String()
}

func get(t *testing.T, url string, cfg *tls.Config) (string, *tls.ConnectionState, error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp.TLS, err
}

func serverTLS(t *testing.T, k *keys.Keys, now func() time.Time) *tls.Config {
	t.Helper()
	cfg, err := k.ServerTLS("1", []string{"localhost", "127.0.0.1"}, now)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestTLS(t *testing.T) {
	data := t.TempDir()
	k := open(t, data, true)
	addr := serve(t, serverTLS(t, k, time.Now))
	for _, d := range []string{domain, ""} {
		who, state, err := get(t, addr, keys.ClientTLS(k.Pin(), d, time.Now))
		if err != nil || who != "nobody" {
			t.Fatalf("without a certificate, domain %q: %q, %v", d, who, err)
		}
		if pin, err := keys.PinOf(keys.PinnedCA(state)); err != nil || pin != k.Pin() {
			t.Errorf("learnt the CA %x, expected %x (%v)", pin, k.Pin(), err)
		}
	}
	id, err := keys.ParseIdentity(read(t, data, keys.OperatorFile))
	if err != nil {
		t.Fatal(err)
	}
	if who, _, err := get(t, addr, keys.ClientTLS(id.Pin, id.Domain, time.Now, id.Certificate)); err != nil || who != "first" {
		t.Errorf("as the first operator: %q, %v", who, err)
	}
	// Any TLS client works with the same file, by host name.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.CA())
	if who, _, err := get(t, addr, &tls.Config{RootCAs: roots}); err != nil || who != "nobody" {
		t.Errorf("a client that knows nothing of SPIFFE: %q, %v", who, err)
	}
}

// TestFalseVerifier: who has a certificate, even of this domain, is no verifier
// for that (security rule 11).
func TestFalseVerifier(t *testing.T) {
	data := t.TempDir()
	k, other := open(t, data, true), open(t, t.TempDir(), true)
	operator, err := keys.ParseIdentity(read(t, data, keys.OperatorFile))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := keys.Open(t.TempDir(), "other.example.org", true, at)
	if err != nil {
		t.Fatal(err)
	}
	withCA := func(c tls.Certificate) *tls.Config { // a server that sends along the CA it was not signed by
		ca := serverTLS(t, k, time.Now)
		own, err := ca.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificate = [][]byte{c.Certificate[0], own.Certificate[1]}
		return &tls.Config{Certificates: []tls.Certificate{c}}
	}
	for name, x := range map[string]struct {
		server *tls.Config
		pin    keys.Pin
		domain string
	}{
		"another CA of the same name": {serverTLS(t, other, time.Now), k.Pin(), domain},
		"another domain":              {serverTLS(t, elsewhere, time.Now), elsewhere.Pin(), domain},
		"an operator":                 {withCA(operator.Certificate), k.Pin(), domain},
		"self-signed":                 {withCA(selfSigned(t)), k.Pin(), domain},
		"without its CA":              {&tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}, k.Pin(), domain},
		"no pin":                      {serverTLS(t, k, time.Now), keys.Pin{}, domain},
	} {
		if _, _, err := get(t, serve(t, x.server), keys.ClientTLS(x.pin, x.domain, time.Now)); !errors.Is(err, keys.ErrNotAVerifier) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFalseOperator: a certificate that fails is not as good as none (security
// rule 4).
func TestFalseOperator(t *testing.T) {
	otherData := t.TempDir()
	k := open(t, t.TempDir(), true)
	open(t, otherData, true)
	addr := serve(t, serverTLS(t, k, time.Now))
	stranger, err := keys.ParseIdentity(read(t, otherData, keys.OperatorFile))
	if err != nil {
		t.Fatal(err)
	}
	expired, err := k.IssueOperator(keys.Operator{Name: "late", Roles: keys.AllRoles()}, time.Second, at.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	late, err := keys.ParseIdentity(expired)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := serverTLS(t, k, time.Now).GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]tls.Certificate{"operator of another CA": stranger.Certificate, "expired": late.Certificate, "self-signed": selfSigned(t), "a verifier": *leaf} {
		cfg := keys.ClientTLS(k.Pin(), domain, time.Now)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
		if who, _, err := get(t, addr, cfg); err == nil {
			t.Errorf("%s: answered as %q", name, who)
		}
	}
}

func TestCertificateRenewal(t *testing.T) {
	k := open(t, t.TempDir(), true)
	c := &clock{at}
	cfg := serverTLS(t, k, c.now)
	serial := func() *big.Int {
		cert, err := cfg.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.Leaf.VerifyHostname("127.0.0.1"); err != nil || c.at.Before(cert.Leaf.NotBefore) || c.at.After(cert.Leaf.NotAfter) {
			t.Errorf("at %s the certificate is for %v, %s to %s", c.at, cert.Leaf.DNSNames, cert.Leaf.NotBefore, cert.Leaf.NotAfter)
		}
		return cert.Leaf.SerialNumber
	}
	first := serial()
	c.at = at.AddDate(0, 0, 19)
	if serial().Cmp(first) != 0 {
		t.Error("the certificate was replaced though most of its life is left")
	}
	for _, days := range []int{21, 400, -3} {
		before := serial()
		if c.at = at.AddDate(0, 0, days); serial().Cmp(before) == 0 {
			t.Errorf("after %d days the certificate was not replaced", days)
		}
	}
}

func TestOperator(t *testing.T) {
	k := open(t, t.TempDir(), true)
	b, err := k.IssueOperator(keys.Operator{Name: "alice", Roles: []keys.Role{keys.Viewer, keys.Approver}}, time.Hour, at)
	if err != nil {
		t.Fatal(err)
	}
	id, err := keys.ParseIdentity(b)
	if err != nil {
		t.Fatal(err)
	}
	o, err := keys.OperatorOf(id.Certificate.Leaf, domain)
	if err != nil || o.Name != "alice" || !slices.Equal(o.Roles, []keys.Role{keys.Viewer, keys.Approver}) {
		t.Errorf("the certificate says %+v, %v", o, err)
	}
	if !o.May(keys.Actor, keys.Approver) || o.May(keys.Actor, keys.Auditor) || o.May() || (keys.Operator{}).May(keys.AllRoles()...) {
		t.Errorf("%+v may what it may not, or may not what it may", o)
	}
	if o, err := keys.OperatorOf(id.Certificate.Leaf, "other.example.org"); err == nil {
		t.Errorf("an operator of another domain: %+v", o)
	}
	for _, o := range []keys.Operator{{}, {Name: "alice"}, {Name: "a/b", Roles: keys.AllRoles()}, {Name: "alice", Roles: []keys.Role{"root"}}, {Name: "alice", Roles: []keys.Role{keys.Viewer, keys.Viewer}}} {
		if _, err := k.IssueOperator(o, time.Hour, at); err == nil {
			t.Errorf("issued a certificate for %+v", o)
		}
	}
	for name, names := range map[string][]string{
		"no names":   {},
		"no role":    {"spiffe://prod.example.org/operator/a"},
		"two people": {"spiffe://prod.example.org/operator/a", "spiffe://prod.example.org/operator/b", "tag:writ,2026:role:viewer"},
		"a verifier": {"spiffe://prod.example.org/verifier/1"},
		"a node":     {"spiffe://prod.example.org/node/1", "tag:writ,2026:role:viewer"},
		"more":       {"spiffe://prod.example.org/operator/a", "tag:writ,2026:role:viewer", "https://example.org"},
	} {
		var cert x509.Certificate
		for _, n := range names {
			u, err := url.Parse(n)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		if o, err := keys.OperatorOf(&cert, domain); err == nil {
			t.Errorf("%s: %+v", name, o)
		}
	}
	for _, bad := range [][]byte{nil, b[:len(b)/2], append(b, b...), k.CA()} {
		if _, err := keys.ParseIdentity(bad); err == nil {
			t.Errorf("read an operator from %s", bad)
		}
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: at.Add(-time.Hour), NotAfter: at.Add(time.Hour), DNSNames: []string{"localhost"},
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain, Path: "/verifier/1"}, {Scheme: "spiffe", Host: domain, Path: "/operator/root"}}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
