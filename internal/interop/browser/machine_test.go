package browser

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/writ-attestation/writ/attestor"
	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/testdata/boots"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/eventlog"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/tpm/swtpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
)

// machine is a node of a lab with a software TPM, whose logs say what a test wants.
type machine struct {
	*testing.T
	lab   *lab
	class string
	dir   string
	chip  *swtpm.Instance
	tpm   *device.TPM
	trust *bundle.Trust
	line  *client.Client // as a node calls the verifier
	node  string         // its id
}

// join makes a machine that is enrolled, and pending.
func (l *lab) join(t *testing.T, class string) *machine {
	t.Helper()
	ctx := t.Context()
	m := &machine{T: t, lab: l, class: class, dir: t.TempDir()}
	m.must(swtpm.Manufacture(ctx, filepath.Join(m.dir, "tpm"), l.maker, swtpm.Options{IAK: "H-2"}), "manufacturing")
	var err error
	m.chip, err = swtpm.Start(ctx, filepath.Join(m.dir, "tpm"))
	m.must(err, "starting the TPM")
	t.Cleanup(func() { m.chip.Close() })
	m.tpm = device.New(m.chip)
	token, err := l.api.MintJoinToken(ctx, protocol.NewJoinToken{Class: class})
	m.must(err, "making a join token")
	m.line, err = client.Join(ctx, l.URL, token.Token)
	m.must(err, "joining")
	t.Cleanup(m.line.Close)
	out, err := attestor.Provision(ctx, m.tpm, m.line, "dev.invalid", 1, token.Token)
	m.must(err, "provisioning")
	m.node = out.Node
	m.trust, err = m.line.Domain(ctx)
	m.must(err, "asking for the domain's keys")
	return m
}

func (m *machine) must(err error, doing string) {
	m.Helper()
	if err != nil {
		m.Fatalf("%s: %v", doing, err)
	}
}

func (m *machine) logs() attestor.Logs {
	return attestor.Logs{Event: filepath.Join(m.dir, "eventlog.bin"), IMA: filepath.Join(m.dir, "ima.bin")}
}

