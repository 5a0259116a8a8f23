package api

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// maker issues EK certificates, as makers of TPMs do.
type maker struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	m := &maker{key: p256(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, m.key.Public(), m.key)
	if err != nil {
		t.Fatal(err)
	}
	if m.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *maker) certify(t testing.TB, ek crypto.PublicKey) []byte {
	t.Helper()
	name, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:57524954"}},
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: "software"}},
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 3}, Value: "id:00000001"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyAgreement, UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, m.root, ek, m.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// node is a machine whose TPM is this file: software keys in the public areas of
// a TPM's, enrolled like any. It quotes a recorded boot, thousands of times a
// second.
type node struct {
	t      testing.TB
	id     string
	domain string
	ekKey  *ecdsa.PrivateKey
	ek     protocol.EK
	akKey  *ecdsa.PrivateKey
	ak     *tpm.Public
	key    *ecdsa.PrivateKey // the agent's
	log    []byte
	list   []byte
	pcrs   map[int][]byte
	resets uint32
	clock  uint64
}

// sized appends the points of a key as TPM2B.
func point(t testing.TB, b []byte, key *ecdsa.PrivateKey) []byte {
	raw, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]byte{raw[1:33], raw[33:]} {
		b = append(binary.BigEndian.AppendUint16(b, 32), c...)
	}
	return b
}

const pointSize = 2 + 32 + 2 + 32

