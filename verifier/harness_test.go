package verifier_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/evidence"
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
	"github.com/writ-attestation/writ/verifier/store/storetest"
	"github.com/writ-attestation/writ/verifier/token"
)

const (
	boots    = "../testdata/boots/"
	operator = "operator/alice"
)

// domain is a whole verifier without its HTTP, on a real store.
type domain struct {
	*verifier.Service
	t      testing.TB
	dir    string
	maker  *swtpm.CA
	refKey ed25519.PrivateKey
	log    *ledger.Log
	cfg    verifier.Config
	stop   func()
	memory *storetest.Memory
	reads  reads

	dsn     string   // of PostgreSQL; "": SQLite
	peers   []string // log keys of other verifiers on it
	retired []string // and of former ones
	meddled bool     // rows were changed by hand, or the store was put back

	mu     sync.Mutex
	began  time.Time
	step   time.Duration // of the verifier's wall clock
	passed time.Duration // time that went by on every clock
}

func newDomain(t testing.TB, change ...func(*verifier.Config)) *domain {
	t.Helper()
	return openDomain(t, nil, change...)
}

// openDomain is newDomain on a given store, which the race detector slows down
// less than a database; nil: on SQLite.
func openDomain(t testing.TB, memory *storetest.Memory, change ...func(*verifier.Config)) *domain {
	t.Helper()
	maker, err := swtpm.NewCA("test maker", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d := &domain{memory: memory, t: t, dir: t.TempDir(), maker: maker, began: time.Now()}
	d.refKey = ed25519.NewKeyFromSeed(make([]byte, 32))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.NewRing(key)
	if err != nil {
		t.Fatal(err)
	}
	d.cfg = verifier.Config{Domain: "test.invalid", Name: "1", Issuer: "https://test.invalid", Build: "writ test", Slog: slog.New(slog.DiscardHandler), Now: d.now, SinceBoot: d.sinceBoot,
		EKRoots: [][]byte{maker.Root().Raw}, TokenKeys: ring, ChallengeKey: make([]byte, 32), KeyIDs: map[string]string{"challenge": "of the file"},
		ReferenceKeys: []ed25519.PublicKey{d.refKey.Public().(ed25519.PublicKey)}, ReferenceThreshold: 1, Approvals: 1, TokenLife: time.Minute, MinLevel: "E0"}
	for _, c := range change {
		c(&d.cfg)
	}
	d.open()
	t.Cleanup(func() {
		if !d.meddled && !t.Failed() {
			for _, p := range d.fsckState() {
				t.Errorf("the entries and the rows say different things: %v", p)
			}
		}
		d.stop() // log and store may be closed again
	})
	return d
}

// reads lets a test act between what a request reads and what it commits.
type reads struct {
	ledger.Store
	after sync.Map // kind of row -> func(), called once, after a row of that kind was read; "pack": before a blob is packed
}

func (r *reads) Rows(ctx context.Context, keys []ledger.Key) ([]ledger.Put, error) {
	rows, err := r.Store.Rows(ctx, keys)
	for _, k := range keys {
		if f, ok := r.after.LoadAndDelete(k.Kind); ok {
			f.(func())()
		}
	}
	return rows, err
}

// Pack is what a request does last before it waits for its commit.
func (r *reads) Pack(data []byte) (ledger.Blob, error) {
	if f, ok := r.after.LoadAndDelete("pack"); ok {
		f.(func())()
	}
	return r.Store.Pack(data)
}

// start opens store, log and service in the domain's directory.
func (d *domain) start() error {
	ctx := context.Background()
	shut := func() {}
	if d.memory != nil {
		d.reads.Store = d.memory
	} else if d.dsn != "" {
		st, err := store.OpenPostgres(ctx, d.dsn)
		if err != nil {
			return err
		}
		d.reads.Store, shut = st, func() { st.Close() }
	} else {
		st, err := store.OpenSQLite(ctx, filepath.Join(d.dir, "writ.db"))
		if err != nil {
			return err
		}
		d.reads.Store, shut = st, func() { st.Close() }
	}
	log, err := ledger.Open(ctx, ledger.Config{Store: &d.reads, Origin: d.cfg.Domain + "/log", Key: ed25519.NewKeyFromSeed(bytes32(1)), Peers: d.peers, Retired: d.retired, GuardFile: filepath.Join(d.dir, "guard"), Now: d.now})
	if err != nil {
		shut()
		return err
	}
	d.stop = func() { log.Close(); shut() }
	d.log, d.cfg.Log = log, log
	if d.Service, err = verifier.New(ctx, d.cfg); err != nil {
		d.stop()
	}
	return err
}

func (d *domain) open() {
	d.t.Helper()
	if err := d.start(); err != nil {
		d.t.Fatal(err)
	}
}

// restart stops the verifier and starts it on the same files.
func (d *domain) restart() error {
	d.stop()
	return d.start()
}

func bytes32(b byte) []byte {
	out := make([]byte, 32)
	out[0] = b
	return out
}

func (d *domain) now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Add(d.passed + d.step)
}

func (d *domain) sinceBoot() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.began) + d.passed
}

