package ima

import (
	"bytes"

	"github.com/writ-attestation/writ/tpm"
)

// A Replay computes the value of a PCR from the entries that extended it, in
// one bank. The zero Replay, or one of a bank this build cannot compute, has no
// value, which equals that of no PCR.
type Replay struct {
	bank tpm.Alg
	pcr  []byte // nil: there is no value
	buf  []byte // the digest of one entry
	both []byte // what one extension hashes
	pad  []byte // room for an entry whose data is hashed padded
	ones []byte // what a violation extends
}

// NewReplay starts from zeros, as the PCR does at boot.
func NewReplay(bank tpm.Alg) *Replay { return Resume(bank, make([]byte, bank.Size())) }

// Resume starts from a value that is already proven.
func Resume(bank tpm.Alg, pcr []byte) *Replay {
	h, ok := bank.Hash()
	if !ok || len(pcr) != h.Size() {
		return &Replay{}
	}
	return &Replay{
		bank: bank,
		pcr:  bytes.Clone(pcr),
		buf:  make([]byte, 0, h.Size()),
		both: make([]byte, 0, 2*h.Size()),
		ones: bytes.Repeat([]byte{0xff}, h.Size()),
	}
}

// Extend adds an entry. It does not look at the entry's PCR.
func (r *Replay) Extend(e *Entry) {
	if r.pcr == nil {
		return
	}
	r.extend(r.digest(e))
}

func (r *Replay) extend(d []byte) {
	r.both = append(append(r.both[:0], r.pcr...), d...)
	r.pcr, _ = r.bank.AppendSum(r.pcr[:0], r.both)
}

func (r *Replay) digest(e *Entry) []byte {
	if e.Violation {
		return r.ones
	}
	if e.hashes != nil && r.bank == tpm.AlgSHA256 {
		return e.hashes.sha256[:]
	}
	r.buf, _ = r.bank.AppendSum(r.buf[:0], e.hashed(&r.pad))
	return r.buf
}

// Reached reports whether the PCR has a value by now.
func (r *Replay) Reached(want []byte) bool { return r.pcr != nil && bytes.Equal(r.pcr, want) }

// Sum returns the value of the PCR, nil for a Replay without one.
func (r *Replay) Sum() []byte { return bytes.Clone(r.pcr) }

// Digest returns what the entry extends in a bank: the hash of its template
// data, or ff..ff for a violation; nil for a bank this build cannot compute.
func (e *Entry) Digest(bank tpm.Alg) []byte {
	r := NewReplay(bank)
	if r.pcr == nil {
		return nil
	}
	return r.digest(e)
}

// Prefix finds how much of the list a PCR value proves: the smallest n so that
// replaying the first n entries from start gives want, and where the nth entry
// ends. start is the PCR value before the list's first entry, nil for zeros.
// One pass; an entry of another PCR than the first one's ends the search, for
// nothing after it is proven by this PCR alone.
func (l *List) Prefix(bank tpm.Alg, start, want []byte) (n int, end int64, ok bool) {
	if start == nil {
		start = make([]byte, bank.Size())
	}
	r := Resume(bank, start)
	if r.pcr == nil || len(want) != len(r.pcr) {
		return 0, 0, false
	}
	if bytes.Equal(r.pcr, want) {
		return 0, 0, true
	}
	pcr := uint32(l.PCR())
	for i := range l.Entries {
		e := &l.Entries[i]
		if e.PCR != pcr {
			break
		}
		r.Extend(e)
		if bytes.Equal(r.pcr, want) {
			return i + 1, e.End, true
		}
	}
	return 0, 0, false
}

// BootAggregate returns the digest that the kernel records as its link to the
// boot: the hash entryAlg (that of the boot_aggregate entry) over PCRs 0 to 9 of
// a bank, 0 to 7 of the SHA-1 bank. nil if one of them is missing or the hash
// cannot be computed. Since Linux 5.8 the two algorithms are the same.
func BootAggregate(bank tpm.Alg, pcrs map[int][]byte, entryAlg tpm.Alg) []byte {
	ch, ok := entryAlg.Hash()
	if !ok {
		return nil
	}
	last := 9
	if bank == tpm.AlgSHA1 {
		last = 7
	}
	h := ch.New()
	for i := 0; i <= last; i++ {
		v := pcrs[i]
		if len(v) != bank.Size() || len(v) == 0 {
			return nil
		}
		h.Write(v)
	}
	return h.Sum(nil)
}
