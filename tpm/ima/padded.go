package ima

import (
	"bytes"
	"crypto/sha1"

	"github.com/writ-attestation/writ/tpm"
)

// Padded reports whether some prefix of the list replays from start to want as a
// kernel without the bank's hash extends it: the SHA-1 template hash and zeros.
// Such a value proves no more than SHA-1 does; it is only fit to explain why
// [List.Prefix] found nothing.
func (l *List) Padded(bank tpm.Alg, start, want []byte) bool {
	r := Resume(bank, start)
	if r.pcr == nil || bank.Size() <= sha1.Size {
		return false
	}
	pad := make([]byte, bank.Size())
	for i := range l.Entries {
		e := &l.Entries[i]
		d := r.ones
		if !e.Violation {
			clear(pad)
			copy(pad, e.TemplateHash[:min(len(e.TemplateHash), sha1.Size)])
			d = pad
		}
		r.extend(d)
		if bytes.Equal(r.pcr, want) {
			return true
		}
	}
	return false
}
