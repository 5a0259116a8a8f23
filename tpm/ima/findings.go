package ima

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"

	"github.com/writ-attestation/writ/tpm"
)

// A Finding is something about a list that a person should know. It is no
// verdict: what follows from it is the appraiser's to say.
type Finding struct {
	Code   string // stable: "ima/..."
	Event  int    // the index of the first entry concerned, -1 if it is the list
	Detail string // what was found
	Next   string // what to do about it
}

// Codes of findings.
const (
	TruncatedTail     = "ima/truncated-tail"
	Violated          = "ima/violation"
	OtherPCR          = "ima/other-pcr"
	UncheckedHash     = "ima/template-hash-unchecked"
	WeakDigest        = "ima/weak-digest"
	NoBootAggregate   = "ima/no-boot-aggregate"
	ZeroBootAggregate = "ima/zero-boot-aggregate"
)

// Findings returns what is odd about a whole list: its start, then violations
// in order, then what concerns many entries, once each, then its tail.
func (l *List) Findings() []Finding {
	fs := l.bootAggregate()
	first := map[string]int{} // code -> first entry
	note := func(code string, i int) {
		if _, ok := first[code]; !ok {
			first[code] = i
		}
	}
	pcr := uint32(l.PCR())
	for i := range l.Entries {
		e := &l.Entries[i]
		if e.Violation {
			fs = append(fs, Finding{Violated, i, fmt.Sprintf("violation on %q: the file was open for writing while it was read, so nobody knows what was used", e.Path),
				"restart what uses the file; if nothing should write it, find out what did"})
		}
		if e.PCR != pcr {
			note(OtherPCR, i)
		}
		if !e.Violation && len(e.TemplateHash) != sha1.Size {
			note(UncheckedHash, i)
		}
		if len(e.FileDigest) <= sha1.Size && e.FileDigest != nil && !e.Violation && !isZero(e.FileDigest) {
			note(WeakDigest, i)
		}
	}
	for _, n := range notes {
		if i, ok := first[n.Code]; ok {
			n.Event = i
			fs = append(fs, n)
		}
	}
	if l.Truncated {
		fs = append(fs, Finding{TruncatedTail, len(l.Entries), fmt.Sprintf("the list ends inside a record; its last %d bytes were not read", len(l.Tail)),
			"copy the list again, in one read"})
	}
	return fs
}

// notes are findings that concern many entries, in the order they are given.
var notes = []Finding{
	{OtherPCR, 0, "entries extend different PCRs; only those of the first entry's PCR, up to this one, were replayed", "remove pcr= from the IMA policy"},
	{UncheckedHash, 0, "template hashes are not SHA-1 and were not compared with the template data", "use the kernel's binary_runtime_measurements"},
	{WeakDigest, 0, "file digests are SHA-1 or weaker, which identifies no file", "boot with ima_hash=sha256 and ima_template=ima-sig"},
}

func (l *List) bootAggregate() []Finding {
	if len(l.Entries) == 0 {
		return nil
	}
	switch e := &l.Entries[0]; {
	case e.Path != "boot_aggregate":
		return []Finding{{NoBootAggregate, 0, "the list does not start with boot_aggregate: nothing links it to a boot", "copy the list from its beginning"}}
	case !e.Violation && isZero(e.FileDigest):
		return []Finding{{ZeroBootAggregate, 0, "boot_aggregate is all zeros: the kernel found no TPM when IMA started", "make the TPM driver part of the kernel image, not a module"}}
	}
	return nil
}

// Replay returns the value of the list's PCR in a bank, from zeros over all
// entries of that PCR up to the first of another; nil for a bank this build
// cannot compute. A violation in the cut tail counts.
func (l *List) Replay(bank tpm.Alg) []byte {
	r := NewReplay(bank)
	pcr := uint32(l.PCR())
	for i := range l.Entries {
		if l.Entries[i].PCR != pcr {
			return r.Sum()
		}
		r.Extend(&l.Entries[i])
	}
	if l.TailViolation() && binary.LittleEndian.Uint32(l.Tail) == pcr && r.pcr != nil {
		r.extend(r.ones)
	}
	return r.Sum()
}

// Violations returns the number of violations, a cut one included.
func (l *List) Violations() (n int) {
	for i := range l.Entries {
		if l.Entries[i].Violation {
			n++
		}
	}
	if l.TailViolation() {
		n++
	}
	return n
}
