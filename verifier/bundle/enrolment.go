package bundle

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// Enrolment is the entry that bound the node to its keys, and its proof: without
// it the attestation key of a bundle is the bundle's word.
type Enrolment struct {
	Entry   []byte // the log's leaf, node.enrolled
	Receipt string // c2sp.org/tlog-proof@v1
}

// EKID identifies an endorsement key by the key its certificate certifies
// (hexadecimal SHA-256 of the SubjectPublicKeyInfo): a public area around the
// same key can be written in several ways, and none of them is another TPM.
// certificate is empty for a TPM that carries none.
func EKID(public, certificate []byte) string {
	if cert, err := tpm.ParseCertificate(certificate); err == nil {
		return hexSum(cert.RawSubjectPublicKeyInfo)
	}
	pub, err := tpm.ParsePublic(public)
	if err != nil {
		return hexSum(public) // no enrolment has such a key
	}
	spki, err := x509.MarshalPKIXPublicKey(pub.Key())
	if err != nil {
		return hexSum(public)
	}
	return hexSum(spki)
}

// DeviceID identifies a device by what its maker calls it.
func DeviceID(maker, serial string) string { return hexSum([]byte(maker + "\x00" + serial)) }

func hexSum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// enrolment looks in the log for what the bundle says of the node: that its keys
// and its class are those it was enrolled with, before the decision e.
func (r *Report) enrolment(b *Bundle, t *Trust, e *proven) {
	if b.Enrolment == nil {
		r.skip("enrolment", "the bundle holds no entry of the node's enrolment: that the key is the node's is its word alone; fetch the bundle again from the verifier")
		return
	}
	index, cp, err := t.CheckProof(b.Enrolment.Receipt, b.Enrolment.Entry)
	var leaf ledger.Leaf
	if err == nil {
		leaf, err = ledger.ParseLeaf(b.Enrolment.Entry)
	}
	var rec Enrolled
	switch {
	case err != nil:
	case leaf.Kind != NodeEnrolled:
		err = fmt.Errorf("entry %d is %s, not an enrolment", index, leaf.Kind)
	case leaf.Subject != Subject(t.Domain, b.Input.Challenge.Node):
		err = fmt.Errorf("entry %d enrols another node", index)
	case e != nil && index >= e.index:
		err = fmt.Errorf("entry %d enrols the node after the decision at entry %d", index, e.index)
	case e != nil && cp.Size == e.under.Size && cp.Root != e.under.Root:
		err = fmt.Errorf("enrolment and decision are proven in two logs of size %d: the log is forked", cp.Size)
	default:
		if err = json.Unmarshal(leaf.Data, &rec); err == nil {
			err = rec.matches(&b.Input.Prior, t.Domain, b.Input.Challenge.Node)
		}
	}
	r.check("enrolment", err, "entry %d enrols the node in class %s with attestation key SHA-256 %s, generation %d", index, rec.Class, rec.AK, rec.Generation)
}

// matches compares an enrolment with what an appraisal took for known of node.
func (e *Enrolled) matches(p *appraisal.Prior, domain, node string) error {
	switch {
	case e.AK != hexSum(p.AK):
		return fmt.Errorf("the node was enrolled with attestation key SHA-256 %s, the bundle has %s", e.AK, hexSum(p.AK))
	case e.Generation != p.Generation:
		return fmt.Errorf("the node was enrolled with a key of generation %d, the bundle says %d", e.Generation, p.Generation)
	case e.Class != p.Class:
		return fmt.Errorf("the node was enrolled in class %.80q, the bundle says %.80q", e.Class, p.Class)
	}
	ek, err := tpm.ParsePublic(p.EK)
	if err != nil {
		return fmt.Errorf("reading the bundle's EK: %w", err)
	}
	if id := tpm.NodeID(ek); id != node {
		return fmt.Errorf("the bundle's EK is that of node %s, not of %s", id, node)
	}
	if p.IAK != nil {
		c, err := tpm.ParseCertificate(p.IAK.Certificate)
		if err != nil || e.Device != Subject(domain, DeviceID(tpm.DeviceMaker(c), c.Subject.SerialNumber)) {
			return errors.New("the bundle has an IAK certificate of a device that the node was not enrolled as")
		}
	}
	var own []byte // the certificate of that EK
	for _, der := range p.EKCertificates {
		if !e.has(domain, EKID(nil, der)) {
			return errors.New("the bundle has an EK certificate that the node was not enrolled with")
		}
		if c, err := tpm.ParseCertificate(der); err == nil && tpm.CheckEK(ek, c) == nil {
			own = der
		}
	}
	if p.IAK == nil && !e.has(domain, EKID(p.EK, own)) { // a node known by its IAK keeps no EK certificate
		return errors.New("the node was not enrolled with the bundle's EK")
	}
	return nil
}

func (e *Enrolled) has(domain, ekID string) bool {
	return slices.Contains(e.EK, Subject(domain, ekID))
}
