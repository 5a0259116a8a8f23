package verifier

import (
	"context"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/token"
)

const kindStream = "stream" // by id: a StreamState

// StreamState is how far the receiver of a stream of notices is. All verifiers of the
// domain see the same.
type StreamState struct {
	Next     uint64   `json:"next"`            // index of the first entry of which something may be due
	Acked    []string `json:"acked,omitempty"` // ids of notices of that entry and later ones which the receiver has
	Asked    uint64   `json:"asked,omitempty"` // verification events asked for so far
	Verified uint64   `json:"verified,omitempty"`
	State    string   `json:"state,omitempty"` // of the last one asked for
	Owner    string   `json:"owner,omitempty"` // the verifier that pushes,
	Until    int64    `json:"until,omitempty"` // unless it has been silent since; Unix seconds
}

// Stream returns the state of a stream. One that is new begins with what comes next.
func (s *Service) Stream(ctx context.Context, id string) (StreamState, error) {
	st, ok, err := row[StreamState](ctx, s, ledger.Key{Kind: kindStream, ID: id})
	if err != nil || ok {
		return st, err
	}
	return s.MoveStream(ctx, id, func(*StreamState) bool { return true })
}

// MoveStream changes the state of a stream under the head lock, unless move says that
// there is nothing to change. It is no history: nothing but the row is written.
func (s *Service) MoveStream(ctx context.Context, id string, move func(*StreamState) bool) (StreamState, error) {
	key := ledger.Key{Kind: kindStream, ID: id}
	var st StreamState
	_, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{key}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		var ok bool
		var err error
		if st, ok, err = slotRow[StreamState](slot, key); err != nil {
			return ledger.Change{}, err
		}
		if !ok {
			st.Next = slot.Index
		}
		if !move(&st) {
			return ledger.Change{}, nil
		}
		return ledger.Change{Puts: []ledger.Put{{Key: key, Value: encode(st)}}}, nil
	}})
	if err != nil { // it may be being written yet
		return StreamState{}, err
	}
	return st, nil
}

// Notice signs a notice in the domain's name.
func (s *Service) Notice(n token.Notice) (string, error) {
	key, err := s.signer(s.published.Load().signer)
	if err != nil {
		return "", err
	}
	n.Issuer, n.IssuedAt = s.cfg.Issuer, s.cfg.Now().Unix()
	return token.IssueNotice(n, key, s.cfg.Rand)
}

// Name is this verifier's within the domain.
func (s *Service) Name() string { return s.cfg.Name }
