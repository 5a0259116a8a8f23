package api

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/store"
	"github.com/writ-attestation/writ/verifier/token"
)

// domain is a whole verifier on the loopback, with a real store and real TLS.
type domain struct {
	t     testing.TB
	name  string
	maker *maker
	keys  *keys.Keys
	svc   *verifier.Service
	srv   *Server
	url   string
	admin string
	first *client.Client // the first operator, who has all roles
	sign  ed25519.PrivateKey
	ahead atomic.Int64 // of every clock of the verifier, ns
	step  atomic.Int64 // of its wall clock, ns
}

type option struct {
	service func(*verifier.Config)
	server  func(*Config)
}

func newDomain(t testing.TB, opts ...option) *domain {
	t.Helper()
	d := &domain{t: t, name: "test.invalid", maker: newMaker(t), sign: ed25519.NewKeyFromSeed(make([]byte, 32))}
	dir, ctx, began := t.TempDir(), context.Background(), time.Now()
	now := func() time.Time { return time.Now().Add(time.Duration(d.ahead.Load() + d.step.Load())) }
	var err error
	if d.keys, err = keys.Open(dir, d.name, true, time.Now()); err != nil {
		t.Fatal(err)
	}
	st, err := store.OpenSQLite(ctx, filepath.Join(dir, "writ.db"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := ledger.Open(ctx, ledger.Config{Store: st, Origin: d.name + "/log", Key: d.keys.Log, GuardFile: filepath.Join(dir, "guard"), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(); st.Close() })
	cfg := verifier.Config{Domain: d.name, Name: "1", Issuer: "https://" + d.name, Build: "writ test", Log: log, Slog: slog.New(slog.DiscardHandler), Now: now,
		SinceBoot: func() time.Duration { return time.Since(began) + time.Duration(d.ahead.Load()) },
		EKRoots:   [][]byte{d.maker.root.Raw}, TokenKey: d.keys.Token, TokenKeyID: d.keys.TokenID(), TokenKeys: d.keys.TokenKeys(), ChallengeKey: d.keys.Challenge, KeyIDs: d.keys.IDs(),
		ReferenceKeys: []ed25519.PublicKey{d.sign.Public().(ed25519.PublicKey)}, ReferenceThreshold: 1, Approvals: 1, TokenLife: time.Minute, MinLevel: "E0"}
	api := Config{Keys: d.keys, Name: "1", Hosts: []string{"127.0.0.1", "localhost"}, Version: "test", Log: cfg.Slog, Now: now}
	for _, o := range opts {
		if o.service != nil {
			o.service(&cfg)
		}
		if o.server != nil {
			o.server(&api)
		}
	}
	if d.svc, err = verifier.New(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	api.Service = d.svc
	if d.srv, err = New(api); err != nil {
		t.Fatal(err)
	}
	d.url, d.admin = "https://"+d.listen(d.srv.Serve), "http://"+d.listen(d.srv.ServeAdmin)
	t.Cleanup(d.shutdown)
	d.first = d.as(keys.Operator{Name: "first", Roles: keys.AllRoles()})
	return d
}

// listen serves on a free port and returns the address.
func (d *domain) listen(serve func(net.Listener) error) string {
	d.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(l) }()
	d.t.Cleanup(func() {
		if err := <-ended; err != nil {
			d.t.Error(err)
		}
	})
	return l.Addr().String()
}

func (d *domain) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.srv.Shutdown(ctx); err != nil {
		d.t.Error(err)
	}
}

// identity makes an operator's file.
func (d *domain) identity(o keys.Operator) *keys.Identity {
	d.t.Helper()
	file, err := d.keys.IssueOperator(o, time.Hour, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	id, err := keys.ParseIdentity(file)
	if err != nil {
		d.t.Fatal(err)
	}
	return id
}

// as is a client with an operator's certificate.
func (d *domain) as(o keys.Operator) *client.Client {
	d.t.Helper()
	return d.client(client.Config{Operator: d.identity(o)})
}

// node is a client without a certificate.
func (d *domain) anybody() *client.Client {
	d.t.Helper()
	return d.client(client.Config{CA: d.keys.CA(), Domain: d.name})
}

func (d *domain) client(cfg client.Config) *client.Client {
	d.t.Helper()
	cfg.URL = d.url
	c, err := client.New(cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(c.Close)
	return c
}

// http is a plain HTTP client that trusts the domain, with or without a client
// certificate.
func (d *domain) http(certs ...tls.Certificate) *http.Client {
	d.t.Helper()
	conf := keys.ClientTLS(d.keys.Pin(), d.name, time.Now)
	if len(certs) > 0 { // sent whatever the server asks for
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
	}
	tr := &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 32}
	d.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// reply is an answer read whole.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// code is the problem's, after checking that it is a whole one.
func (r reply) code(t testing.TB) string {
	t.Helper()
	var p struct{ Type, Title, Instance string }
	if r.header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(r.body, &p) != nil || p.Title == "" || p.Instance != r.header.Get("X-Request-Id") {
		t.Fatalf("answer %d %s is no whole problem: %s", r.status, r.header.Get("Content-Type"), r.body)
	}
	if len(p.Type) <= len(problemBase) || p.Type[:len(problemBase)] != problemBase {
		t.Fatalf("problem type %q", p.Type)
	}
	return p.Type[len(problemBase):]
}

func (d *domain) ask(c *http.Client, method, path, media string, body []byte, change ...func(*http.Request)) reply {
	d.t.Helper()
	r, err := d.try(c, method, path, media, body, change...)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

func (d *domain) try(c *http.Client, method, path, media string, body []byte, change ...func(*http.Request)) (reply, error) {
	base := d.url
	if len(path) > 0 && path[0] != '/' { // a whole URL
		base = ""
	}
	req, err := http.NewRequest(method, base+path, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	for _, f := range change {
		f(req)
	}
	resp, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, b}, err
}

// learn publishes a reference set learnt from machines, over HTTPS.
func (d *domain) learn(class string, machines ...*node) {
	d.t.Helper()
	var samples []reference.Sample
	for _, n := range machines {
		nonce := bytes.Repeat([]byte{9}, 32)
		s := n.shot(nonce)
		s.purpose, s.node = evidence.Collection, "sample"
		ev, err := evidence.Parse(s.take(n))
		if err != nil {
			d.t.Fatal(err)
		}
		out, findings := appraisal.Examine(&appraisal.Input{Rules: appraisal.Rules, Evidence: ev, At: time.Now().Unix(),
			Challenge: appraisal.Challenge{Domain: d.name, Node: "sample", Nonce: nonce, Purpose: evidence.Collection, Binding: appraisal.BoundWrit},
			Prior:     appraisal.Prior{AK: n.ak.Marshal(), Generation: 1, EKCertificates: [][]byte{n.ek.Certificate}}})
		if len(findings) > 0 {
			d.t.Fatalf("%+v", findings)
		}
		samples = append(samples, out)
	}
	set, _, err := reference.Learn(class, samples, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	env, err := reference.Sign(set, d.sign)
	if err != nil {
		d.t.Fatal(err)
	}
	if p, err := d.first.Publish(context.Background(), env); err != nil || !p.Active {
		d.t.Fatalf("publishing: %+v %v", p, err)
	}
}

// working is a node that has its first token.
func (d *domain) working() (n *node, c *client.Client, base string) {
	d.t.Helper()
	n = d.machine("c-grub-sb")
	d.learn("grub", n)
	d.enrol(n, "grub")
	c = d.anybody()
	return n, c, n.mustGrant(c)
}

func (d *domain) claims(tok string) *token.Claims {
	d.t.Helper()
	c, err := token.Verify(tok, d.keys.TokenKeys(), token.Expect{Issuer: d.svc.Issuer(), Domain: d.name, Audience: d.svc.EnclaveAudience()}, time.Now().Add(time.Duration(d.ahead.Load())))
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}
