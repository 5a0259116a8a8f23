package appraisal

import (
	"bytes"
	"encoding/hex"
	"strings"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier/reference"
)

// On what a digest stands that a node names in a request.
const (
	BasisMeasured = "measured" // the kernel measured a file with it into the quoted PCR 10
	BasisAsserted = "asserted" // the keeper's word alone
)

// Basis tells on what a digest ("sha256:" and hexadecimal) stands: measured is
// one that an entry of proven names, the part of an IMA list that a quote has
// proven. It says that such a file was used in this boot, not that it was used
// for this. Empty without a digest.
func Basis(proven []byte, digest string) string {
	if digest == "" {
		return ""
	}
	text, ok := strings.CutPrefix(digest, "sha256:")
	sum, err := hex.DecodeString(text)
	if !ok || err != nil || len(sum) != tpm.AlgSHA256.Size() || !bytes.Contains(proven, sum) {
		return BasisAsserted
	}
	l, err := ima.Parse(proven)
	if err != nil {
		return BasisAsserted
	}
	for i := range l.Entries {
		e := &l.Entries[i]
		if e.PCR == imaPCR && !e.Violation && e.Template != reference.BufferTemplate && e.DigestType != "verity" && e.FileAlg == tpm.AlgSHA256 && bytes.Equal(e.FileDigest, sum) && !e.IsBootAggregate() {
			return BasisMeasured
		}
	}
	return BasisAsserted
}
