// Package ima parses and replays the measurement list of the Linux kernel's
// Integrity Measurement Architecture (binary_runtime_measurements).
//
// Hazards. The list is the node's own word; only the prefix of it that replays
// to a quoted PCR is proven ([List.Prefix]). The kernel appends while the list
// is read, so entries after that prefix are normal and prove nothing. A
// violation extends a constant: its path and digest stay unproven text. No hash
// covers the PCR index and the template name. Paths name what was opened in
// somebody's mount namespace; go by digests. The list carries SHA-1 template
// hashes whatever the bank: other banks are recomputed from the template data,
// and a kernel that lacks a bank's hash pads it with SHA-1 instead, which no
// replay here will match.
//
// The layout is that of the kernel's security/integrity/ima/ima_fs.c. It is
// written in the machine's byte order; this package reads little-endian, which
// the kernel option ima_canonical_fmt gives on every machine.
package ima

import (
	"crypto/sha1"
	"encoding/binary"

	"github.com/writ-attestation/writ/tpm"
)

// Limits of what Parse reads. Real lists hold hundreds to some 100,000 entries
// of about 120 bytes; a path is at most 4096 bytes, a signature a few hundred.
const (
	MaxEntries  = 1_000_000
	MaxTemplate = 1 << 20 // bytes of template data: a measured buffer can be large
	MaxPath     = 4096    // PATH_MAX, its NUL included
)

// A List is a parsed measurement list, or a part of one that starts at an
// entry. Its entries alias the bytes it was parsed from.
type List struct {
	Entries []Entry
	// Truncated says that the input ends inside a record: a list that was cut
	// while copied, or read while it grew. Tail is what there is of the record.
	Truncated bool
	Tail      []byte
}

// An Entry is one measurement.
type Entry struct {
	Index        int
	Offset, End  int64  // where the record lies in the input, in bytes
	PCR          uint32 // 10, unless a policy rule says otherwise
	TemplateHash []byte // as listed; SHA-1 of the template data; zeros for a violation
	Template     string // "ima-ng", or the fields of a custom one: "d-ng|n-ng"
	Data         []byte // template data as listed, without its own length

	FileAlg    tpm.Alg // of FileDigest; 0 for one that TPMs do not know (md5)
	FileDigest []byte
	DigestType string // of templates ngv2 and sigv2: "ima" (of the file) or "verity" (of its fs-verity descriptor); else ""
	Path       string
	Signature  []byte // security.ima of a signed file
	Buffer     []byte // of template ima-buf: what was measured instead of a file

	// Violation says that the kernel could not tell what was used, as a file was
	// open for writing and reading at once. It extends ff..ff, so all else in
	// the entry is unproven.
	Violation bool

	hashes *Hashes // of Data, if they were computed before
}

// IsBootAggregate reports whether the entry is the kernel's link to the boot:
// a digest over PCRs 0 to 9, first in a list and again after each kexec.
func (e *Entry) IsBootAggregate() bool { return e.Path == "boot_aggregate" && !e.Violation }

// PCR returns the PCR that the list's entries extend, that of the first one;
// 10 for a list without entries.
func (l *List) PCR() int {
	switch {
	case len(l.Entries) > 0:
		return int(l.Entries[0].PCR)
	case l.TailViolation():
		return int(binary.LittleEndian.Uint32(l.Tail))
	}
	return defaultPCR
}

const defaultPCR = 10 // CONFIG_IMA_MEASURE_PCR_IDX

// TailViolation reports whether the record that was cut is a violation. Its
// extend is known though the record is not, as it is the same for all.
func (l *List) TailViolation() bool {
	return len(l.Tail) >= headerSize && isZero(l.Tail[4:headerSize])
}

const headerSize = 4 + sha1.Size // PCR, template hash

// Marshal returns the list in the binary format: for a parsed binary list the
// bytes that were parsed; for an ASCII list what the kernel's binary file holds.
func (l *List) Marshal() []byte {
	le := binary.LittleEndian
	var b []byte
	for i := range l.Entries {
		e := &l.Entries[i]
		b = le.AppendUint32(b, e.PCR)
		b = append(b, e.TemplateHash...)
		b = le.AppendUint32(b, uint32(len(e.Template)))
		b = append(b, e.Template...)
		if e.Template != legacyTemplate {
			b = le.AppendUint32(b, uint32(len(e.Data)))
		}
		b = append(b, e.Data...)
	}
	return append(b, l.Tail...)
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
