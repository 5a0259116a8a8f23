package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Pages of lists.
const (
	nodesPerPage   = 100
	nodesAtMost    = 1000
	entriesPerPage = 256
)

// param is a query parameter that is a number, or otherwise when it is absent.
func (q *call) param(name string, otherwise uint64) (uint64, error) {
	text := q.QueryParam(name)
	if text == "" {
		return otherwise, nil
	}
	return number(text)
}

func (s *Server) nodes(q *call) error {
	limit, err := q.param("limit", nodesPerPage)
	if err != nil {
		return err
	}
	n := int(min(max(limit, 1), nodesAtMost))
	nodes, err := s.svc.Nodes(q.Request().Context(), q.QueryParam("after"), n)
	if err != nil {
		return err
	}
	page := protocol.Nodes{Nodes: make([]protocol.Node, len(nodes))}
	for i := range nodes {
		if page.Nodes[i], err = s.shown(&nodes[i]); err != nil {
			return err
		}
	}
	if len(nodes) == n {
		page.Next = nodes[n-1].ID
	}
	return q.answer(page)
}

func (s *Server) node(q *call) error {
	n, err := s.svc.Node(q.Request().Context(), q.Param("id"))
	if err != nil {
		return missing(err)
	}
	out, err := s.shown(n)
	if err != nil {
		return err
	}
	return q.answer(out)
}

// missing makes of a node that is not enrolled one that an operator did not
// find.
func missing(err error) error {
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Code == protocol.NotEnrolled {
		return &protocol.Refusal{Code: protocol.NotFound, Detail: r.Detail}
	}
	return err
}

// shown is a node as operators see it: the state that counts now, not the word
// that is stored.
func (s *Server) shown(n *verifier.Node) (protocol.Node, error) {
	out := protocol.Node{ID: n.ID, Class: n.Class, Status: n.Status, State: s.svc.State(n), Deadline: n.Deadline, Seq: n.Seq, Enrolled: n.Enrolled}
	if n.Boot != nil {
		out.BootCount = n.Boot.ResetCount
	}
	for _, ek := range n.EKs {
		sum := sha256.Sum256(ek.Public)
		out.EKs = append(out.EKs, hex.EncodeToString(sum[:]))
	}
	if d := n.Device; d != nil {
		out.Device = d.Maker + " " + d.Serial
	}
	if l := n.Last; l != nil {
		findings, err := json.Marshal(l.Findings)
		if err != nil {
			return out, fmt.Errorf("writing the findings of node %s: %w", n.ID, err)
		}
		out.Last = &protocol.Last{Index: l.Index, At: l.At, Decision: l.Decision, Tier: l.Tier, Findings: findings}
	}
	return out, nil
}

// reasoned refuses an act of a browser's that is given no reason: whoever clicks says
// why.
func reasoned(q *call, reason string) error {
	if q.session != nil && strings.TrimSpace(reason) == "" {
		return malformed("an act from the console needs a reason")
	}
	return nil
}

func (s *Server) setStatus(q *call) error {
	var change protocol.StatusChange
	if err := q.decode(&change); err != nil {
		return err
	}
	if err := reasoned(q, change.Reason); err != nil {
		return err
	}
	n, err := s.svc.SetStatus(q.Request().Context(), q.actor, q.Param("id"), change.Status, change.Reason)
	if err != nil {
		return err
	}
	s.cfg.Log.InfoContext(q.Request().Context(), "node status changed", "node", n.ID, "status", n.Status, "actor", q.actor)
	out, err := s.shown(n)
	if err != nil {
		return err
	}
	return q.answer(out)
}

func (s *Server) bundle(q *call) error {
	index := int64(-1)
	if text := q.QueryParam("index"); text != "" {
		n, err := number(text)
		if err != nil {
			return err
		}
		index = int64(n)
	}
	b, err := s.svc.Bundle(q.Request().Context(), q.Param("id"), index)
	if err != nil {
		return missing(err)
	}
	raw, err := b.Marshal()
	if err != nil {
		return err
	}
	return q.Blob(http.StatusOK, mediaJSON, raw)
}

func (s *Server) references(q *call) error {
	sets, err := s.svc.References(q.Request().Context())
	if err != nil {
		return err
	}
	return q.answer(protocol.References{References: nonNil(sets)})
}

