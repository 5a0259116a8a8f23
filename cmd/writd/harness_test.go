package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/testdata/boots"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestMain lets the tests run this program as a process of its own, with the
// race detector: exec.Command("writd").
func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0") // else each command ends a second late
	testscript.Main(m, map[string]func(){"writd": main})
}

// process is a running `writd dev` that can be ended and started again.
type process struct {
	t      testing.TB
	args   []string
	cmd    *exec.Cmd
	stderr bytes.Buffer // to be read once it has ended
	ready  devReady
}

// startDev runs program dev on a data directory and waits until it serves.
func startDev(t testing.TB, program, data string, args ...string) *process {
	t.Helper()
	p := &process{t: t, args: append([]string{program, "dev", "--data", data}, args...)}
	p.start()
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

func (p *process) start() {
	p.t.Helper()
	p.stderr.Reset()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p.ready)
	}
	if err != nil {
		p.end(syscall.SIGKILL)
		p.t.Fatalf("writd dev did not start: %v\n%s", err, &p.stderr)
	}
}

// end ends the process if it runs, and returns its exit code, -1 for a signal.
func (p *process) end(sig syscall.Signal) int {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(sig) // it may be gone
		_ = p.cmd.Wait()
	}
	return p.cmd.ProcessState.ExitCode()
}

