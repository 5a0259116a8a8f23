package api

import (
	"context"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/lineage"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Most that is read and told of what is alive.
const (
	aliveEntries = 200_000
	aliveTold    = 10_000
)

// alive lists the executions that have a token now, of one node or of all. Each has
// had one within a token's life, so no more of the log is read than that.
func (s *Server) alive(q *call) error {
	now := s.cfg.Now().Unix()
	query := lineage.Query{From: now}
	if node := q.QueryParam("node"); node != "" {
		query.Nodes = []string{bundle.Subject(s.svc.Domain(), node)}
	}
	index, cut, err := s.recentRuns(q.Request().Context(), now-int64(s.svc.TokenLife().Seconds())-1)
	if err != nil {
		return err
	}
	found, more := index.Find(query, aliveTold)
	out := protocol.Alive{Executions: []protocol.Execution{}, More: more || cut}
	for _, x := range found {
		if !x.Ended && x.Expires > now {
			out.Executions = append(out.Executions, protocol.Execution(x))
		}
	}
	return q.answer(out)
}

// recentRuns are the executions that entries since a second speak of. cut says that
// there are more such entries than are read.
func (s *Server) recentRuns(ctx context.Context, since int64) (x *lineage.Index, cut bool, err error) {
	log := s.svc.Log()
	size := log.Size()
	from, err := log.FirstAt(ctx, since)
	if err != nil {
		return nil, false, err
	}
	if cut = size-min(from, size) > aliveEntries; cut {
		from = size - aliveEntries
	}
	x = lineage.NewIndex(0)
	for from < size {
		leaves, next, err := log.Kept(ctx, from, min(from+entriesPerPage, size))
		if err != nil { // retention gives up nothing that is so young
			return nil, false, err
		}
		for ; from < next; from++ {
			leaf, err := ledger.ParseLeaf(leaves[from])
			if err == nil {
				err = x.Add(from, leaf)
			}
			if err != nil {
				return nil, false, err
			}
		}
	}
	return x, cut, nil
}
