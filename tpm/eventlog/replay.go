package eventlog

import (
	"bytes"
	"fmt"

	"github.com/writ-attestation/writ/tpm"
)

const pcrs = 24 // PCR 0 to 23 (PC Client TPM Profile 4.6.2)

var localityPrefix = []byte("StartupLocality\x00")

// startupLocality reads TCG_EfiStartupLocalityEvent (PFP 10.4.5.3): the
// locality that TPM2_Startup was called from, which PCR 0 starts at.
func (e *Event) startupLocality() (byte, bool) {
	if e.Type != NoAction || e.PCR != 0 || len(e.Data) != len(localityPrefix)+1 || !bytes.HasPrefix(e.Data, localityPrefix) {
		return 0, false
	}
	return e.Data[len(localityPrefix)], true
}

// start returns the last byte that PCR 0 starts with; all other bytes of it, and
// of all other PCRs, are zero. ok is false when the log does not say. The H-CRTM
// rule is that of TPM 2.0 Part 1, 34.3 and wins, as the TPM applies it last.
func (l *Log) start() (b byte, ok bool) {
	for i := range l.Events {
		e := &l.Events[i]
		if e.Type == HCRTM && e.PCR == 0 {
			return 4, true
		}
		if loc, found := e.startupLocality(); found {
			b, ok = loc, true
		}
	}
	return b, ok
}

// Replay returns the value of each PCR that the log extends in one bank, and of
// PCR 0 when the log says where it starts (StartupLocality or H-CRTM). An event
// that was extended but has no digest for the bank makes the whole bank
// unprovable: an error. Records with a PCR index above 23 extend nothing. A log
// without measurements gives an empty map and no error, and proves nothing.
func (l *Log) Replay(bank tpm.Alg) (map[int][]byte, error) {
	hash, ok := bank.Hash()
	if !ok {
		return nil, fmt.Errorf("replaying bank %v: this build cannot compute its digests", bank)
	}
	var values [pcrs][]byte
	size := bank.Size()
	zero := make([]byte, pcrs*size)
	at := func(i uint32) []byte { return zero[int(i)*size : int(i+1)*size : int(i+1)*size] }
	if b, ok := l.start(); ok {
		values[0] = at(0)
		values[0][size-1] = b
	}
	h := hash.New()
	for i := range l.Events {
		e := &l.Events[i]
		if !e.Measured() {
			continue
		}
		d := e.Digest(bank)
		if len(d) != size {
			return nil, fmt.Errorf("replaying event %d in PCR %d: no %v digest, so the bank cannot be proven", i, e.PCR, bank)
		}
		v := values[e.PCR]
		if v == nil {
			v = at(e.PCR)
		}
		h.Reset()
		h.Write(v)
		h.Write(d)
		values[e.PCR] = h.Sum(v[:0])
	}
	out := make(map[int][]byte, pcrs)
	for i, v := range values {
		if v != nil {
			out[i] = v
		}
	}
	return out, nil
}
