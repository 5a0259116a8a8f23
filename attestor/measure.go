package attestor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/tpm/ima"
)

// PCRs is the selection every quote covers.
var PCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const imaPCR = 10

// Logs says where the kernel keeps the measurement logs; an empty path or a
// missing file is a log the node does not have.
type Logs struct {
	Event string  // binary_bios_measurements
	IMA   string  // binary_runtime_measurements
	OS    string  // systemd's tpm2-measure.log
	Bank  tpm.Alg // the PCR bank to quote, which they are replayed in; 0 is SHA-256
}

func (l Logs) bank() tpm.Alg {
	if l.Bank == 0 {
		return tpm.AlgSHA256
	}
	return l.Bank
}

// DefaultLogs are the places Linux uses.
func DefaultLogs() Logs {
	return Logs{Event: "/sys/kernel/security/tpm0/binary_bios_measurements", IMA: "/sys/kernel/security/ima/binary_runtime_measurements", OS: "/run/log/systemd/tpm2-measure.log"}
}

// quoter is the TPM with the domain's attestation key loaded: one command per
// quote.
type quoter struct {
	tpm        *device.TPM
	ak         *device.AK
	domain     string // and generation: of the key
	generation uint32
	logs       Logs

	values map[int][]byte // PCRs as last proven, so that a renewal reads none
	boot   uint32         // resetCount of the last quote
	proven position       // how much of the IMA list they prove
	sent   int64          // how much of it the verifier is known to hold
}

// load makes the attestation key in the TPM.
func (q *quoter) load() (err error) {
	q.ak, err = q.tpm.AK(q.domain, q.generation)
	if err != nil {
		return fmt.Errorf("loading the attestation key: %w", err)
	}
	return nil
}

// quote has the TPM sign.
func (q *quoter) quote(extraData []byte) (attest, sig []byte, err error) {
	return q.signed(func() ([]byte, []byte, error) { return q.ak.QuoteBank(q.logs.bank(), extraData, PCRs) })
}

// signed has the attestation key sign. Keys that were loaded are gone when the machine
// slept: then it is made again, once.
func (q *quoter) signed(sign func() (attest, sig []byte, err error)) (attest, sig []byte, err error) {
	attest, sig, err = sign()
	if no := (*device.NoTPMError)(nil); err == nil || errors.As(err, &no) {
		return attest, sig, err
	}
	if err := errors.Join(q.ak.Close(), q.load()); err != nil {
		return nil, nil, err
	}
	return sign()
}

// position is a place in the IMA list.
type position struct {
	offset int64  // behind the last proven entry
	last   int64  // where that entry begins
	pcr    []byte // PCR 10 there
}

// Collect takes evidence for `writ collect`: signed for its own purpose, so
// that no verifier ever grants on it.
func Collect(t *device.TPM, logs Logs, domain string, generation uint32, node string, nonce [32]byte) (*evidence.Evidence, []byte, error) {
	q := &quoter{tpm: t, domain: domain, generation: generation, logs: logs}
	if err := q.load(); err != nil {
		return nil, nil, err
	}
	defer q.ak.Close()
	ev := evidence.New(evidence.Quote{})
	if err := q.bootLog(ev, nil); err != nil {
		return nil, nil, err
	}
	if err := q.take(ev, evidence.Collection, node, nonce); err != nil {
		return nil, nil, err
	}
	return ev, q.ak.Public(), nil
}

// bootLog adds the UEFI log, or only its digest when the verifier is known to
// hold it.
func (q *quoter) bootLog(ev *evidence.Evidence, held []byte) error {
	log, err := readLog(q.logs.Event, evidence.MaxBootLog)
	if err != nil || log == nil {
		return err
	}
	sum := sha256.Sum256(log)
	if bytes.Equal(sum[:], held) {
		ev.Set(evidence.UEFILog, evidence.Item{Digest: held})
		return nil
	}
	ev.Set(evidence.UEFILog, evidence.Item{Content: log})
	return nil
}

