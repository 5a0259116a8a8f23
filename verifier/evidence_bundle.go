package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Bundle puts together everything about one decision on a node, to be checked
// with no network. index < 0 means the latest.
func (s *Service) Bundle(ctx context.Context, node string, index int64) (*bundle.Bundle, error) {
	n, err := s.Node(ctx, node)
	if err != nil {
		return nil, err
	}
	if index < 0 {
		if n.Last == nil {
			return nil, protocol.Refuse(protocol.NotFound, "node %s has no decision yet", node)
		}
		index = int64(n.Last.Index)
	}
	d, ok, err := row[decision](ctx, s, decisionKey(node, uint64(index)))
	if err != nil {
		return nil, err
	}
	if ok && d.Input == "" { // a further token: the decision it rests on
		return nil, protocol.Refuse(protocol.NotFound, "entry %d is a further token of the decision at entry %d; ask for that one", index, d.Base)
	}
	if !ok {
		if err := s.gone(ctx, node, uint64(index)); err != nil {
			return nil, err
		}
		return nil, protocol.Refuse(protocol.NotFound, "entry %d is not a decision on node %s", index, node)
	}
	b := &bundle.Bundle{V: 1}
	enrolled := uint64(0)
	if b.Input, enrolled, err = s.input(ctx, d.Input); err != nil {
		if gone := s.gone(ctx, node, uint64(index)); errors.Is(err, ledger.ErrNotFound) && gone != nil {
			return nil, gone
		}
		return nil, fmt.Errorf("putting together the input of entry %d: %w", index, err)
	}
	if b.Verdict, err = s.verdict(ctx, &d); err != nil {
		return nil, err
	}
	if b.Entry, err = s.log.Entry(ctx, uint64(index)); err != nil {
		return nil, err
	}
	if b.Receipt, err = s.log.Prove(ctx, uint64(index)); err != nil {
		return nil, err
	}
	if b.Enrolment, err = s.enrolment(ctx, enrolled); err != nil {
		return nil, fmt.Errorf("putting together the enrolment at entry %d: %w", enrolled, err)
	}
	if d.Claims != nil {
		if b.Token, err = s.issue(d.Claims, s.signs(&d)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// enrolment proves the entry that enrolled the node; nil where it was not noted
// which one that is, or it is not kept any more.
func (s *Service) enrolment(ctx context.Context, index uint64) (*bundle.Enrolment, error) {
	if index == 0 {
		return nil, nil
	}
	entry, err := s.log.Entry(ctx, index)
	if errors.Is(err, ledger.ErrPruned) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	receipt, err := s.log.Prove(ctx, index)
	if err != nil {
		return nil, err
	}
	return &bundle.Enrolment{Entry: entry, Receipt: receipt}, nil
}

// input is the inverse of store; enrolled is the index of the node's enrolment.
func (s *Service) input(ctx context.Context, digest string) (in *appraisal.Input, enrolled uint64, err error) {
	raw, err := s.blob(ctx, digest)
	if err != nil {
		return nil, 0, err
	}
	var st storedInput
	if err := json.Unmarshal(raw, &st); err != nil {
		return nil, 0, err
	}
	in = &appraisal.Input{Rules: st.Rules, Challenge: st.Challenge, At: st.At}
	if in.Evidence, err = st.collection(); err != nil {
		return nil, 0, err
	}
	if st.UEFILog != "" {
		log, err := s.blob(ctx, st.UEFILog)
		if err != nil {
			return nil, 0, err
		}
		in.Evidence.Set(evidence.UEFILog, evidence.Item{Content: log})
	}
	if len(st.IMALog) > 0 {
		list, err := s.join(ctx, st.IMALog)
		if err != nil {
			return nil, 0, err
		}
		in.Evidence.Set(evidence.IMALog, evidence.Item{Content: list})
	}
	enrolment, err := s.blob(ctx, st.Enrolment)
	if err != nil {
		return nil, 0, err
	}
	if err := json.Unmarshal(enrolment, &in.Prior); err != nil {
		return nil, 0, err
	}
	in.Prior.Boot = st.Boot
	if st.Set != "" {
		if in.References.Set, err = s.restoreSet(ctx, st.Set, st.Layers, st.Lacking); err != nil {
			return nil, 0, err
		}
	}
	for _, r := range st.EKRoots {
		root, err := s.blob(ctx, r)
		if err != nil {
			return nil, 0, err
		}
		in.References.EKRoots = append(in.References.EKRoots, root)
	}
	for _, r := range st.IAKRoots {
		root, err := s.blob(ctx, r)
		if err != nil {
			return nil, 0, err
		}
		in.References.IAKRoots = append(in.References.IAKRoots, root)
	}
	return in, st.Enrolled, nil
}
