package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

var (
	_ attestor.Verifier = (*Client)(nil)
	_ attestor.Enroller = (*Client)(nil)
)

// authority makes certificates as a domain's does, and ones it never would.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// leaf makes a certificate with URI names.
func (a *authority) leaf(t *testing.T, use x509.ExtKeyUsage, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{use}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	for _, n := range names {
		u, err := url.Parse(n)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
}

// serve answers with a certificate and returns the URL.
func serve(t *testing.T, cert tls.Certificate, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// domain is a client of a verifier that answers with h.
func domain(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	a := newAuthority(t)
	c, err := New(Config{URL: serve(t, a.leaf(t, x509.ExtKeyUsageServerAuth, "spiffe://test.invalid/verifier/1"), h), CA: a.pem(), Domain: "test.invalid"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestNodeCertificateAsVerifier: whatever else the domain's authority signed, or
// another authority, is no verifier.
func TestNodeCertificateAsVerifier(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	const server = x509.ExtKeyUsageServerAuth
	for name, cert := range map[string]tls.Certificate{
		"a node's identity":           a.leaf(t, server, "spiffe://test.invalid/node/1"),
		"an operator's":               a.leaf(t, x509.ExtKeyUsageClientAuth, "spiffe://test.invalid/operator/first"),
		"a verifier's for clients":    a.leaf(t, x509.ExtKeyUsageClientAuth, "spiffe://test.invalid/verifier/1"),
		"a verifier of elsewhere":     a.leaf(t, server, "spiffe://other.invalid/verifier/1"),
		"a verifier below":            a.leaf(t, server, "spiffe://test.invalid/node/verifier/1"),
		"a host's":                    a.leaf(t, server),
		"two names":                   a.leaf(t, server, "spiffe://test.invalid/verifier/1", "spiffe://test.invalid/node/1"),
		"signed by another authority": other.leaf(t, server, "spiffe://test.invalid/verifier/1"),
	} {
		c, err := New(Config{URL: serve(t, cert, func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s: a request was sent", name) }), CA: a.pem(), Domain: "test.invalid"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Checkpoint(t.Context())
		if !errors.Is(err, ErrUnreachable) || !errors.Is(err, keys.ErrNotAVerifier) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

// TestJoinPinsTheAuthority: a join token is answered by its own domain alone.
func TestJoinPinsTheAuthority(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	pin, err := keys.PinOf(a.pem())
	if err != nil {
		t.Fatal(err)
	}
	join, err := keys.NewJoinToken(rand.Reader, pin)
	if err != nil {
		t.Fatal(err)
	}
	none := func(http.ResponseWriter, *http.Request) {}
	c, err := Join(t.Context(), serve(t, a.leaf(t, x509.ExtKeyUsageServerAuth, "spiffe://test.invalid/verifier/1"), none), join.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !bytes.Equal(c.CA(), a.pem()) || c.domain != "test.invalid" {
		t.Errorf("learnt %q and %s", c.domain, c.CA())
	}
	if _, err := Join(t.Context(), serve(t, other.leaf(t, x509.ExtKeyUsageServerAuth, "spiffe://test.invalid/verifier/1"), none), join.String()); !errors.Is(err, keys.ErrNotAVerifier) {
		t.Errorf("another authority: %v", err)
	}
	if _, err := Join(t.Context(), "https://127.0.0.1:1", "writ-join-1.x"); err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("a token that cannot be read: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	problem := func(status int, code, rest string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"type":"https://x.example/problems/%s","title":"T","status":%d,"detail":"D","instance":"i"%s}`, code, status, rest)
		}
	}
	for name, x := range map[string]struct {
		h       http.HandlerFunc
		refusal string
		code    string
	}{
		"refusal":              {h: problem(403, protocol.NotEnrolled, ""), refusal: protocol.NotEnrolled},
		"frozen is a word":     {h: problem(503, protocol.DomainFrozen, ""), refusal: protocol.DomainFrozen},
		"unknown is no word":   {h: problem(503, "outcome-unknown", ""), code: "outcome-unknown"},
		"busy is no word":      {h: problem(429, "rate-limited", ""), code: "rate-limited"},
		"clock is no word":     {h: problem(503, protocol.ClockUnsound, ""), code: protocol.ClockUnsound},
		"a proxy":              {h: func(w http.ResponseWriter, r *http.Request) { http.Error(w, "bad gateway", 502) }},
		"not found by a proxy": {h: func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 404) }},
		"no JSON":              {h: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }},
		"a redirect":           {h: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "https://127.0.0.1:1/", 307) }},
		"half": {h: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "{")
		}},
		"too much": {h: func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, maxAnswer+1)) }},
	} {
		c := domain(t, x.h)
		_, err := c.Challenge(t.Context(), protocol.ChallengeRequest{Node: "n"})
		var r *protocol.Refusal
		var u *Unreachable
		switch {
		case x.refusal != "":
			if !errors.As(err, &r) || r.Code != x.refusal || r.Detail != "D" || r.Denied != nil {
				t.Errorf("%s: %v", name, err)
			}
		case !errors.As(err, &u) || errors.As(err, &r) || u.Code != x.code || !strings.Contains(err.Error(), c.URL()):
			t.Errorf("%s: %v", name, err)
		case x.code != "" && u.After != 7*time.Second:
			t.Errorf("%s: try again after %s", name, u.After)
		}
	}
	c := domain(t, problem(403, protocol.PolicyDenied, `,"verdict":{"v":1},"receipt":"r","challenge":{"nonce":"AAAA","expires":"2026-01-01T00:00:00Z"},"events":["e"]`))
	_, err := c.Attest(t.Context(), []byte("{}"))
	var r *protocol.Refusal
	if !errors.As(err, &r) || r.Denied == nil || string(r.Denied.Verdict) != `{"v":1}` || r.Denied.Receipt != "r" || len(r.Denied.Challenge.Nonce) != 3 || !slices.Equal(r.Denied.Events, []string{"e"}) {
		t.Errorf("denied: %v %+v", err, r)
	}
}

