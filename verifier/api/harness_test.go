package api

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
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
	d := &domain{t: t, name: domainName, maker: newMaker(t), sign: signer()}
	now := func() time.Time { return time.Now().Add(time.Duration(d.ahead.Load() + d.step.Load())) }
	began := time.Now()
	clocks := option{service: func(c *verifier.Config) {
		c.Now, c.SinceBoot = now, func() time.Duration { return time.Since(began) + time.Duration(d.ahead.Load()) }
	}, server: func(c *Config) { c.Now = now }}
	v, err := open(t.TempDir(), d.maker.root.Raw, append([]option{clocks}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.close)
	d.keys, d.svc, d.srv = v.keys, v.svc, v.srv
	d.url, d.admin = "https://"+d.listen(d.srv.Serve), "http://"+d.listen(d.srv.ServeAdmin)
	t.Cleanup(d.shutdown)
	d.first = d.as(keys.Operator{Name: "first", Roles: keys.AllRoles()})
	return d
}

const domainName = "test.invalid"

// sparePCR is one that nothing of the recorded boots is in, and that the learnt
// sets do not judge.
const sparePCR = 15

// signer signs reference sets.
func signer() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, 32)) }

// running is a verifier that does not listen yet.
type running struct {
	keys  *keys.Keys
	svc   *verifier.Service
	srv   *Server
	close func()
}

// open opens a verifier in a directory, on a real store.
func open(dir string, root []byte, opts ...option) (*running, error) {
	ctx, began := context.Background(), time.Now()
	k, err := keys.Open(dir, domainName, true, time.Now())
	if err != nil {
		return nil, err
	}
	cfg := verifier.Config{Domain: domainName, Name: "1", Issuer: "https://" + domainName, Build: "writ test", Slog: slog.New(slog.DiscardHandler), Now: time.Now,
		SinceBoot: func() time.Duration { return time.Since(began) },
		EKRoots:   [][]byte{root}, TokenKeys: k.Tokens, SVIDs: k.SVIDs, ChallengeKey: k.Challenge, KeyIDs: k.IDs(),
		ReferenceKeys: []ed25519.PublicKey{signer().Public().(ed25519.PublicKey)}, ReferenceThreshold: 1, Approvals: 1, TokenLife: time.Minute, MinLevel: "E0"}
	api := Config{Keys: k, Name: "1", Hosts: []string{"127.0.0.1", "localhost"}, Version: "test", Log: cfg.Slog}
	for _, o := range opts {
		if o.service != nil {
			o.service(&cfg)
		}
		if o.server != nil {
			o.server(&api)
		}
	}
	st, err := store.OpenSQLite(ctx, filepath.Join(dir, "writ.db"))
	if err != nil {
		return nil, err
	}
	log, err := ledger.Open(ctx, ledger.Config{Store: st, Origin: domainName + "/log", Key: k.Log, GuardFile: filepath.Join(dir, "guard"), Now: cfg.Now})
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	r := &running{keys: k, close: func() { log.Close(); st.Close() }}
	cfg.Log = log
	if r.svc, err = verifier.New(ctx, cfg); err == nil {
		api.Service = r.svc
		r.srv, err = New(api)
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
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
	for i, p := range set.PCRs {
		if p.PCR == sparePCR {
			set.PCRs[i] = reference.PCR{PCR: p.PCR, Rule: reference.Ignore, Why: "each boot of a benchmark differs in it"}
		}
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
	c, err := token.Verify(tok, d.svc.TokenKeys(), token.Expect{Issuer: d.svc.Issuer(), Domain: d.name, Audience: d.svc.EnclaveAudience()}, time.Now().Add(time.Duration(d.ahead.Load())))
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// tokenKey is the key that the domain began with.
func tokenKey(d *domain) crypto.Signer {
	_, key := d.keys.Tokens.First()
	return key
}
