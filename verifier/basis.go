package verifier

import (
	"context"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
)

// based adds to a record on what the digests stand that the node asked for.
func based(t *bundle.Token, workload, keeper string) *bundle.Token {
	t.WorkloadBasis, t.KeeperBasis = workload, keeper
	return t
}

// proven is the part of the IMA list that this decision's quote has proven. Of
// what an earlier one proved, only that counts which is known to be what is
// stored: a resumed appraisal has not read it.
func (a *appraised) proven() []byte {
	b := a.verdict.Boot
	if b == nil || b.IMA == nil {
		return nil
	}
	from := uint64(0)
	if a.resumes() && !a.shared {
		from = a.node.Boot.IMA.Offset
	}
	return a.in.Evidence.Item(evidence.IMALog).Content[from:b.IMA.Offset]
}

// basis tells on what the digests of a further token stand, by the list that is
// held for the node. Lists only grow, and are searched once for each digest.
func (s *Service) basis(ctx context.Context, node string, req evidence.Request) (workload, keeper string, err error) {
	if req.Workload == "" && req.Keeper == "" {
		return "", "", nil
	}
	n, err := s.Node(ctx, node)
	if err != nil {
		return "", "", err
	}
	held, err := s.provenIMA(ctx, n)
	if err != nil {
		return "", "", err
	}
	list := held.Content
	of := func(digest string) string {
		if len(list) == 0 {
			return appraisal.Basis(nil, digest)
		}
		// A list is named by the PCR that it replays to.
		key := "basis/" + string(n.Boot.IMA.PCR) + digest
		if b, ok := s.facts.Recall(key).(string); ok {
			return b
		}
		b := appraisal.Basis(list, digest)
		s.facts.Keep(key, b)
		return b
	}
	return of(req.Workload), of(req.Keeper), nil
}