// pass lets time go by; stepClock sets the wall clock alone, as an attacker or
// a broken time source does.
func (d *domain) pass(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passed += by
}

func (d *domain) stepClock(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.step += by
}

// node is a machine with a software TPM that booted a recorded log.
type node struct {
	t      testing.TB
	id     string
	domain string
	tpm    *swtpm.Instance
	dev    *device.TPM
	ak     *device.AK
	dir    string // of the TPM's state
	log    []byte
	list   []byte
	key    *ecdsa.PrivateKey
	ek     string
}

func (d *domain) machine(boot string, opts ...swtpm.Options) *node {
	d.t.Helper()
	opts = append(opts, swtpm.Options{})
	n := &node{t: d.t, dir: filepath.Join(d.t.TempDir(), "tpm")}
	ctx := context.Background()
	if err := swtpm.Manufacture(ctx, n.dir, d.maker, opts[0]); err != nil {
		d.t.Fatal(err)
	}
	var err error
	if n.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		d.t.Fatal(err)
	}
	n.log, n.list = read(d.t, boots+boot+"/eventlog.bin"), read(d.t, boots+boot+"/ima.bin")
	n.domain = d.cfg.Domain
	n.start()
	return n
}

func read(t testing.TB, path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return b
}

// start powers the machine on and boots its logs.
func (n *node) start() {
	n.t.Helper()
	var err error
	if n.tpm, err = swtpm.Start(context.Background(), n.dir); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { n.tpm.Close() })
	n.dev = device.New(n.tpm)
	n.boot()
	eks, err := n.dev.EKs()
	if err != nil {
		n.t.Fatal(err)
	}
	sum := sha256.Sum256(eks[0].Public.Marshal())
	n.ek = hex.EncodeToString(sum[:])
}

// reboot switches the machine off and on.
func (n *node) reboot() {
	n.t.Helper()
	if err := n.tpm.PowerCycle(true); err != nil {
		n.t.Fatal(err)
	}
	n.boot()
}

