package appraisal

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/reference"
)

// Rules is the version of the rules below. A change of what any input leads to
// raises it, so that history says by which rules it was judged.
const Rules = 1

// How the quote's extraData ties it to the challenge.
const (
	BoundWrit = "writ"      // evidence.Binding: the only one a verifier grants on
	BoundRaw  = "raw-nonce" // the bare nonce: machines recorded by other tools, offline only
)

// Input is everything a verdict depends on. The same Input gives the same
// Verdict, byte for byte, on any machine and at any time.
type Input struct {
	Rules      int                `json:"rules"`
	Evidence   *evidence.Evidence `json:"evidence"` // every log in full
	Challenge  Challenge          `json:"challenge"`
	Prior      Prior              `json:"prior"`
	References References         `json:"references"`
	At         int64              `json:"at"` // Unix seconds: the second the challenge was issued

	Memory Memory `json:"-"` // nil: nothing is remembered
}

// Challenge is what the node was asked.
type Challenge struct {
	Domain  string           `json:"domain"`
	Node    string           `json:"node"`
	Nonce   []byte           `json:"nonce"` // 32 bytes
	Issued  int64            `json:"issued"`
	Purpose evidence.Purpose `json:"purpose"`
	Binding string           `json:"binding"`
}

// Prior is what was known of the node before: its enrolment and its last
// proven boot.
type Prior struct {
	EK             []byte   `json:"ek"`              // TPMT_PUBLIC
	EKCertificates [][]byte `json:"ek_certificates"` // DER
	EKChain        [][]byte `json:"ek_chain"`        // DER intermediates, endorsements of their own
	AK             []byte   `json:"ak"`              // TPMT_PUBLIC
	Generation     uint32   `json:"generation"`      // of the AK template
	Class          string   `json:"class"`           // the machine class an operator gave it
	Boot           *Boot    `json:"boot,omitempty"`  // nil: nothing was ever proven
	IAK            *IAK     `json:"iak,omitempty"`   // nil: no maker of a device vouches for the TPM
}

// Boot is the state of one boot as far as it was proven.
type Boot struct {
	ResetCount   uint32 `json:"reset_count"`
	RestartCount uint32 `json:"restart_count"`
	Clock        uint64 `json:"clock"`    // milliseconds of the TPM's clock at the last quote
	BootLog      string `json:"boot_log"` // hexadecimal SHA-256 of the UEFI log; "": none is proven yet
	IMA          *IMA   `json:"ima,omitempty"`
	Key          *Key   `json:"key,omitempty"` // of proof of possession, if it lives in the TPM
}

// IMA is the part of the IMA list that PCR 10 proved.
type IMA struct {
	Offset     uint64    `json:"offset"`             // length of the proven prefix in bytes
	Entries    int       `json:"entries"`            // in it
	Violations int       `json:"violations"`         // in it
	Excluded   int       `json:"excluded,omitempty"` // in it: files the set leaves unjudged
	Until      int64     `json:"until,omitempty"`    // the earliest end of a window that allowed a file; 0: none did
	PCR        []byte    `json:"pcr"`                // its value in the SHA-256 bank
	References string    `json:"references"`         // digest of the set it was judged by
	Rules      int       `json:"rules"`
	Findings   []Finding `json:"findings,omitempty"` // earlier ones of this boot; they stay until reboot
}

// References is what evidence is compared with. The zero value denies.
type References struct {
	Set     *reference.Signed `json:"set"`
	EKRoots [][]byte          `json:"ek_roots"` // DER

	IAKRoots [][]byte `json:"iak_roots,omitempty"` // DER
}

// Digests identifies the inputs of a verdict (hexadecimal SHA-256).
type Digests struct {
	Evidence   string `json:"evidence"`
	Challenge  string `json:"challenge"`
	Prior      string `json:"prior"`
	References string `json:"references"` // of the set alone
	EKRoots    string `json:"ek_roots"`
	IAKRoots   string `json:"iak_roots,omitempty"`
}

func (in *Input) digests() Digests {
	var d Digests
	if in.Evidence != nil {
		s := in.Evidence.Digest()
		d.Evidence = hexOf(s)
	}
	form := in.Challenge.AppendJSON(make([]byte, 0, 1<<13))
	d.Challenge = hexSum(form)
	d.Prior = hexSum(in.Prior.AppendJSON(form[:0]))
	if in.References.Set != nil {
		s := in.References.Set.Digest()
		d.References = hexOf(s)
	}
	d.EKRoots = rootsDigest(in.References.EKRoots)
	if len(in.References.IAKRoots) > 0 {
		d.IAKRoots = rootsDigest(in.References.IAKRoots)
	}
	return d
}

func rootsDigest(roots [][]byte) string {
	all := make([]byte, 0, sha256.Size*len(roots))
	for _, r := range roots {
		s := sha256.Sum256(r)
		all = append(all, s[:]...)
	}
	return hexSum(all)
}

// hexOf is a digest in hexadecimal.
func hexOf(sum [sha256.Size]byte) string {
	var b [2 * sha256.Size]byte
	hex.Encode(b[:], sum[:])
	return string(b[:])
}
