package evidence

import (
	"crypto/sha256"
	"encoding/binary"
)

// Purpose says what a quote was taken for. A verifier grants only on
// [Attestation]; what `writ collect` gathers is signed for [Collection] and can
// never earn a token, whatever nonce it was asked to use.
type Purpose byte

// The purposes; the zero value is neither.
const (
	Attestation Purpose = 1
	Collection  Purpose = 2
)

const bindingLabel = "writ-evidence-v1"

// Binding is the extraData the quote must have signed:
//
//	SHA-256("writ-evidence-v1" || purpose || SHA-256(domain) || SHA-256(node) || nonce || uint16 count ||
//	  for each bound item, labels ascending: SHA-256(label || 0 || media type || 0 || SHA-256(full content)))
//
// It covers who asked, who answered and every item but the quote itself and
// the lists that grow while the TPM signs (ima-log, os-log), which their PCR
// proves. An item named by its digest binds like the content itself.
func (e *Evidence) Binding(p Purpose, domain, node string, nonce [32]byte) [32]byte {
	var items, part [512]byte // more than all there are
	all := items[:0]
	count := 0
	for _, k := range kinds {
		it := e.items[k.label]
		if !k.bound || !it.Present() {
			continue
		}
		sum := it.SHA256()
		b := append(append(part[:0], k.label...), 0)
		b = append(append(b, k.media...), 0)
		sum = sha256.Sum256(append(b, sum[:]...))
		all = append(all, sum[:]...)
		count++
	}
	d, n := sha256.Sum256([]byte(domain)), sha256.Sum256([]byte(node))
	b := append(append(part[:0], bindingLabel...), byte(p))
	b = append(append(append(b, d[:]...), n[:]...), nonce[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(count))
	return sha256.Sum256(append(b, all...))
}
