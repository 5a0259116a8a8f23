package attestor

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/store"
	"github.com/writ-attestation/writ/verifier/token"
)

const class = "test"

// domain is a real verifier without its HTTP, on a real store.
type domain struct {
	*verifier.Service
	t        testing.TB
	maker    *swtpm.CA
	refKey   ed25519.PrivateKey
	trust    *bundle.Trust
	tokenKey crypto.Signer
}

func newDomain(t testing.TB, name string) *domain {
	t.Helper()
	maker, err := swtpm.NewCA("test maker", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d := &domain{t: t, maker: maker, refKey: ed25519.NewKeyFromSeed(make([]byte, 32))}
	dir, ctx, began := t.TempDir(), context.Background(), time.Now()
	k, err := keys.Open(dir, name, true, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.OpenSQLite(ctx, filepath.Join(dir, "writ.db"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := ledger.Open(ctx, ledger.Config{Store: st, Origin: name + "/log", Key: k.Log, GuardFile: filepath.Join(dir, "guard")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(); st.Close() })
	_, d.tokenKey = k.Tokens.First()
	d.Service, err = verifier.New(ctx, verifier.Config{Domain: name, Name: "1", Issuer: "https://" + name, Build: "writ test", Log: log, Slog: slog.New(slog.DiscardHandler),
		SinceBoot: func() time.Duration { return time.Since(began) }, EKRoots: [][]byte{maker.Root().Raw},
		TokenKeys: k.Tokens, ChallengeKey: k.Challenge, KeyIDs: k.IDs(),
		ReferenceKeys: []ed25519.PublicKey{d.refKey.Public().(ed25519.PublicKey)}, ReferenceThreshold: 1, Approvals: 1, TokenLife: time.Minute, MinLevel: "E0", Exchange: []string{"https://cloud.example"}})
	if err != nil {
		t.Fatal(err)
	}
	if d.trust, err = d.Trust(log.VerifierKey()); err != nil {
		t.Fatal(err)
	}
	return d
}

// line is the way to a verifier: a Verifier that a test may cut or bend.
type line struct {
	d *domain

	mu     sync.Mutex
	down   bool
	bend   func(*protocol.Outcome)     // answers to attestations
	derive func(*protocol.Grant)       // answers to requests for further tokens
	before func()                      // what happens while the next such request is on its way
	nonce  func(*protocol.Challenge)   // answers to challenges
	asked  []protocol.ChallengeRequest // every one
	sent   []*evidence.Evidence        // every one
	tokens int                         // asked for
	events func(f func(event string))  // instead of the verifier's
}

var errDown = errors.New("no answer")

func (l *line) fail() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return errDown
	}
	return nil
}

func (l *line) Challenge(ctx context.Context, req protocol.ChallengeRequest) (*protocol.Challenge, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	c, err := l.d.Service.Challenge(ctx, req.Node, req.Checkpoint)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, req)
	if l.nonce != nil {
		l.nonce(&c)
	}
	return &c, err
}

func (l *line) Attest(ctx context.Context, body []byte) (*protocol.Outcome, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	ev, err := evidence.Parse(body)
	if err != nil {
		return nil, err
	}
	out, err := l.d.Service.Attest(ctx, body)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, ev)
	if err == nil && l.bend != nil {
		l.bend(out)
	}
	return out, err
}

func (l *line) Token(ctx context.Context, base string, key crypto.Signer, req evidence.Request) (*protocol.Grant, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.tokens++
	before := l.before
	l.before = nil
	l.mu.Unlock()
	if before != nil {
		before()
	}
	c, err := l.d.claims(base)
	if err != nil {
		return nil, err
	}
	g, err := l.d.Service.Token(ctx, c, req)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.derive != nil {
		l.derive(g)
	}
	return g, err
}

func (l *line) Bound(ctx context.Context, base string, key crypto.Signer, req evidence.Request, cert tls.Certificate) (*protocol.Grant, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	c, err := l.d.claims(base)
	if err != nil {
		return nil, err
	}
	return l.d.Service.Bound(ctx, c, req, token.CertificateThumbprint(cert.Certificate[0]))
}

func (l *line) Exchange(ctx context.Context, base string, key crypto.Signer, audience, workload string) (*protocol.Exchanged, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	c, err := l.d.claims(base)
	if err != nil {
		return nil, err
	}
	tok, b, err := l.d.Service.Exchange(ctx, c, audience, workload)
	if err != nil {
		return nil, err
	}
	return &protocol.Exchanged{Token: tok, Issued: protocol.TypeJWT, Type: "Bearer", ExpiresIn: b.Expires - b.IssuedAt}, nil
}

