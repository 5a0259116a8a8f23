package api

import (
	"fmt"
	"net/http"

	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

func (s *Server) peers(q *call) error {
	list, err := s.svc.PeerDomains(q.Request().Context())
	if err != nil {
		return err
	}
	return q.answer(protocol.PeerDomains{Peers: list})
}

// recognize is one operator's agreement to another domain.
func (s *Server) recognize(q *call) error {
	var req protocol.NewPeer
	if err := q.decode(&req); err != nil {
		return err
	}
	c, err := s.svc.Recognize(q.Request().Context(), q.actor, req)
	if err != nil {
		return err
	}
	s.cfg.Log.WarnContext(q.Request().Context(), "another domain", "peer", c.Domain, "recognised", c.Active, "approvals", c.Approvals, "actor", q.actor)
	return q.answer(c)
}

func (s *Server) forget(q *call) error {
	if err := s.svc.Forget(q.Request().Context(), q.actor, q.Param("id")); err != nil {
		return err
	}
	s.cfg.Log.WarnContext(q.Request().Context(), "another domain is recognised no more", "peer", q.Param("id"), "actor", q.actor)
	return q.NoContent(http.StatusNoContent)
}

// operators lists those that are revoked.
func (s *Server) operators(q *call) error {
	list, err := s.svc.RevokedOperators(q.Request().Context())
	if err != nil {
		return err
	}
	return q.answer(protocol.RevokedOperators{Operators: list})
}

// revokeOperator takes the role of an approver, but for one's own certificates.
func (s *Server) revokeOperator(q *call) error {
	var req protocol.OperatorRevocation
	if err := q.decode(&req); err != nil {
		return err
	}
	if !keys.ValidOperator(req.Operator) {
		return malformed("operator %.80q: the name of an operator is needed", req.Operator)
	}
	if req.Operator != q.may.Name && !q.may.May(keys.Approver) {
		return &httpError{status: http.StatusForbidden, code: codeRole, detail: fmt.Sprintf("role %s is required to revoke the certificates of somebody else", keys.Approver)}
	}
	out, err := s.svc.RevokeOperator(q.Request().Context(), q.actor, req.Operator, req.Reason)
	if err != nil {
		return err
	}
	s.cfg.Log.WarnContext(q.Request().Context(), "an operator's certificates", "operator", out.Operator, "revoked", out.Revoked, "approvals", out.Approvals, "needed", out.Needed, "actor", q.actor)
	return q.answer(out)
}

// admitVerifier is one operator's agreement to a further verifier of this domain.
func (s *Server) admitVerifier(q *call) error {
	var req protocol.NewVerifier
	if err := q.decode(&req); err != nil {
		return err
	}
	a, err := s.svc.Admit(q.Request().Context(), q.actor, req.LogKey)
	if err != nil {
		return err
	}
	s.cfg.Log.WarnContext(q.Request().Context(), "a further verifier", "log_key", a.LogKey, "approvals", a.Approvals, "needed", a.Needed, "actor", q.actor)
	return q.answer(a)
}
