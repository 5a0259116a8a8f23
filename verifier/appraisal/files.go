package appraisal

import (
	"bytes"

	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/reference"
)

// file judges one measured file or buffer. What denies or weakens a digest comes
// first; after the lists, a signature can allow a file, and last an exclusion
// can leave it unjudged, which is counted.
func (r *run) file(e *ima.Entry, digest []byte, state *IMA) reference.Judgement {
	at := r.in.At
	if e.Template == reference.BufferTemplate {
		j, until := r.set.BufferAt(e.Path, digest, at)
		if j == reference.Allowed && !hashes(e.Buffer, e) {
			return reference.Unknown
		}
		state.ends(j, until)
		return j
	}
	j, until := r.set.FileAt(e.Path, digest, at)
	if j != reference.Unknown {
		state.ends(j, until)
		return j
	}
	if r.in.References.Set.FileListed(e.Path, digest) {
		return reference.Allowed
	}
	if e.DigestType != "verity" && r.set.SignedBy(e.Signature, e.FileAlg, e.FileDigest) {
		return reference.Allowed
	}
	if r.set.Excluded(e.Path) != nil {
		state.Excluded++
		return reference.Allowed
	}
	return j
}

// ends notes the end of a window that allowed something.
func (s *IMA) ends(j reference.Judgement, until int64) {
	if j == reference.Allowed && until != 0 && (s.Until == 0 || until < s.Until) {
		s.Until = until
	}
}

// hashes reports whether b is what the entry's digest is of.
func hashes(b []byte, e *ima.Entry) bool {
	alg, ok := e.FileAlg.Hash()
	if !ok {
		return false
	}
	h := alg.New()
	h.Write(b)
	return bytes.Equal(h.Sum(nil), e.FileDigest)
}
