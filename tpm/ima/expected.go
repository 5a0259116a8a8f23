package ima

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"

	"github.com/writ-attestation/writ/tpm"
)

// Hashes are those of the template data that a file gives, measured by SHA-256.
// They are computed once, for the lists of all machines that have the file: an
// entry with the very same data needs no hash of its own.
type Hashes struct {
	sha1   [sha1.Size]byte
	sha256 [sha256.Size]byte
}

// The templates that leave no choice of data once path and digest are known; of
// the second if the file has no signature.
const (
	PlainTemplate  = "ima-ng"
	SignedTemplate = "ima-sig"
)

// HashesOf computes them for a file in one of the two templates.
func HashesOf(template, path string, digest [sha256.Size]byte) Hashes {
	le := binary.LittleEndian
	name := "sha256:\x00" + string(digest[:])
	data := append(le.AppendUint32(make([]byte, 0, 64+len(path)), uint32(len(name))), name...)
	data = append(le.AppendUint32(data, uint32(len(path)+1)), path...)
	data = append(data, 0)
	if template == SignedTemplate {
		data = append(data, 0, 0, 0, 0)
	}
	return Hashes{sha1.Sum(data), sha256.Sum256(data)}
}

// Expect sets who knows the files that are expected: find returns what HashesOf
// makes of its arguments, or nil. See [Entry.Expected].
func (s *Scanner) Expect(find func(template, path string, digest []byte) *Hashes) {
	s.parser.expect = find
}

// Expected reports whether the entry is of a file that find knew, and its template
// hash is right.
func (e *Entry) Expected() bool { return e.hashes != nil }

// expected finds the hashes of an entry's template data, nil if they are to be
// computed.
func (p *parser) expected(e *Entry) *Hashes {
	if p.expect == nil || e.FileAlg != tpm.AlgSHA256 {
		return nil
	}
	if e.Template != PlainTemplate && (e.Template != SignedTemplate || len(e.Signature) > 0) {
		return nil
	}
	return p.expect(e.Template, e.Path, e.FileDigest)
}
