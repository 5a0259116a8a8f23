package appraisal_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/reference"
)

// subject is a machine whose attestation key is a file here, so that a test can
// have it quote whatever a TPM could be made to. What it says is held together
// by sign; a test bends the parts before or after.
type subject struct {
	t      testing.TB
	key    *ecdsa.PrivateKey
	log    []byte
	list   []byte
	values map[int][]byte // PCR 0 to 15, SHA-256 bank
	in     *appraisal.Input
}

// boot is the subject after a recorded boot, enrolled in lab.invalid, with a
// good EK certificate and references learnt from c-grub-sb.
func boot(t testing.TB, name string) *subject {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ek := made(t, swtpm.FaultNone)
	s := &subject{t: t, key: key, log: file(t, name+"/eventlog.bin"), list: file(t, name+"/ima.bin")}
	s.in = &appraisal.Input{Rules: appraisal.Rules, At: at,
		Challenge: appraisal.Challenge{Domain: "lab.invalid", Node: "node", Nonce: bytes.Repeat([]byte{7}, 32), Issued: at, Purpose: evidence.Attestation, Binding: appraisal.BoundWrit},
		Prior:     appraisal.Prior{AK: akPublic(key), Generation: 1, Class: "lab", EK: ek.public, EKCertificates: [][]byte{ek.cert}, EKChain: ek.chain}}
	s.in.References.EKRoots = [][]byte{ek.root}
	s.replay()
	s.sign()
	s.refs(nil)
	return s
}

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(boots + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// akPublic is the public area of an attestation key of Writ's template around
// any P-256 key.
func akPublic(k *ecdsa.PrivateKey) []byte {
	b := tpm.AKTemplate("lab.invalid", 1)
	b = b[:len(b)-2*(2+32)]
	point, err := k.PublicKey.Bytes() // 4, x, y
	if err != nil {
		panic(err)
	}
	for _, n := range [][]byte{point[1:33], point[33:]} {
		b = append(binary.BigEndian.AppendUint16(b, 32), n...)
	}
	return b
}

// replay makes the PCRs what the logs say, as a TPM would have them.
func (s *subject) replay() {
	s.t.Helper()
	s.values = map[int][]byte{}
	for p := range 16 {
		s.values[p] = make([]byte, 32)
	}
	l, err := eventlog.Parse(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	values, err := l.Replay(tpm.AlgSHA256)
	if err != nil {
		s.t.Fatal(err)
	}
	maps.Copy(s.values, values)
	if list, err := ima.Parse(s.list); err == nil {
		s.values[10] = list.Replay(tpm.AlgSHA256)
	}
}

// sign quotes the values over the logs as they are.
func (s *subject) sign(change ...func(*tpm.Quote)) {
	s.t.Helper()
	ev := evidence.New(evidence.Quote{Node: s.in.Challenge.Node, Nonce: s.in.Challenge.Nonce, Bank: tpm.AlgSHA256, Values: maps.Clone(s.values)})
	ev.Set(evidence.BindKey, evidence.Item{Content: []byte(`{"kty":"EC"}`)})
	ev.Set(evidence.Ask, evidence.Item{Content: []byte(`{"audience":"a"}`)})
	ev.Set(evidence.UEFILog, evidence.Item{Content: s.log})
	ev.Set(evidence.IMALog, evidence.Item{Content: s.list})
	c := s.in.Challenge
	extra := ev.Binding(c.Purpose, c.Domain, c.Node, [32]byte(c.Nonce))
	q := &tpm.Quote{ExtraData: extra[:], Clock: 1000, ResetCount: 5, RestartCount: 1, Safe: true, Bank: tpm.AlgSHA256}
	ak, err := tpm.ParsePublic(s.in.Prior.AK)
	if err != nil {
		s.t.Fatal(err)
	}
	h := sha256.New()
	h.Write([]byte{0x40, 0, 0, 0x0b}) // TPM_RH_ENDORSEMENT
	h.Write(ak.Name())
	q.Signer = h.Sum([]byte{0, 0x0b})
	q.PCRs = slices.Sorted(maps.Keys(s.values))
	for _, f := range change {
		f(q)
	}
	if q.PCRDigest == nil {
		h := sha256.New()
		for _, p := range q.PCRs {
			h.Write(s.values[p])
		}
		q.PCRDigest = h.Sum(nil)
	}
	ev.Quote.Attest = q.Marshal()
	ev.Quote.Signature = signature(s.t, s.key, ev.Quote.Attest)
	s.in.Evidence = ev
}

// signature is a TPMT_SIGNATURE, ECDSA with SHA-256.
func signature(t testing.TB, k *ecdsa.PrivateKey, msg []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(msg)
	r, v, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0, 0x18, 0, 0x0b}
	for _, n := range []*big.Int{r, v} {
		b = append(binary.BigEndian.AppendUint16(b, 32), n.FillBytes(make([]byte, 32))...)
	}
	return b
}

// learnt is what c-grub-sb taught, its IMA list included.
var learnt = sync.OnceValue(func() *reference.Set {
	t := &fatal{}
	s := &subject{t: t, log: file(t, "c-grub-sb/eventlog.bin"), list: file(t, "c-grub-sb/ima.bin")}
	s.replay()
	log, err := eventlog.Parse(s.log)
	if err != nil {
		panic(err)
	}
	list, err := ima.Parse(s.list)
	if err != nil {
		panic(err)
	}
	set, _, err := reference.Learn("lab", []reference.Sample{{Name: "c-grub-sb", Vendor: "WRIT", Log: log, PCRs: s.values, IMA: list.Entries}}, nil)
	if err != nil {
		panic(err)
	}
	return set
})

// fatal stands in for a test where there is none.
type fatal struct{ testing.TB }

func (*fatal) Helper()           {}
func (*fatal) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// refs gives the subject the learnt set with a change.
func (s *subject) refs(change func(*reference.Set)) {
	s.t.Helper()
	set, err := reference.Parse(learnt().Marshal())
	if err != nil {
		s.t.Fatal(err)
	}
	if change != nil {
		change(set)
	}
	s.in.References.Set = signed(s.t, set)
}

// rule is the set's rule for a PCR.
func rule(s *reference.Set, pcr int) *reference.PCR {
	for i := range s.PCRs {
		if s.PCRs[i].PCR == pcr {
			return &s.PCRs[i]
		}
	}
	return nil
}

// events edits the boot log.
func (s *subject) events(edit func(*eventlog.Log)) {
	s.t.Helper()
	l, err := eventlog.Parse(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	edit(l)
	s.log = l.Marshal()
}

// event is a measurement in every bank of a log.
func event(l *eventlog.Log, pcr uint32, typ eventlog.Type, data string) eventlog.Event {
	e := eventlog.Event{Index: len(l.Events), PCR: pcr, Type: typ, Data: []byte(data)}
	for _, a := range l.Algs {
		hash, ok := a.Hash()
		if !ok {
			continue
		}
		h := hash.New()
		h.Write(e.Data)
		e.Digests = append(e.Digests, eventlog.Digest{Alg: a, Sum: h.Sum(nil)})
	}
	return e
}

// made is a manufactured TPM's endorsement.
type endorsement struct {
	public, cert, root []byte
	chain              [][]byte
}

var endorsements sync.Map

func made(t testing.TB, fault swtpm.Fault) *endorsement {
	t.Helper()
	if e, ok := endorsements.Load(fault); ok {
		return e.(*endorsement)
	}
	ca, err := swtpm.NewCA("maker", time.Unix(at, 0))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tpm")
	if err := swtpm.Manufacture(context.Background(), dir, ca, swtpm.Options{Fault: fault}); err != nil {
		t.Fatal(err)
	}
	i, err := swtpm.Start(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	eks, err := device.New(i).EKs()
	if err != nil || len(eks) == 0 {
		t.Fatalf("%d endorsement keys, %v", len(eks), err)
	}
	e, _ := endorsements.LoadOrStore(fault, &endorsement{public: eks[0].Public.Marshal(), cert: eks[0].Certificate, root: ca.Root().Raw, chain: eks[0].Chain})
	return e.(*endorsement)
}

// grants and denies appraise; denies requires the findings named ("code", or
// "code PCR", or "code PCR event") to be among those made.
func (s *subject) grants() appraisal.Verdict {
	s.t.Helper()
	v := appraisal.Appraise(s.in)
	if !v.Granted() {
		s.t.Fatalf("denied: %s", strings.Join(listed(v), ", "))
	}
	return v
}

func (s *subject) denies(findings ...string) appraisal.Verdict {
	s.t.Helper()
	v := appraisal.Appraise(s.in)
	if v.Granted() {
		s.t.Fatalf("granted, want a denial with %q", findings)
	}
	all := listed(v)
	for _, want := range findings {
		if !slices.ContainsFunc(all, func(f string) bool { return f == want || strings.HasPrefix(f, want+" ") }) {
			s.t.Errorf("findings %q, want %q among them", all, want)
		}
	}
	return v
}

// listed are the findings as "code PCR event", claims left out.
func listed(v appraisal.Verdict) (out []string) {
	for _, f := range v.Findings {
		if strings.HasPrefix(f.Code, "claim/") {
			continue
		}
		s := f.Code
		if f.PCR != nil {
			s += fmt.Sprintf(" %d", *f.PCR)
		}
		if f.Event != nil {
			s += fmt.Sprintf(" %d", *f.Event)
		}
		out = append(out, s)
	}
	return out
}

// rewrite is a list entry with another path and digest.
func rewrite(e ima.Entry, path string, digest []byte) []byte {
	e.Data = bytes.Replace(e.Data, e.FileDigest, digest, 1)
	head, _, _ := bytes.Cut(e.Data, binary.LittleEndian.AppendUint32(nil, uint32(len(e.Path)+1)))
	_, tail, _ := bytes.Cut(e.Data, append([]byte(e.Path), 0))
	e.Data = slices.Concat(head, binary.LittleEndian.AppendUint32(nil, uint32(len(path)+1)), []byte(path), []byte{0}, tail)
	sum := sha1.Sum(e.Data)
	e.TemplateHash = sum[:]
	return (&ima.List{Entries: []ima.Entry{e}}).Marshal()
}

// tryReplay is replay for logs that may have no value: then the old ones stay.
func (s *subject) tryReplay() {
	if l, err := eventlog.Parse(s.log); err == nil {
		if values, err := l.Replay(tpm.AlgSHA256); err == nil {
			s.values = maps.Clone(s.values)
			for p, v := range values {
				if p < 16 {
					s.values[p] = v
				}
			}
		}
	}
	if l, err := ima.Parse(s.list); err == nil {
		s.values[10] = l.Replay(tpm.AlgSHA256)
	}
}

func hexed(b []byte) string { return hex.EncodeToString(b) }
