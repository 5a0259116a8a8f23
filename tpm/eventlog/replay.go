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

// Replay returns the value of each PCR that the log extends in one bank, and of
// PCR 0 when the log says where it starts. PCRs start as zeros, but for
// - PCR 0 after a StartupLocality event: its last byte is that locality;
// - PCR 0 after an H-CRTM event: its last byte is 4 (TPM 2.0 Part 1, 34.3).
//
// An event that was extended but has no digest for the bank makes the whole bank
// unprovable: an error. Records with a PCR index above 23 extend nothing.
func (l *Log) Replay(bank tpm.Alg) (map[int][]byte, error) {
	hash, ok := bank.Hash()
	if !ok {
		return nil, fmt.Errorf("replaying bank %v: this build cannot compute its digests", bank)
	}
	var values [pcrs][]byte
	size := bank.Size()
	zero := make([]byte, pcrs*size)
	at := func(i int) []byte { return zero[i*size : (i+1)*size : (i+1)*size] }
	h := hash.New()
	started := false // PCR 0 was extended: its start is settled
	for i := range l.Events {
		e := &l.Events[i]
		if loc, ok := e.startupLocality(); ok {
			if started {
				return nil, fmt.Errorf("replaying event %d: StartupLocality after PCR 0 was extended", i)
			}
			values[0] = at(0)
			values[0][size-1] = loc
		}
		if !e.Measured() {
			continue
		}
		d := e.Digest(bank)
		if len(d) != size {
			return nil, fmt.Errorf("replaying event %d in PCR %d: no %v digest, so the bank cannot be proven", i, e.PCR, bank)
		}
		v := values[e.PCR]
		if v == nil {
			v = at(int(e.PCR))
		}
		if e.PCR == 0 {
			if e.Type == HCRTM {
				if started {
					return nil, fmt.Errorf("replaying event %d: H-CRTM after PCR 0 was extended", i)
				}
				v[size-1] = 4
			}
			started = true
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