// boot extends what the logs say and loads the attestation key.
func (n *node) boot() {
	n.t.Helper()
	var err error
	if n.ak, err = n.dev.AK(n.domain, 1); err != nil {
		n.t.Fatal(err)
	}
	if n.log != nil {
		l, err := eventlog.Parse(n.log)
		if err == nil {
			err = n.tpm.ReplayLog(l)
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
	n.measure(n.list)
}

func (n *node) measure(list []byte) {
	n.t.Helper()
	l, err := ima.Parse(list)
	if err == nil {
		err = n.tpm.ReplayIMA(l)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// mint makes a join token for one TPM, or for any when ek is empty.
func (d *domain) mint(class, ek string) string {
	d.t.Helper()
	join, err := d.MintJoinToken(context.Background(), operator, keys.Pin{}, protocol.NewJoinToken{Class: class, EK: ek})
	if err != nil {
		d.t.Fatal(err)
	}
	return join.Token
}

func (d *domain) provision(n *node, join string) (*protocol.Enrolled, error) {
	return attestor.Provision(context.Background(), n.dev, enroller{d.Service}, d.cfg.Domain, 1, join)
}

// enrol provisions the machine with a join token made for its TPM.
func (d *domain) enrol(n *node, class string) {
	d.t.Helper()
	out, err := d.provision(n, d.mint(class, n.ek))
	if err != nil {
		d.t.Fatal(err)
	}
	if out.Status != verifier.Active {
		d.t.Fatalf("the node is %s, want active", out.Status)
	}
	n.id = out.Node
}

type enroller struct{ *verifier.Service }

func (e enroller) Activate(ctx context.Context, id string, a protocol.Activation) (*protocol.Enrolled, error) {
	return e.Service.Activate(ctx, id, a.Secrets)
}

// shot is one attestation a test may bend before it is sent.
type shot struct {
	domain, node string
	nonce        []byte
	purpose      evidence.Purpose
	pcrs         []int
	req          evidence.Request
	log, list    []byte
	offset       int
	byDigest     bool
	key          []byte                   // JWK to bind; nil: the node's own
	cert         []byte                   // of that key; nil: none
	change       func(*evidence.Evidence) // after the quote
}

func (d *domain) shot(n *node) *shot {
	d.t.Helper()
	c, err := d.Challenge(context.Background(), n.id, "")
	if err != nil {
		d.t.Fatal(err)
	}
	return d.shotWith(n, c)
}

func (d *domain) shotWith(n *node, c protocol.Challenge) *shot {
	return &shot{domain: d.cfg.Domain, node: n.id, nonce: c.Nonce, purpose: evidence.Attestation, pcrs: attestor.PCRs, log: n.log, list: n.list,
		req: evidence.Request{Audience: d.EnclaveAudience(), Level: "E3", R: random(32), ID: random(12)}}
}

func (s *shot) take(n *node) []byte {
	n.t.Helper()
	ev := evidence.New(evidence.Quote{})
	if s.key == nil {
		s.key = jwk(n.t, n)
	}
	ev.Set(evidence.BindKey, evidence.Item{Content: s.key})
	ev.Set(evidence.KeyCert, evidence.Item{Content: s.cert})
	ev.Set(evidence.Ask, evidence.Item{Content: s.req.Marshal()})
	if s.byDigest {
		sum := sha256.Sum256(s.log)
		ev.Set(evidence.UEFILog, evidence.Item{Digest: sum[:]})
	} else if s.log != nil {
		ev.Set(evidence.UEFILog, evidence.Item{Content: s.log})
	}
	binding := ev.Binding(s.purpose, s.domain, s.node, [32]byte(s.nonce))
	attest, sig, err := n.ak.Quote(binding[:], s.pcrs)
	if err != nil {
		n.t.Fatal(err)
	}
	values, err := n.dev.PCRs(0x000B, s.pcrs)
	if err != nil {
		n.t.Fatal(err)
	}
	ev.Quote = evidence.Quote{Node: s.node, Nonce: s.nonce, Attest: attest, Signature: sig, Bank: 0x000B, Values: values}
	ev.Set(evidence.IMALog, evidence.Item{Content: s.list[s.offset:], Offset: uint64(s.offset)})
	if s.change != nil {
		s.change(ev)
	}
	b, err := ev.Marshal()
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// attest runs one attestation and returns its outcome; a refusal that is a
// denial is returned with the verdict inside.
func (d *domain) attest(n *node) (*protocol.Outcome, error) {
	d.t.Helper()
	return d.Attest(context.Background(), d.shot(n).take(n))
}

func (d *domain) mustGrant(n *node) *protocol.Outcome {
	d.t.Helper()
	return d.mustGrantShot(n, d.shot(n))
}

func (d *domain) mustGrantShot(n *node, s *shot) *protocol.Outcome {
	d.t.Helper()
	out, err := d.Attest(context.Background(), s.take(n))
	if err != nil {
		if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Denied != nil {
			d.t.Fatalf("denied: %s", r.Denied.Verdict)
		}
		d.t.Fatal(err)
	}
	return out
}

// learn publishes a set learnt from collected evidence of machines.
func (d *domain) learn(class string, machines ...*node) *reference.Set {
	d.t.Helper()
	var samples []reference.Sample
	for _, n := range machines {
		samples = append(samples, d.sample(n))
	}
	set, _, err := reference.Learn(class, samples, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	d.publish(set)
	return set
}

func (d *domain) sample(n *node) reference.Sample {
	d.t.Helper()
	s := d.shotWith(n, protocol.Challenge{Nonce: bytes32(9)})
	s.purpose, s.node = evidence.Collection, "sample"
	ev, err := evidence.Parse(s.take(n))
	if err != nil {
		d.t.Fatal(err)
	}
	eks, err := n.dev.EKs()
	if err != nil {
		d.t.Fatal(err)
	}
	in := &appraisal.Input{Rules: appraisal.Rules, Evidence: ev, At: time.Now().Unix(),
		Challenge: appraisal.Challenge{Domain: d.cfg.Domain, Node: "sample", Nonce: bytes32(9), Purpose: evidence.Collection, Binding: appraisal.BoundWrit},
		Prior:     appraisal.Prior{AK: n.ak.Public(), Generation: 1, EKCertificates: [][]byte{eks[0].Certificate}}}
	out, findings := appraisal.Examine(in)
	if len(findings) > 0 {
		d.t.Fatalf("%+v", findings)
	}
	return out
}

func (d *domain) signed(set *reference.Set) []byte {
	d.t.Helper()
	env, err := reference.Sign(set, d.refKey)
	if err != nil {
		d.t.Fatal(err)
	}
	return env
}

func (d *domain) publish(set *reference.Set) {
	d.t.Helper()
	p, err := d.Publish(context.Background(), operator, d.signed(set))
	if err != nil {
		d.t.Fatal(err)
	}
	if !p.Active {
		d.t.Fatalf("not active: %+v", p)
	}
}

func (d *domain) claims(tok string) *token.Claims {
	d.t.Helper()
	c, err := token.Verify(tok, d.TokenKeys(), token.Expect{Issuer: d.Issuer(), Domain: d.cfg.Domain, Audience: d.EnclaveAudience()}, d.now())
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// refused requires a refusal of a kind.
func refused(t testing.TB, err error, code string) *protocol.Refusal {
	t.Helper()
	r := (*protocol.Refusal)(nil)
	if !errors.As(err, &r) {
		t.Fatalf("error %v, want refusal %s", err, code)
	}
	if r.Code != code {
		t.Fatalf("refused with %s (%s), want %s", r.Code, r.Detail, code)
	}
	return r
}

// trust is the domain's trust file.
func (d *domain) trust() *bundle.Trust {
	d.t.Helper()
	tr, err := d.Trust(d.log.VerifierKey())
	if err != nil {
		d.t.Fatal(err)
	}
	return tr
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64url(b)
}

var _ crypto.Signer = (*ecdsa.PrivateKey)(nil)

// tokenKey is the key that the domain began with.
func tokenKey(d *domain) crypto.Signer {
	_, key := d.cfg.TokenKeys.First()
	return key
}
