// Package oslog parses and replays the log of what systemd measures once the
// operating system runs: boot phases, machine id, file systems, volume keys.
//
// Hazards. The log (/run/log/systemd/tpm2-measure.log) is the node's own word,
// like a boot log, and it grows: take it under a shared lock while quoting, or
// after the quote and look for the records that were there. It continues PCRs
// that firmware began, so a replay starts at the boot log's values. Whoever is
// root can extend these PCRs with anything; what systemd measured first stays
// first. Types, boot ids and times are covered by no digest, and texts only where
// [Record.Verified] says so: a volume key's digest is keyed.
//
// The form is JSON-SEQ (RFC 7464) of records close to the TCG's Canonical Event
// Log, as systemd-pcrextend(8) describes it.
package oslog

import (
	"bytes"
	"fmt"

	"github.com/writ-attestation/writ/tpm"
)

// Limits of what Parse reads. A boot writes 5 to 20 records of 500 bytes.
const (
	MaxSize    = 1 << 20 // bytes of a log
	MaxRecords = 4096
)

// A Log is a parsed log; its records alias the bytes it was parsed from.
type Log struct {
	Records []Record
}

// A Record is one measurement.
type Record struct {
	PCR     int // 0 to 23, or -1 if an NV index was extended instead
	Digests []Digest
	Type    string // UNVERIFIED: "phase", "machine-id", "filesystem", "volume-key", ...; "" if the log does not say
	Text    string // see [Record.Verified]: "enter-initrd", "machine-id:..."; "" if the log does not say
	BootID  string // UNVERIFIED: 32 hexadecimal digits, the same in all records
	Time    uint64 // UNVERIFIED: microseconds since boot

	raw []byte // the JSON text
}

// A Digest is what was extended into one bank.
type Digest struct {
	Alg tpm.Alg
	Sum []byte
}

// Digest returns what the record extended into the bank alg, nil if the log does
// not say.
func (r *Record) Digest(alg tpm.Alg) []byte {
	for _, d := range r.Digests {
		if d.Alg == alg {
			return d.Sum
		}
	}
	return nil
}

// Verified reports whether Text hashes to the record's digest in one bank.
func (r *Record) Verified(bank tpm.Alg) bool {
	hash, ok := bank.Hash()
	sum := r.Digest(bank)
	if !ok || sum == nil {
		return false
	}
	h := hash.New()
	h.Write([]byte(r.Text))
	return bytes.Equal(h.Sum(nil), sum)
}

// Replay returns the value, in one bank, of each PCR that the records extend;
// start holds the values they began with, as the boot log replays, and a PCR it
// lacks began as the TPM resets it. A record without a digest for the bank makes
// the bank unprovable: an error. Cut l.Records to replay fewer of them.
func (l *Log) Replay(bank tpm.Alg, start map[int][]byte) (map[int][]byte, error) {
	hash, ok := bank.Hash()
	if !ok {
		return nil, fmt.Errorf("replaying bank %v: this build cannot compute its digests", bank)
	}
	h, out := hash.New(), map[int][]byte{}
	for i := range l.Records {
		r := &l.Records[i]
		if r.PCR < 0 {
			continue
		}
		sum := r.Digest(bank)
		if len(sum) != hash.Size() {
			return nil, fmt.Errorf("replaying record %d in PCR %d: no %v digest, so the bank cannot be proven", i, r.PCR, bank)
		}
		v := out[r.PCR]
		if v == nil {
			v = reset(r.PCR, hash.Size())
			if s, ok := start[r.PCR]; ok {
				if len(s) != hash.Size() {
					return nil, fmt.Errorf("replaying record %d in PCR %d: a start of %d bytes, expected %d as bank %v has", i, r.PCR, len(s), hash.Size(), bank)
				}
				v = s
			}
		}
		h.Reset()
		h.Write(v)
		h.Write(sum)
		out[r.PCR] = h.Sum(nil)
	}
	return out, nil
}

// reset is what a PCR holds after a start (PC Client TPM Profile 4.6.2): those
// of the dynamic root of trust hold ones.
func reset(pcr, size int) []byte {
	if pcr >= 17 && pcr <= 22 {
		return bytes.Repeat([]byte{0xff}, size)
	}
	return make([]byte, size)
}