func (d *domain) machine(boot string) *node {
	d.t.Helper()
	n := &node{t: d.t, domain: d.name, ekKey: p256(d.t), akKey: p256(d.t), key: p256(d.t), resets: 1, clock: 1000}
	tmpl := tpm.EKTemplates()[0].Public // L-2: P-256
	n.ek.Public = point(d.t, slices.Clone(tmpl[:len(tmpl)-pointSize]), n.ekKey)
	n.ek.Certificate = d.maker.certify(d.t, n.ekKey.Public())
	tmpl = tpm.AKTemplate(n.domain, 1)
	var err error
	if n.ak, err = tpm.ParsePublic(point(d.t, slices.Clone(tmpl[:len(tmpl)-pointSize]), n.akKey)); err != nil {
		d.t.Fatal(err)
	}
	n.log, n.list = read(d.t, boot+"/eventlog.bin"), read(d.t, boot+"/ima.bin")
	n.boot()
	return n
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../../testdata/boots/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// boot extends what the logs say.
func (n *node) boot() {
	n.t.Helper()
	l, err := eventlog.Parse(n.log)
	if err != nil {
		n.t.Fatal(err)
	}
	if n.pcrs, err = l.Replay(tpm.AlgSHA256); err != nil {
		n.t.Fatal(err)
	}
	for _, p := range attestor.PCRs {
		if n.pcrs[p] == nil {
			n.pcrs[p] = make([]byte, 32)
		}
	}
	list, err := ima.Parse(n.list)
	if err != nil {
		n.t.Fatal(err)
	}
	r := ima.NewReplay(tpm.AlgSHA256)
	for i := range list.Entries {
		r.Extend(&list.Entries[i])
	}
	n.pcrs[10] = r.Sum()
}

// quote is TPM2_Quote.
func (n *node) quote(binding []byte) (attest, sig []byte) {
	n.clock += 10
	signer := sha256.New()
	signer.Write([]byte{0x40, 0, 0, 0x0b})
	signer.Write(n.ak.Name())
	h := sha256.New()
	for _, p := range attestor.PCRs {
		h.Write(n.pcrs[p])
	}
	q := tpm.Quote{Signer: append([]byte{0, 0x0b}, signer.Sum(nil)...), ExtraData: binding, Clock: n.clock, ResetCount: n.resets, Safe: true, Firmware: 1,
		Bank: tpm.AlgSHA256, PCRs: attestor.PCRs, PCRDigest: h.Sum(nil)}
	attest = q.Marshal()
	sum := sha256.Sum256(attest)
	r, s, err := ecdsa.Sign(rand.Reader, n.akKey, sum[:])
	if err != nil {
		n.t.Fatal(err)
	}
	sig = []byte{0, 0x18, 0, 0x0b} // ECDSA, SHA-256
	for _, v := range []*big.Int{r, s} {
		sig = append(binary.BigEndian.AppendUint16(sig, 32), v.FillBytes(make([]byte, 32))...)
	}
	return attest, sig
}

// activate is TPM2_ActivateCredential (Part 1, 24).
func (n *node) activate(c protocol.Credential) []byte {
	n.t.Helper()
	x, rest := take(n.t, c.Secret)
	y, _ := take(n.t, rest)
	peer, err := ecdh.P256().NewPublicKey(slices.Concat([]byte{4}, x, y))
	if err != nil {
		n.t.Fatal(err)
	}
	key, err := n.ekKey.ECDH()
	if err != nil {
		n.t.Fatal(err)
	}
	z, err := key.ECDH(peer)
	if err != nil {
		n.t.Fatal(err)
	}
	own := key.PublicKey().Bytes()[1:33]
	seed := tpm2.KDFe(crypto.SHA256, z, "IDENTITY", x, own, 256)
	block, err := aes.NewCipher(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", n.ak.Name(), nil, 128))
	if err != nil {
		n.t.Fatal(err)
	}
	_, enc := take(n.t, c.Blob) // the HMAC before it is for the TPM to check
	out := make([]byte, len(enc))
	cipher.NewCFBDecrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(out, enc) //nolint:staticcheck // as TPMs do
	secret, _ := take(n.t, out)
	return secret
}

func take(t testing.TB, b []byte) (field, rest []byte) {
	t.Helper()
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		t.Fatalf("no sized field in %x", b)
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:]
}

// enrol provisions the machine over HTTPS with a join token for its TPM.
func (d *domain) enrol(n *node, class string) {
	d.t.Helper()
	sum := sha256.Sum256(n.ek.Public)
	join, err := d.first.MintJoinToken(d.t.Context(), protocol.NewJoinToken{Class: class, EK: hex.EncodeToString(sum[:])})
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := client.Join(d.t.Context(), d.url, join.Token)
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	d.provision(n, c, join.Token)
}

// provision enrols with a join token.
func (d *domain) provision(n *node, c *client.Client, join string) {
	d.t.Helper()
	ctx := context.Background()
	ch, err := c.Enroll(ctx, protocol.EnrollRequest{JoinToken: join, EKs: []protocol.EK{n.ek}, AK: n.ak.Marshal(), Generation: 1})
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := c.Activate(ctx, ch.ID, protocol.Activation{Secrets: [][]byte{n.activate(ch.Credentials[0])}})
	if err != nil {
		d.t.Fatal(err)
	}
	if out.Status != "active" {
		d.t.Fatalf("the node is %s, want active", out.Status)
	}
	n.id = out.Node
}

// shot is one attestation that a test may bend before it is taken.
type shot struct {
	node    string
	nonce   []byte
	purpose evidence.Purpose
	req     evidence.Request
	brief   bool // the logs are held: send the digest of one, and the tail of the other
}

func (n *node) shot(nonce []byte) *shot {
	return &shot{node: n.id, nonce: nonce, purpose: evidence.Attestation, req: n.request("")}
}

func (n *node) request(exec string) evidence.Request {
	return evidence.Request{Audience: "spiffe://" + n.domain + "/enclave", Execution: exec, Level: "E3", R: random(32), ID: random(12)}
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func (s *shot) take(n *node) []byte {
	n.t.Helper()
	b, err := s.marshal(n)
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

func (s *shot) marshal(n *node) ([]byte, error) {
	ev := evidence.New(evidence.Quote{})
	jwk, err := token.MarshalJWK(n.key.Public())
	if err != nil {
		return nil, err
	}
	ev.Set(evidence.BindKey, evidence.Item{Content: jwk})
	ev.Set(evidence.Ask, evidence.Item{Content: s.req.Marshal()})
	list := evidence.Item{Content: n.list}
	if s.brief {
		sum := sha256.Sum256(n.log)
		ev.Set(evidence.UEFILog, evidence.Item{Digest: sum[:]})
		parsed, err := ima.Parse(n.list)
		if err != nil {
			return nil, err
		}
		last := parsed.Entries[len(parsed.Entries)-1].Offset
		list = evidence.Item{Content: n.list[last:], Offset: uint64(last)}
	} else {
		ev.Set(evidence.UEFILog, evidence.Item{Content: n.log})
	}
	binding := ev.Binding(s.purpose, n.domain, s.node, [32]byte(s.nonce))
	attest, sig := n.quote(binding[:])
	ev.Quote = evidence.Quote{Node: s.node, Nonce: s.nonce, Attest: attest, Signature: sig, Bank: tpm.AlgSHA256, Values: n.pcrs}
	ev.Set(evidence.IMALog, list)
	return ev.Marshal()
}

func (n *node) nonce(c *client.Client) []byte {
	n.t.Helper()
	ch, err := c.Challenge(context.Background(), protocol.ChallengeRequest{Node: n.id})
	if err != nil {
		n.t.Fatal(err)
	}
	return ch.Nonce
}

// attest runs one attestation.
func (n *node) attest(c *client.Client) (*protocol.Outcome, error) {
	n.t.Helper()
	return c.Attest(context.Background(), n.shot(n.nonce(c)).take(n))
}

func (n *node) mustGrant(c *client.Client) string {
	n.t.Helper()
	out, err := n.attest(c)
	if err != nil {
		if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Denied != nil {
			n.t.Fatalf("denied: %s", r.Denied.Verdict)
		}
		n.t.Fatal(err)
	}
	return out.Token
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
