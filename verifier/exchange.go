package verifier

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// Exchanges reports whether base tokens may be exchanged for bearer tokens for an
// audience; for "", whether for any.
func (s *Service) Exchanges(audience string) bool {
	return audience == "" && len(s.cfg.Exchange) > 0 || slices.Contains(s.cfg.Exchange, audience)
}

// Exchange gives a node that proved possession of its base token's key a bearer token
// for an audience that cannot check proofs. It ends at the same second, and is
// recorded before it is signed. What takes it does not hear of revocations.
//
// workload is the path of another SPIFFE ID that the node may ask for, "" its own.
func (s *Service) Exchange(ctx context.Context, base *token.Claims, audience, workload string) (string, *token.Bearer, error) {
	if err := cmp.Or(s.sound(), s.WitnessSound()); err != nil {
		return "", nil, err
	}
	node, ok := s.nodeOf(base.Subject)
	if !ok || !s.Exchanges(audience) || audience == "" {
		return "", nil, protocol.Refuse(protocol.RequestRefused, "audience %.100q is not one that tokens are exchanged for; add it to exchange_audiences", audience)
	}
	id := make([]byte, 16)
	if _, err := io.ReadFull(s.cfg.Rand, id); err != nil {
		return "", nil, fmt.Errorf("drawing a token id: %w", err)
	}
	b := &token.Bearer{Issuer: s.cfg.Issuer, Subject: s.workloadID(base, workload), Audience: audience, Expires: base.Expires, ID: base64.RawURLEncoding.EncodeToString(id), Status: base.Status}
	_, err := s.log.Append(ctx, ledger.Draft{Keys: []ledger.Key{nodeKey(node), stateKey}, Build: func(slot ledger.Slot) (ledger.Change, error) {
		n, ok, err := slotRow[Node](slot, nodeKey(node))
		if err != nil {
			return ledger.Change{}, err
		}
		if !ok {
			return ledger.Change{}, protocol.Refuse(protocol.NotEnrolled, "no node %s is enrolled", node)
		}
		if _, err := s.mayDerive(slot, &n, base); err != nil {
			return ledger.Change{}, err
		}
		if err := s.mayBe(&n, workload); err != nil {
			return ledger.Change{}, err
		}
		if b.IssuedAt = slot.At.Unix(); b.Expires <= b.IssuedAt {
			return ledger.Change{}, protocol.Refuse(protocol.TokenRevoked, "the base token expired; attest anew")
		}
		b.NotBefore = b.IssuedAt
		return ledger.Change{Entries: []ledger.Entry{s.entry(bundle.Exchanged, node, "verifier/"+s.cfg.Name,
			bundle.Exchange{ID: b.ID, Audience: audience, Workload: workload, Issued: b.IssuedAt, Expires: b.Expires, Base: uint64(base.Writ.Log.Index)})}}, nil
	}})
	if err != nil {
		return "", nil, err
	}
	key, err := s.signer(s.published.Load().signer)
	if err != nil {
		return "", nil, err
	}
	tok, err := token.IssueBearer(*b, key, s.cfg.Rand)
	return tok, b, err
}