// boot measures a recorded boot with more events at its end, and then files.
func (m *machine) boot(events []eventlog.Event, files ...[]byte) {
	m.Helper()
	raw, err := boots.FS.ReadFile("a-direct/eventlog.bin")
	m.must(err, "reading the recorded boot")
	log, err := eventlog.Parse(raw)
	m.must(err, "reading the recorded boot")
	for _, e := range events {
		e.Index = len(log.Events)
		log.Events = append(log.Events, e)
	}
	m.must(os.WriteFile(m.logs().Event, log.Marshal(), 0o600), "writing the log")
	m.must(m.chip.ReplayLog(log), "measuring the boot")
	values, err := m.tpm.PCRs(tpm.AlgSHA256, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	m.must(err, "reading the PCRs")
	var all []byte
	for pcr := range 10 {
		all = append(all, values[pcr]...)
	}
	m.must(os.WriteFile(m.logs().IMA, nil, 0o600), "writing the list")
	m.measure(append([][]byte{file("ima-ng", "boot_aggregate", string(all), 0)}, files...)...)
}

// measure has the kernel measure files.
func (m *machine) measure(entries ...[]byte) {
	m.Helper()
	list, err := os.ReadFile(m.logs().IMA)
	m.must(err, "reading the list")
	for _, b := range entries {
		parsed, err := ima.Parse(b)
		m.must(err, "measuring files")
		m.must(m.chip.ReplayIMA(parsed), "measuring files")
		list = append(list, b...)
	}
	m.must(os.WriteFile(m.logs().IMA, list, 0o600), "writing the list")
}

// event is a record whose digests are of what is measured; data is what it says.
func event(pcr uint32, kind eventlog.Type, measured, data string) eventlog.Event {
	e := eventlog.Event{PCR: pcr, Type: kind, Data: []byte(data)}
	raw, _ := boots.FS.ReadFile("a-direct/eventlog.bin") // embedded
	log, _ := eventlog.Parse(raw)
	for _, alg := range log.Algs {
		h, _ := alg.Hash()
		sum := h.New()
		sum.Write([]byte(measured))
		e.Digests = append(e.Digests, eventlog.Digest{Alg: alg, Sum: sum.Sum(nil)})
	}
	return e
}

// loaded is what firmware logs of a program that it loads from a path.
func loaded(path string) string {
	le := binary.LittleEndian
	b := make([]byte, 32)
	le.PutUint64(b[8:], 4096)
	var name []byte
	for _, c := range append(utf16.Encode([]rune(path)), 0) {
		name = le.AppendUint16(name, c)
	}
	b = append(b, 4, 4) // a file path
	b = append(le.AppendUint16(b, uint16(4+len(name))), name...)
	b = append(b, 0x7f, 0xff, 4, 0) // the end
	le.PutUint64(b[24:], uint64(len(b)-32))
	return string(b)
}

// variable is what firmware logs of an EFI variable.
func variable(name string) string {
	le := binary.LittleEndian
	chars := utf16.Encode([]rune(name))
	b := le.AppendUint64(make([]byte, 16), uint64(len(chars)))
	b = le.AppendUint64(b, 1)
	for _, c := range chars {
		b = le.AppendUint16(b, c)
	}
	return string(append(b, 1))
}

// file is an entry of IMA's list in a template of one digest, one name and maybe more
// fields, which are empty.
func file(template, path, content string, more int) []byte {
	le := binary.LittleEndian
	sum := sha256.Sum256([]byte(content))
	digest := append([]byte("sha256:\x00"), sum[:]...)
	data := append(le.AppendUint32(nil, uint32(len(digest))), digest...)
	data = append(le.AppendUint32(data, uint32(len(path)+1)), path...)
	data = append(data, 0)
	for range more {
		data = le.AppendUint32(data, 0)
	}
	hash := sha1.Sum(data)
	b := append(le.AppendUint32(nil, 10), hash[:]...)
	b = append(le.AppendUint32(b, uint32(len(template))), template...)
	return append(le.AppendUint32(b, uint32(len(data))), data...)
}

// learn makes a signed set from what the machine has booted, after a change.
func (m *machine) learn(generation uint64, change func(*reference.Set)) []byte {
	m.Helper()
	nonce := [32]byte{9}
	ev, ak, err := attestor.Collect(m.tpm, m.logs(), "dev.invalid", 1, m.node, nonce)
	m.must(err, "collecting evidence")
	eks, err := m.tpm.EKs()
	m.must(err, "reading the endorsement key")
	sample, findings := appraisal.Examine(&appraisal.Input{Rules: appraisal.Rules, Evidence: ev, At: time.Now().Unix(),
		Challenge: appraisal.Challenge{Domain: "dev.invalid", Node: m.node, Nonce: nonce[:], Purpose: evidence.Collection, Binding: appraisal.BoundWrit},
		Prior:     appraisal.Prior{AK: ak, Generation: 1, EKCertificates: [][]byte{eks[0].Certificate}}})
	if len(findings) > 0 {
		m.Fatalf("learning from the boot: %+v", findings)
	}
	set, _, err := reference.Learn(m.class, []reference.Sample{sample}, nil)
	m.must(err, "learning")
	set.Generation = generation
	change(set)
	envelope, err := reference.Sign(set, m.lab.signer)
	m.must(err, "signing the set")
	return envelope
}

// agent is one start of the node's agent.
func (m *machine) agent() *attestor.Agent {
	m.Helper()
	a, err := attestor.New(attestor.Config{Enrolment: attestor.Enrolment{Domain: "dev.invalid", Node: m.node, Generation: 1}, Trust: m.trust, Dir: m.dir, TPM: m.tpm,
		Logs: m.logs(), Verifiers: []attestor.Verifier{m.line}, Level: "E2", Log: slog.New(slog.DiscardHandler)})
	m.must(err, "starting the agent")
	return a
}

// ask has the agent attest, and ask for a token for an execution.
func (m *machine) ask(ctx context.Context, req evidence.Request) (*protocol.Grant, error) {
	m.Helper()
	a := m.agent()
	defer a.Close()
	return a.Lease(ctx, req)
}

// approve has an operator let the node be granted tokens.
func (m *machine) approve(ctx context.Context) {
	m.Helper()
	_, err := m.lab.api.SetStatus(ctx, m.node, protocol.StatusChange{Status: "active", Reason: "it is ours"})
	m.must(err, "approving")
}
