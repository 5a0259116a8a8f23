package attestor

import (
	"context"
	"fmt"

	"github.com/writ-attestation/writ/tpm"
	"github.com/writ-attestation/writ/tpm/device"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Enroller is the part of a verifier that enrols nodes.
type Enroller interface {
	Enroll(ctx context.Context, req protocol.EnrollRequest) (*protocol.EnrollChallenge, error)
	Activate(ctx context.Context, id string, a protocol.Activation) (*protocol.Enrolled, error)
}

// Provision proves to a verifier that this TPM holds its EKs and the domain's
// attestation key, spending a join token, and shows what the device's maker says
// of it, also in more (DER). It keeps nothing in the TPM.
func Provision(ctx context.Context, t *device.TPM, v Enroller, domain string, generation uint32, joinToken string, more ...[]byte) (*protocol.Enrolled, error) {
	eks, err := t.EKs()
	if err != nil {
		return nil, fmt.Errorf("reading the TPM's endorsement keys: %w", err)
	}
	ak, err := t.AK(domain, generation)
	if err != nil {
		return nil, fmt.Errorf("making the attestation key: %w", err)
	}
	defer ak.Close()
	req := protocol.EnrollRequest{JoinToken: joinToken, AK: ak.Public(), Generation: generation}
	if req.IAK, err = identity(t, ak, domain, more); err != nil {
		return nil, err
	}
	for _, ek := range eks {
		req.EKs = append(req.EKs, protocol.EK{Public: ek.Public.Marshal(), Certificate: ek.Certificate, Chain: ek.Chain})
	}
	challenge, err := v.Enroll(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("asking to enrol: %w", err)
	}
	if len(challenge.Credentials) != len(eks) {
		return nil, fmt.Errorf("activating credentials: expected %d, found %d", len(eks), len(challenge.Credentials))
	}
	var a protocol.Activation
	for i, c := range challenge.Credentials {
		secret, err := t.Activate(ak, eks[i], c.Blob, c.Secret)
		if err != nil {
			return nil, fmt.Errorf("activating credential %d: %w", i, err)
		}
		a.Secrets = append(a.Secrets, secret)
	}
	out, err := v.Activate(ctx, challenge.ID, a)
	if err != nil {
		return nil, fmt.Errorf("answering the activation: %w", err)
	}
	if want := tpm.NodeID(eks[0].Public); out.Node != want {
		return nil, fmt.Errorf("checking the answer: expected node %s, found %.64q", want, out.Node)
	}
	return out, nil
}