func (l *line) Stopped(ctx context.Context, base string, key crypto.Signer, stop bundle.Stop) (*protocol.Stopped, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	c, err := l.d.claims(base)
	if err != nil {
		return nil, err
	}
	receipt, err := l.d.Service.Stopped(ctx, c, stop)
	return &protocol.Stopped{Receipt: receipt}, err
}

func (l *line) TokenKeys(context.Context) (*protocol.TokenKeys, error) {
	return l.d.PublicKeys(), l.fail()
}

func (l *line) Events(ctx context.Context, base string, key crypto.Signer, node string, f func(kind, data string)) error {
	if l.events != nil {
		l.events(func(event string) { f("revocation", event) })
		<-ctx.Done()
		return nil
	}
	events, cancel := l.d.Service.Events(node)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			f(e.Kind, e.Data)
		}
	}
}

func (d *domain) claims(tok string) (*token.Claims, error) {
	return token.Verify(tok, d.TokenKeys(), token.Expect{Issuer: d.Issuer(), Domain: d.Domain(), Audience: d.EnclaveAudience()}, time.Now())
}

// enroller adapts the service to what Provision asks.
type enroller struct{ *verifier.Service }

func (e enroller) Activate(ctx context.Context, id string, a protocol.Activation) (*protocol.Enrolled, error) {
	return e.Service.Activate(ctx, id, a.Secrets)
}

// box is a machine with a software TPM that booted a recorded log.
type box struct {
	t     testing.TB
	d     *domain
	dir   string
	swtpm *swtpm.Instance
	tpm   *device.TPM
	enrol Enrolment
	bank  tpm.Alg

	inTPM bool // agents keep their key in the TPM

	mu       sync.Mutex
	commands []device.Command
}

func (d *domain) box() *box {
	d.t.Helper()
	return d.boxOf("a-direct", 0)
}

// boxOf is box after another recorded boot, quoting a bank.
func (d *domain) boxOf(boot string, bank tpm.Alg) *box {
	d.t.Helper()
	b := &box{t: d.t, d: d, dir: d.t.TempDir(), bank: bank}
	ctx := context.Background()
	if err := swtpm.Manufacture(ctx, filepath.Join(b.dir, "tpm"), d.maker, swtpm.Options{}); err != nil {
		d.t.Fatal(err)
	}
	var err error
	if b.swtpm, err = swtpm.Start(ctx, filepath.Join(b.dir, "tpm")); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { b.swtpm.Close() })
	for _, name := range []string{"eventlog.bin", "ima.bin"} {
		raw, err := os.ReadFile(filepath.Join("../testdata/boots", boot, name))
		if err != nil {
			d.t.Fatal(err)
		}
		b.write(name, raw)
	}
	b.boot()
	b.tpm = device.New(b.swtpm)
	b.tpm.Trace = func(c device.Command) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.commands = append(b.commands, c)
	}
	b.enroll()
	return b
}

func (b *box) write(name string, raw []byte) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), raw, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) read(name string) []byte {
	b.t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return raw
}

func (b *box) logs() Logs {
	return Logs{Event: filepath.Join(b.dir, "eventlog.bin"), IMA: filepath.Join(b.dir, "ima.bin"), Bank: b.bank}
}

