package tpm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
)

// EKTemplate is one of the default templates for endorsement keys (TCG EK
// Credential Profile, B.3 and B.4), known by the NV index of the certificate
// that TPM makers issue for the key it derives.
type EKTemplate struct {
	Label  string // "L-2"; L: low range, H: high range
	NV     uint32 // NV index of the certificate
	Public []byte // TPMT_PUBLIC for TPM2_CreatePrimary
	// Policy tells how the key is used: true by a policy session with
	// PolicySecret(endorsement), false by its empty auth value.
	Policy bool
}

const (
	attrEKLow  = attrResident | attrAdminWithPolicy | attrRestricted | attrDecrypt
	attrEKHigh = attrEKLow | attrUserWithAuth

	// PolicyA: PolicySecret(TPM_RH_ENDORSEMENT). PolicyB: that, or a policy
	// kept in NV (EK Credential Profile, B.6).
	policyA       = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
	policyBSHA256 = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
	policyBSHA384 = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)

var ekTemplates = []struct {
	label  string
	nv     uint32
	public Public
	unique []int // sizes of the zeros in the template's unique
}{
	{"L-2", 0x01c0000a, Public{typ: algECC, nameAlg: AlgSHA256, attrs: attrEKLow, policy: unhex(policyA), aesBits: 128, curve: curveP256}, []int{32, 32}},
	{"H-2", 0x01c00014, Public{typ: algECC, nameAlg: AlgSHA256, attrs: attrEKHigh, policy: unhex(policyBSHA256), aesBits: 128, curve: curveP256}, []int{0, 0}},
	{"H-3", 0x01c00016, Public{typ: algECC, nameAlg: AlgSHA384, attrs: attrEKHigh, policy: unhex(policyBSHA384), aesBits: 256, curve: curveP384}, []int{0, 0}},
	{"L-1", 0x01c00002, Public{typ: algRSA, nameAlg: AlgSHA256, attrs: attrEKLow, policy: unhex(policyA), aesBits: 128, bits: 2048}, []int{256}},
	{"H-1", 0x01c00012, Public{typ: algRSA, nameAlg: AlgSHA256, attrs: attrEKHigh, policy: unhex(policyBSHA256), aesBits: 128, bits: 2048}, []int{0}},
	{"H-6", 0x01c0001c, Public{typ: algRSA, nameAlg: AlgSHA384, attrs: attrEKHigh, policy: unhex(policyBSHA384), aesBits: 256, bits: 3072}, []int{0}},
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("tpm: bad constant " + s)
	}
	return b
}

// EKTemplates returns the templates of keys a node may be known by, in the order
// of preference: P-256, P-384, RSA-2048, RSA-3072.
func EKTemplates() []EKTemplate {
	out := make([]EKTemplate, 0, len(ekTemplates))
	for _, t := range ekTemplates {
		b := t.public.appendParameters(nil)
		for _, n := range t.unique {
			b = appendSized(b, make([]byte, n))
		}
		out = append(out, EKTemplate{Label: t.label, NV: t.nv, Public: b, Policy: t.public.attrs&attrUserWithAuth == 0})
	}
	return out
}

// template returns the label of the template p equals apart from the key.
func (p *Public) template() (label string, err error) {
	got := string(p.appendParameters(nil))
	for _, t := range ekTemplates {
		if got == string(t.public.appendParameters(nil)) {
			return t.label, nil
		}
	}
	return "", errors.New("public area equals no default EK template (L-1, L-2, H-1, H-2, H-3, H-6) apart from the key")
}

// NodeID returns the name of the node whose TPM holds ek: the first 16 bytes of
// the SHA-256 of its TPMT_PUBLIC in hexadecimal. It is an identity only if
// [CheckEK] accepts ek: otherwise a changed attribute gives the same key another
// name.
func NodeID(ek *Public) string {
	sum := sha256.Sum256(ek.Marshal())
	return hex.EncodeToString(sum[:16])
}

// vendorID turns "id:49465800" into the TCG vendor id "IFX"; what is not made of
// four printable characters stays as it is.
func vendorID(s string) string {
	b, err := hex.DecodeString(strings.TrimPrefix(s, "id:"))
	if err != nil || len(b) != 4 {
		return s
	}
	name := strings.TrimRight(string(b), "\x00 ")
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return s
		}
	}
	if name == "" {
		return s
	}
	return name
}
