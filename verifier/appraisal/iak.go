package appraisal

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/writ-attestation/writ/tpm"
)

// IAK is the word of a device's maker for the TPM in it: the device's initial
// attestation key with its certificates, and the node's AK certified by it.
type IAK struct {
	Public      []byte   `json:"public"`      // TPMT_PUBLIC
	Certificate []byte   `json:"certificate"` // DER
	IDevID      []byte   `json:"idevid"`      // DER: the certificate of the device's other key
	Chain       [][]byte `json:"chain"`       // DER intermediates, endorsements of their own
	Attest      []byte   `json:"attest"`      // TPMS_ATTEST of TPM2_Certify over the AK
	Signature   []byte   `json:"signature"`   // TPMT_SIGNATURE
}

// errResidence: the IAK does not vouch for this AK.
var errResidence = errors.New("the IAK's certification is not of this attestation key, domain and TPM")

// Check tells whether k vouches at a time for the TPM that ak lives in, under one
// of roots: the certificates by [tpm.CheckDevice], residency by
// [tpm.CheckCertify].
func (k *IAK) Check(ak *tpm.Public, domain string, roots [][]byte, at time.Time) (*tpm.Device, error) {
	public, err := tpm.ParsePublic(k.Public)
	if err == nil {
		err = tpm.CheckIAK(public, k.Certificate)
	}
	if err == nil {
		err = tpm.CheckCertify(public, ak, domain, k.Attest, k.Signature)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errResidence, err)
	}
	return tpm.CheckDevice(k.Certificate, k.IDevID, certs(roots), certs(k.Chain), at)
}

// Forged reports that an error of [IAK.Check] is of what was made by hand rather
// than of certificates that somebody may yet come to trust.
func Forged(err error) bool { return errors.Is(err, errResidence) }

// iak judges the word of the device's maker.
func (r *run) iak() {
	d, err := r.device()
	if err != nil {
		found := flaw(err, "iak_roots", "TCG's profile of device identities, or the two are not of one device")
		if Forged(err) {
			found = errResidence.Error()
		}
		r.say(tpmIAK, "an IAK certificate of a known maker of devices, valid at "+stamp(r.in.At), "SHA-256 "+hexSum(r.in.Prior.IAK.Certificate)+": "+found,
			"add the maker's root to iak_roots and provision the node again, or accept it at a level that does not require hardware")
		return
	}
	r.until = min(r.until, d.to)
	if !slices.Contains(r.set.TPM.DeviceMakers, d.maker) {
		r.say(tpmDeviceMaker, "a device of "+list(r.set.TPM.DeviceMakers), d.maker, "add the maker to device_makers in the reference set's tpm section")
	}
}

// device is the fact that a device's maker vouches for an AK from one second to
// another.
type device struct {
	from, to      int64
	maker, serial string
}

func (r *run) device() (*device, error) {
	k, p := r.in.Prior.IAK, &r.in.Prior
	h := sha256.New()
	for _, part := range [][][]byte{{[]byte(r.in.Challenge.Domain), binary.BigEndian.AppendUint32(nil, p.Generation), p.AK, k.Public, k.Certificate, k.IDevID, k.Attest, k.Signature}, k.Chain, r.in.References.IAKRoots} {
		for _, b := range part {
			s := sha256.Sum256(b)
			h.Write(s[:])
		}
		h.Write([]byte{0})
	}
	key := "iak/" + string(h.Sum(nil))
	if f, ok := r.recall(key).(*device); ok && f.from <= r.in.At && r.in.At < f.to {
		return f, nil
	}
	ak := r.in.attestationKey()
	if ak.err != nil {
		return nil, errResidence // such a quote is not authentic: nobody asks
	}
	d, err := k.Check(ak.public, r.in.Challenge.Domain, r.in.References.IAKRoots, time.Unix(r.in.At, 0).UTC())
	if err != nil {
		return nil, err // not kept: it may hold at another time
	}
	f := &device{from: d.IAK[0].NotBefore.Unix(), to: d.IAK[0].NotAfter.Unix(), maker: d.Maker, serial: d.Serial}
	for _, c := range slices.Concat(d.IAK, d.IDevID) {
		f.from, f.to = max(f.from, c.NotBefore.Unix()), min(f.to, c.NotAfter.Unix())
	}
	r.keep(key, f)
	return f, nil
}

func (r *run) iakWords() string {
	k := r.in.Prior.IAK
	s := fmt.Sprintf("IAK certificate SHA-256 %s, IDevID certificate SHA-256 %s", hexSum(k.Certificate), hexSum(k.IDevID))
	if d, err := r.device(); err == nil {
		s += fmt.Sprintf(" of device %q of %q, both chains valid from %s to %s; the AK is certified to live beside the IAK", d.serial, d.maker, stamp(d.from), stamp(d.to))
	}
	return s + fmt.Sprintf("; %d roots", len(r.in.References.IAKRoots))
}