// boot extends what the logs say.
func (b *box) boot() {
	b.t.Helper()
	log, err := eventlog.Parse(b.read("eventlog.bin"))
	if err == nil {
		err = b.swtpm.ReplayLog(log)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.extendIMA(b.read("ima.bin"))
}

func (b *box) extendIMA(raw []byte) {
	b.t.Helper()
	list, err := ima.Parse(raw)
	if err == nil {
		err = b.swtpm.ReplayIMA(list)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// enroll provisions the machine as active.
func (b *box) enroll() {
	b.t.Helper()
	ctx := context.Background()
	eks, err := b.tpm.EKs()
	if err != nil || len(eks) == 0 {
		b.t.Fatalf("%d EKs: %v", len(eks), err)
	}
	sum := sha256.Sum256(eks[0].Public.Marshal())
	join, err := b.d.MintJoinToken(ctx, "operator/test", keys.Pin{}, protocol.NewJoinToken{Class: class, EK: hex.EncodeToString(sum[:])})
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := Provision(ctx, b.tpm, enroller{b.d.Service}, b.d.Domain(), 1, join.Token)
	if err != nil {
		b.t.Fatal(err)
	}
	b.enrol = Enrolment{Domain: b.d.Domain(), Node: out.Node, Generation: 1}
}

// learn publishes a reference set from what the machine has booted and run.
func (b *box) learn() *reference.Set {
	b.t.Helper()
	nonce := [32]byte{9}
	ev, ak, err := Collect(b.tpm, b.logs(), b.d.Domain(), 1, b.enrol.Node, nonce)
	if err != nil {
		b.t.Fatal(err)
	}
	eks, err := b.tpm.EKs()
	if err != nil {
		b.t.Fatal(err)
	}
	sample, findings := appraisal.Examine(&appraisal.Input{Rules: appraisal.Rules, Evidence: ev, At: time.Now().Unix(),
		Challenge: appraisal.Challenge{Domain: b.d.Domain(), Node: b.enrol.Node, Nonce: nonce[:], Purpose: evidence.Collection, Binding: appraisal.BoundWrit},
		Prior:     appraisal.Prior{AK: ak, Generation: 1, EKCertificates: [][]byte{eks[0].Certificate}}})
	if len(findings) > 0 {
		b.t.Fatalf("%+v", findings)
	}
	set, _, err := reference.Learn(class, []reference.Sample{sample}, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.publish(set)
	return set
}

func (b *box) publish(set *reference.Set) {
	b.t.Helper()
	env, err := reference.Sign(set, b.d.refKey)
	if err != nil {
		b.t.Fatal(err)
	}
	if p, err := b.d.Publish(context.Background(), "operator/test", env); err != nil || !p.Active {
		b.t.Fatalf("publishing: %+v, %v", p, err)
	}
}

// agent starts an agent that reaches the domain by lines.
func (b *box) agent(lines ...*line) *Agent {
	b.t.Helper()
	cfg := Config{Enrolment: b.enrol, Trust: b.d.trust, Dir: b.dir, TPM: b.tpm, Logs: b.logs(), Level: "E2", KeyInTPM: b.inTPM, Log: slog.New(slog.DiscardHandler)}
	for _, l := range lines {
		cfg.Verifiers = append(cfg.Verifiers, l)
	}
	a, err := New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { a.Close() })
	return a
}

// spent returns the TPM commands since the last call.
func (b *box) spent() []device.Command {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.commands
	b.commands = nil
	return out
}

// ready is a machine known to be good with an agent that has a token.
func ready(t testing.TB) (*box, *line, *Agent) {
	t.Helper()
	d := newDomain(t, "test.invalid")
	b := d.box()
	b.learn()
	l := &line{d: d}
	a := b.agent(l)
	b.mustAttest(a)
	return b, l, a
}

func (b *box) mustAttest(a *Agent) {
	b.t.Helper()
	if err := a.attest(context.Background(), false); err != nil {
		b.t.Fatalf("%v; %s", err, a.Status().Verdict)
	}
	if s := a.Status(); !s.Legitimate || s.Problem != "" {
		b.t.Fatalf("%+v", s)
	}
}

// grow measures one more file, a known one: the list's last entry again.
func (b *box) grow() {
	b.t.Helper()
	raw := b.read("ima.bin")
	list, err := ima.Parse(raw)
	if err != nil {
		b.t.Fatal(err)
	}
	last := list.Entries[len(list.Entries)-1]
	entry := bytes.Clone(raw[last.Offset:last.End])
	b.extendIMA(entry)
	b.write("ima.bin", append(raw, entry...))
}

// measure adds an event to the boot log and extends it.
func (b *box) measure(pcr uint32, kind eventlog.Type, data string) {
	b.t.Helper()
	log, err := eventlog.Parse(b.read("eventlog.bin"))
	if err != nil {
		b.t.Fatal(err)
	}
	e := eventlog.Event{Index: len(log.Events), PCR: pcr, Type: kind, Data: []byte(data)}
	for _, alg := range log.Algs {
		h, ok := alg.Hash()
		if !ok {
			b.t.Fatalf("bank %s", alg)
		}
		sum := h.New()
		sum.Write([]byte(data))
		e.Digests = append(e.Digests, eventlog.Digest{Alg: alg, Sum: sum.Sum(nil)})
	}
	if err := b.swtpm.Extend(int(pcr), e.Digests...); err != nil {
		b.t.Fatal(err)
	}
	log.Events = append(log.Events, e)
	b.write("eventlog.bin", log.Marshal())
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (l *line) SVID(ctx context.Context, base string, key crypto.Signer, req protocol.SVIDRequest) (*protocol.SVID, error) {
	if err := l.fail(); err != nil {
		return nil, err
	}
	c, err := l.d.claims(base)
	if err != nil {
		return nil, err
	}
	return l.d.Service.SVID(ctx, c, req)
}

func (l *line) SPIFFEBundle(context.Context) ([]byte, error) {
	return l.d.Service.SPIFFEBundle(60), l.fail()
}