// take quotes over the items already in ev and then reads the list that grows
// meanwhile: what the TPM signed is a prefix of it.
func (q *quoter) take(ev *evidence.Evidence, p evidence.Purpose, node string, nonce [32]byte) error {
	binding := ev.Binding(p, q.domain, node, nonce)
	attest, sig, err := q.quote(binding[:])
	if err != nil {
		return err
	}
	list, err := readLog(q.logs.IMA, evidence.MaxSize)
	if err != nil {
		return err
	}
	quoted, err := tpm.ParseQuote(attest)
	if err != nil {
		return fmt.Errorf("reading our own quote: %w", err)
	}
	if err := q.explain(quoted, list); err != nil {
		return err
	}
	q.boot = quoted.ResetCount
	ev.Quote = evidence.Quote{Node: node, Nonce: nonce[:], Attest: attest, Signature: sig, Bank: q.logs.bank(), Values: q.values}
	if len(list) > 0 {
		ev.Set(evidence.IMALog, evidence.Item{Content: list})
	}
	system, err := readLog(q.logs.OS, evidence.MaxBootLog)
	if err != nil {
		return err
	}
	ev.Set(evidence.OSLog, evidence.Item{Content: system})
	return nil
}

// shorten leaves out the part of the IMA list that the verifier holds, but for
// the last entry of it: an item is never empty.
func (q *quoter) shorten(ev *evidence.Evidence) {
	it := ev.Item(evidence.IMALog)
	if q.sent > 0 && q.sent < int64(len(it.Content)) {
		ev.Set(evidence.IMALog, evidence.Item{Content: it.Content[q.sent:], Offset: uint64(q.sent)})
	}
}

// explain finds the PCR values behind the quoted digest: those proven last,
// with PCR 10 moved along the IMA list. Only when that fails are they read
// from the TPM again.
func (q *quoter) explain(quoted *tpm.Quote, list []byte) error {
	if q.values != nil && q.search(quoted, list) {
		return nil
	}
	values, err := q.tpm.PCRs(q.logs.bank(), PCRs)
	if err != nil {
		return fmt.Errorf("reading PCRs: %w", err)
	}
	q.values, q.proven = values, position{}
	if tpm.CheckPCRs(quoted, values) == nil || q.search(quoted, list) {
		return nil
	}
	return errors.New("explaining the quote: no prefix of the IMA list gives the quoted PCRs; another PCR changed meanwhile, try again")
}

// search tries each prefix of the list from the last proven one on.
func (q *quoter) search(quoted *tpm.Quote, list []byte) bool {
	pos := q.proven
	if pos.pcr == nil {
		pos.pcr = make([]byte, q.logs.bank().Size())
	}
	if pos.offset > int64(len(list)) {
		return false
	}
	values := make(map[int][]byte, len(q.values))
	for i, v := range q.values {
		values[i] = v
	}
	values[imaPCR] = pos.pcr
	if tpm.CheckPCRs(quoted, values) == nil {
		q.values, q.proven = values, pos
		return true
	}
	l, err := ima.Parse(list[pos.offset:])
	if err != nil {
		return false
	}
	r := ima.Resume(q.logs.bank(), pos.pcr)
	for i := range l.Entries {
		e := &l.Entries[i]
		r.Extend(e)
		values[imaPCR] = r.Sum()
		if tpm.CheckPCRs(quoted, values) == nil {
			q.values, q.proven = values, position{offset: pos.offset + e.End, last: pos.offset + e.Offset, pcr: values[imaPCR]}
			return true
		}
	}
	return false
}

// readLog reads a whole log; nil when there is none.
func readLog(path string, limit int64) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading a measurement log: %w; the agent must run as root or with CAP_DAC_READ_SEARCH", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading a measurement log: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading %s: more than %d bytes", path, limit)
	}
	return b, nil
}