// TestProxyOfTheEnvironment: where evidence goes is configured, not inherited.
func TestProxyOfTheEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("ALL_PROXY", "http://127.0.0.1:1")
	c := domain(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	if _, err := c.Checkpoint(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for _, bad := range []string{"", "127.0.0.1:8443", "http://x", "https://", "https://u:p@x", "https://x/path", "https://x?q", "https://x#f", "ftp://x"} {
		if _, err := New(Config{URL: bad, CA: a.pem(), Domain: "test.invalid"}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	for _, cfg := range []Config{{URL: "https://x"}, {URL: "https://x", CA: a.pem()}, {URL: "https://x", Domain: "test.invalid"}, {URL: "https://x", CA: []byte("x"), Domain: "test.invalid"}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		stream string
		want   []string
		fails  bool
	}{
		"one":                   {stream: ": alive\n\nevent: revocation\ndata: a.b.c\n\n", want: []string{"a.b.c"}},
		"CRLF":                  {stream: "event: revocation\r\ndata: a\r\n\r\n", want: []string{"a"}},
		"no space":              {stream: "event:revocation\ndata:a\n\n", want: []string{"a"}},
		"two lines":             {stream: "event: revocation\ndata: a\ndata: b\n\n", want: []string{"a\nb"}},
		"two events":            {stream: "event: revocation\ndata: a\n\nevent: revocation\ndata: b\n\n", want: []string{"a", "b"}},
		"another type":          {stream: "event: since\ndata: 1\n\ndata: x\n\n", want: []string{"1"}},
		"cut off":               {stream: "event: revocation\ndata: a\n"},
		"unknown fields":        {stream: "id: 1\nretry: 5\nx\nevent: revocation\ndata: a\n\n", want: []string{"a"}},
		"a line without end":    {stream: strings.Repeat("x", maxLine+1), fails: true},
		"an event without end":  {stream: strings.Repeat("data: "+strings.Repeat("x", 1000)+"\n", maxLine/1000), fails: true},
		"the type of one event": {stream: "event: revocation\n\ndata: a\n\n"},
	} {
		var got []string
		err := readEvents(strings.NewReader(x.stream), func() {}, func(_, e string) { got = append(got, e) })
		if (err != nil) != x.fails || !slices.Equal(got, x.want) {
			t.Errorf("%s: heard %q, %v; want %q", name, got, err, x.want)
		}
	}
}

// TestEventsThatAreNone: an answer of another kind is no stream.
func TestEventsThatAreNone(t *testing.T) {
	t.Parallel()
	c := domain(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "event: revocation\ndata: a\n\n") })
	key := newAuthority(t).key
	err := c.Events(context.Background(), "token", key, "n", func(_, e string) { t.Errorf("heard %q", e) })
	if !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
}