func (s *Server) publish(q *call) error {
	out, err := s.svc.Publish(q.Request().Context(), q.actor, q.body)
	if err != nil {
		return err
	}
	s.cfg.Log.InfoContext(q.Request().Context(), "reference set published", "name", out.Name, "generation", out.Generation, "active", out.Active, "actor", q.actor)
	return q.answer(out)
}

func (s *Server) joinTokens(q *call) error {
	tokens, err := s.svc.JoinTokens(q.Request().Context())
	if err != nil {
		return err
	}
	return q.answer(protocol.JoinTokens{JoinTokens: nonNil(tokens)})
}

func (s *Server) mintJoinToken(q *call) error {
	var req protocol.NewJoinToken
	if err := q.decode(&req); err != nil {
		return err
	}
	out, err := s.svc.MintJoinToken(q.Request().Context(), q.actor, s.cfg.Keys.Pin(), req)
	if err != nil {
		return err
	}
	return q.answer(out)
}

func (s *Server) revokeJoinToken(q *call) error {
	if err := s.svc.RevokeJoinToken(q.Request().Context(), q.actor, q.Param("id")); err != nil {
		return err
	}
	return q.NoContent(http.StatusNoContent)
}

func (s *Server) governance(q *call) error {
	g, err := s.svc.Governance(q.Request().Context())
	if err != nil {
		return err
	}
	return q.answer(g)
}

// changeKeys takes the role of an approver for a new key and of an operator to
// withdraw one, which only closes.
func (s *Server) changeKeys(q *call) error {
	var act protocol.KeyAct
	if err := q.decode(&act); err != nil {
		return err
	}
	ctx := q.Request().Context()
	var role keys.Role
	var do func() (*protocol.KeyChange, error)
	switch act.Act {
	case "rotate":
		role, do = keys.Approver, func() (*protocol.KeyChange, error) { return s.svc.RotateKey(ctx, q.actor) }
	case "withdraw":
		role, do = keys.Actor, func() (*protocol.KeyChange, error) { return s.svc.WithdrawKey(ctx, q.actor, act.KID, act.Reason) }
	default:
		return malformed("act %.40q: expected rotate or withdraw", act.Act)
	}
	if !q.may.May(role) {
		return &httpError{status: http.StatusForbidden, code: codeRole, detail: fmt.Sprintf("role %s is required for this", role)}
	}
	change, err := do()
	if err != nil {
		return err
	}
	return q.answer(change)
}

// freeze takes the role of an operator to freeze and of an approver to agree to
// the end of it: what opens is another act than what closes.
func (s *Server) freeze(q *call) error {
	var change protocol.GovernanceChange
	if err := q.decode(&change); err != nil {
		return err
	}
	if err := reasoned(q, change.Reason); err != nil {
		return err
	}
	act, role := s.svc.Unfreeze, keys.Approver
	if change.Frozen {
		act, role = s.svc.Freeze, keys.Actor
	}
	if !q.may.May(role) {
		return &httpError{status: http.StatusForbidden, code: codeRole, detail: fmt.Sprintf("role %s is required for this", role)}
	}
	g, err := act(q.Request().Context(), q.actor, change.Reason)
	if err != nil {
		return err
	}
	s.cfg.Log.WarnContext(q.Request().Context(), "governance act", "frozen", g.Frozen, "epoch", g.Epoch, "approvals", g.Approvals, "actor", q.actor)
	return q.answer(g)
}

func (s *Server) audit(q *call) error {
	from, err := q.param("from", 0)
	if err != nil {
		return err
	}
	to, err := q.param("to", from+entriesPerPage)
	if err != nil {
		return err
	}
	if from > to {
		return malformed("from %d is after to %d", from, to)
	}
	log := s.svc.Log()
	out := protocol.Audit{Size: log.Size(), Entries: []protocol.AuditEntry{}}
	if to = min(to, from+entriesPerPage, out.Size); from < to {
		leaves, next, err := log.Kept(q.Request().Context(), from, to)
		if err != nil {
			return err
		}
		for i := from; i < next; i++ {
			if leaf, ok := leaves[i]; ok { // else retention gave it up
				out.Entries = append(out.Entries, protocol.AuditEntry{Index: i, Leaf: leaf})
			}
		}
	}
	return q.answer(out)
}

// nonNil makes an empty list of none.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
