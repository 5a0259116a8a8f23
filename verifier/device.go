package verifier

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Device is what its maker calls a device.
type Device struct {
	Maker  string `json:"maker"`
	Serial string `json:"serial"`
}

// key is the row of the node that a device is. A TPM can have several endorsement
// keys without certificates and several IAKs; its device is one all the same.
func (d *Device) key() ledger.Key {
	return ledger.Key{Kind: kindDevice, ID: bundle.DeviceID(d.Maker, d.Serial)}
}

// checkDevice asks whether a known maker of devices vouches for the TPM. If none
// does, the request's IAK counts for nothing and lacking says why; one that does
// not vouch for this AK is refused, as honest nodes send none such. What the
// device does not carry of its chains is not looked for elsewhere.
func (s *Service) checkDevice(ctx context.Context, req *protocol.EnrollRequest, ak *tpm.Public, now time.Time) (d *Device, lacking string, err error) {
	if req.IAK == nil {
		return nil, "", nil
	}
	k := appraisal.IAK(*req.IAK)
	said, err := k.Check(ak, s.cfg.Domain, s.cfg.IAKRoots, now)
	if appraisal.Forged(err) {
		return nil, "", protocol.Refuse(protocol.EnrollmentRefused, "the IAK: %v", err)
	}
	if err != nil {
		s.cfg.Slog.InfoContext(ctx, "a device's maker is not confirmed", "error", err)
		req.IAK = nil
		return nil, fmt.Sprintf("IAK: %v", err), nil
	}
	req.IAK.Chain = nil
	for _, c := range slices.Concat(issuers(said.IAK), issuers(said.IDevID)) {
		if !slices.ContainsFunc(req.IAK.Chain, func(der []byte) bool { return bytes.Equal(der, c.Raw) }) {
			req.IAK.Chain = append(req.IAK.Chain, c.Raw)
		}
	}
	return &Device{Maker: said.Maker, Serial: said.Serial}, "", nil
}

// issuers are the certificates between a leaf and a root, which can be one.
func issuers(chain []*x509.Certificate) []*x509.Certificate {
	return chain[min(1, len(chain)-1) : len(chain)-1]
}