// fixedPort is a loopback address that outlives its listener: above the ports
// that are privileged and below those that the kernel hands out.
func fixedPort(t testing.TB) string {
	t.Helper()
	for range 100 {
		var b [2]byte
		rand.Read(b[:])
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 10000 + (int(b[0])<<8|int(b[1]))%20000})
		if err == nil {
			l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// writd runs a command that ends by itself.
func writd(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// domain is a domain of software TPMs, governed by its first operator.
type domain struct {
	*process
	maker    *swtpm.CA
	refKey   ed25519.PrivateKey
	operator *client.Client
}

// newDomain starts program dev on data, for the machines of a maker.
func newDomain(t testing.TB, program, data string, args ...string) *domain {
	t.Helper()
	d := &domain{refKey: ed25519.NewKeyFromSeed(make([]byte, 32))}
	var err error
	if d.maker, err = swtpm.NewCA("test maker", time.Now()); err != nil {
		t.Fatal(err)
	}
	root, key := filepath.Join(t.TempDir(), "root.pem"), filepath.Join(t.TempDir(), "reference.pem")
	write(t, root, d.maker.RootPEM())
	write(t, key, []byte(reference.FormatKey(d.refKey.Public().(ed25519.PublicKey))))
	d.process = startDev(t, program, data, append(args, "--ek-root", root, "--reference-key", key)...)
	d.operator = operatorClient(t, d.ready.Verifier, d.ready.Operator)
	return d
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// operatorClient connects as the operator of a file.
func operatorClient(t testing.TB, url, file string) *client.Client {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	id, err := keys.ParseIdentity(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{URL: url, Operator: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// node is a machine with a software TPM that booted a recorded log.
type node struct {
	t     testing.TB
	id    string
	boot  string
	tpm   *device.TPM
	ak    *device.AK
	key   *ecdsa.PrivateKey
	http  *client.Client
	more  []*client.Client // of further verifiers
	dir   string
	enrol attestor.Enrolment
	pcrs  map[int][]byte
	log   []byte
	list  []byte
}

// turn makes the node go to the next verifier, if it knows several.
func (n *node) turn() {
	if len(n.more) > 0 {
		n.more = append(n.more, n.http)
		n.http, n.more = n.more[0], n.more[1:]
	}
}

// machine manufactures and boots a machine and enrols it.
func (d *domain) machine(boot string) *node {
	t := d.t
	t.Helper()
	n := &node{t: t, boot: boot, dir: t.TempDir()}
	if err := swtpm.Manufacture(t.Context(), filepath.Join(n.dir, "tpm"), d.maker, swtpm.Options{}); err != nil {
		t.Fatal(err)
	}
	inst, err := swtpm.Start(t.Context(), filepath.Join(n.dir, "tpm"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inst.Close() })
	n.replay(inst)
	n.tpm = device.New(inst)
	if n.ak, err = n.tpm.AK(d.ready.Domain, 1); err != nil {
		t.Fatal(err)
	}
	if n.pcrs, err = n.tpm.PCRs(tpm.AlgSHA256, attestor.PCRs); err != nil {
		t.Fatal(err)
	}
	if n.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	d.provision(n)
	return n
}

// replay extends what the recorded logs say, and puts them where an agent reads
// them.
func (n *node) replay(i *swtpm.Instance) {
	n.t.Helper()
	var err error
	if n.log, err = boots.FS.ReadFile(n.boot + "/eventlog.bin"); err != nil {
		n.t.Fatal(err)
	}
	if n.list, err = boots.FS.ReadFile(n.boot + "/ima.bin"); err != nil {
		n.t.Fatal(err)
	}
	log, err := eventlog.Parse(n.log)
	if err == nil {
		err = i.ReplayLog(log)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	list, err := ima.Parse(n.list)
	if err == nil {
		err = i.ReplayIMA(list)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	write(n.t, n.logs().Event, n.log)
	write(n.t, n.logs().IMA, n.list)
}

func (n *node) logs() attestor.Logs {
	return attestor.Logs{Event: filepath.Join(n.dir, "eventlog.bin"), IMA: filepath.Join(n.dir, "ima.bin")}
}

// provision enrols the machine with a join token made for its TPM, in the class
// that is named as what it booted.
func (d *domain) provision(n *node) {
	d.t.Helper()
	ctx := d.t.Context()
	eks, err := n.tpm.EKs()
	if err != nil || len(eks) == 0 {
		d.t.Fatalf("%d EKs: %v", len(eks), err)
	}
	sum := sha256.Sum256(eks[0].Public.Marshal())
	join, err := d.operator.MintJoinToken(ctx, protocol.NewJoinToken{Class: n.boot, EK: hex.EncodeToString(sum[:])})
	if err != nil {
		d.t.Fatal(err)
	}
	if n.http, err = client.Join(ctx, d.ready.Verifier, join.Token); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(n.http.Close)
	out, err := attestor.Provision(ctx, n.tpm, n.http, d.ready.Domain, 1, join.Token)
	if err != nil {
		d.t.Fatal(err)
	}
	if out.Status != "active" {
		d.t.Fatalf("the node is %s, expected active", out.Status)
	}
	n.id = out.Node
	n.enrol = attestor.Enrolment{Domain: d.ready.Domain, Node: n.id, Generation: 1, Verifiers: []string{d.ready.Verifier}, CA: string(n.http.CA())}
}

// learn publishes a reference set for the class of a machine known to be good.
func (d *domain) learn(n *node) {
	d.t.Helper()
	ev, ak, err := attestor.Collect(n.tpm, n.logs(), d.ready.Domain, 1, n.id, [32]byte{9})
	if err != nil {
		d.t.Fatal(err)
	}
	eks, err := n.tpm.EKs()
	if err != nil {
		d.t.Fatal(err)
	}
	nonce := [32]byte{9}
	sample, findings := appraisal.Examine(&appraisal.Input{Rules: appraisal.Rules, Evidence: ev, At: time.Now().Unix(),
		Challenge: appraisal.Challenge{Domain: d.ready.Domain, Node: n.id, Nonce: nonce[:], Purpose: evidence.Collection, Binding: appraisal.BoundWrit},
		Prior:     appraisal.Prior{AK: ak, Generation: 1, EKCertificates: [][]byte{eks[0].Certificate}, EKChain: eks[0].Chain}})
	if len(findings) > 0 {
		d.t.Fatalf("%+v", findings)
	}
	set, _, err := reference.Learn(n.boot, []reference.Sample{sample}, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	env, err := reference.Sign(set, d.refKey)
	if err != nil {
		d.t.Fatal(err)
	}
	if p, err := d.operator.Publish(d.t.Context(), env); err != nil || !p.Active {
		d.t.Fatalf("publishing: %+v, %v", p, err)
	}
}

// evidence quotes over a challenge, as an agent does after its start.
func (n *node) evidence(nonce []byte) ([]byte, error) {
	ev := evidence.New(evidence.Quote{})
	jwk, err := token.MarshalJWK(n.key.Public())
	if err != nil {
		return nil, err
	}
	ev.Set(evidence.BindKey, evidence.Item{Content: jwk})
	ev.Set(evidence.Ask, evidence.Item{Content: n.request().Marshal()})
	ev.Set(evidence.UEFILog, evidence.Item{Content: n.log})
	if len(nonce) != 32 {
		return nil, errors.New("the nonce is not 32 bytes long")
	}
	binding := ev.Binding(evidence.Attestation, n.enrol.Domain, n.id, [32]byte(nonce))
	attest, sig, err := n.ak.Quote(binding[:], attestor.PCRs)
	if err != nil {
		return nil, err
	}
	ev.Quote = evidence.Quote{Node: n.id, Nonce: nonce, Attest: attest, Signature: sig, Bank: tpm.AlgSHA256, Values: n.pcrs}
	ev.Set(evidence.IMALog, evidence.Item{Content: n.list})
	return ev.Marshal()
}

func (n *node) request() evidence.Request {
	return evidence.Request{Audience: "spiffe://" + n.enrol.Domain + "/enclave", Level: "E2", R: random(32), ID: random(16)}
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// attest gets a base token.
func (n *node) attest(ctx context.Context) (*protocol.Outcome, error) {
	c, err := n.http.Challenge(ctx, protocol.ChallengeRequest{Node: n.id})
	if err != nil {
		return nil, err
	}
	body, err := n.evidence(c.Nonce)
	if err != nil {
		return nil, err
	}
	return n.http.Attest(ctx, body)
}
