package verifier

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// Reference is a set in force.
type Reference struct {
	Name       string
	Generation uint64
	Digest     string // of the set alone
	Whole      string // of the set with all that it builds on, as decisions name it; empty: it does not hold together
	NotBefore  int64  // Unix seconds
	NotAfter   int64  // 0: no end
	Base       []string
	Entry      uint64 // index of the entry that put it in force
}

// InForce returns the sets in force, by name.
func (s *Service) InForce(ctx context.Context) ([]Reference, error) {
	rows, err := s.log.List(ctx, kindReference, "", 1000)
	if err != nil {
		return nil, err
	}
	out := make([]Reference, 0, len(rows))
	for _, r := range rows {
		var a activeReference
		if err := decode(r.Value, &a); err != nil {
			return nil, fmt.Errorf("reading reference %s: %w", r.Key.ID, err)
		}
		set, err := s.activeSet(ctx, r.Key.ID)
		if err != nil {
			return nil, err
		}
		ref := Reference{Name: r.Key.ID, Generation: a.Generation, Digest: a.Digest, Entry: a.Entry}
		if set != nil {
			ref.NotBefore, ref.NotAfter = set.NotBefore, set.NotAfter
			for _, b := range set.Base {
				ref.Base = append(ref.Base, b.Name)
			}
			if set.Whole() {
				sum := set.Digest()
				ref.Whole = hex.EncodeToString(sum[:])
			}
		}
		out = append(out, ref)
	}
	return out, nil
}

// Peer is a verifier of the domain by its log key.
type Peer struct {
	LogKey  string // hexadecimal SHA-256
	Self    bool
	First   bool // it began the domain
	Retired bool // it signs no more
}

// Peers returns the verifiers that the domain has recorded.
func (s *Service) Peers(ctx context.Context) ([]Peer, error) {
	have, _, err := row[map[string]string](ctx, s, ledger.Key{Kind: kindDomain, ID: "keys"})
	if err != nil {
		return nil, err
	}
	own := s.cfg.KeyIDs[logPurpose]
	var out []Peer
	for purpose, id := range have {
		if purpose != logPurpose && !strings.HasPrefix(purpose, peerPurpose) && !strings.HasPrefix(purpose, retiredPurpose) {
			continue
		}
		out = append(out, Peer{LogKey: id, Self: id == own, First: purpose == logPurpose, Retired: have[retiredPurpose+id] != ""})
	}
	slices.SortFunc(out, func(a, b Peer) int {
		if a.First != b.First {
			return map[bool]int{true: -1, false: 1}[a.First]
		}
		return strings.Compare(a.LogKey, b.LogKey)
	})
	return slices.CompactFunc(out, func(a, b Peer) bool { return a.LogKey == b.LogKey }), nil
}

// Policy is what the domain asks of its nodes and operators.
type Policy struct {
	Rules              int // version of the appraisal's rules
	TokenLife          time.Duration
	MinLevel           string
	Approvals          int // distinct operators that open what is closed
	ReferenceThreshold int // signatures that a set needs
	ReferenceKeys      int
	ProveHaltEvery     time.Duration // 0: not asked for
	EKVendors          string        // version of the bundle of TPM makers' roots; empty: none
	EKRoots            int
}

// Policy returns the policy of this verifier.
func (s *Service) Policy() Policy {
	return Policy{Rules: appraisal.Rules, TokenLife: s.cfg.TokenLife, MinLevel: s.cfg.MinLevel, Approvals: s.cfg.Approvals,
		ReferenceThreshold: s.cfg.ReferenceThreshold, ReferenceKeys: len(s.cfg.ReferenceKeys), ProveHaltEvery: s.cfg.ProveHaltEvery,
		EKVendors: s.cfg.EKVendors, EKRoots: len(s.roots)}
}

// TokenKey is a token key with what the log says of it.
type TokenKey struct {
	KID, State  string
	From, Until int64  // Unix seconds
	Entry       uint64 // index of the last entry about it; 0: the entry that started the domain
}

// Keys lists the token keys, with the entries that prove them.
func (s *Service) Keys() []TokenKey {
	p := s.published.Load()
	var out []TokenKey
	for _, k := range p.rows.Keys {
		out = append(out, TokenKey{KID: k.ID, State: k.state(p.signer, s.cfg.Now()), From: k.From, Until: k.Until, Entry: max(k.Introduced, k.Retired, k.Withdrawn)})
	}
	return out
}

// Epoch returns the domain's epoch, whether it is frozen, and the index of the last
// act that ended every token, 0 for none.
func (s *Service) Epoch(ctx context.Context) (epoch uint64, frozen bool, act uint64, err error) {
	d, err := s.domainState(ctx)
	return d.Epoch, d.Frozen, d.Since, err
}

// NodeBySubject returns the id of the node that has a pseudonym in the log.
func (s *Service) NodeBySubject(ctx context.Context, subject string) (id string, ok bool, err error) {
	return row[string](ctx, s, ledger.Key{Kind: kindSubject, ID: subject})
}

// Subject is the pseudonym of a node in the log.
func (s *Service) Subject(node string) string { return bundle.Subject(s.cfg.Domain, node) }

// Decisions returns the indexes of up to limit decisions on a node, newest first,
// that are below an index: those of its base tokens, denials and further tokens.
func (s *Service) Decisions(ctx context.Context, node string, below uint64, limit int) ([]uint64, error) {
	// Rows are listed upwards only: look at wider and wider parts of the log below.
	for width := uint64(256); ; width *= 8 {
		from := below - min(below, width)
		out, err := s.decisionsFrom(ctx, node, from, below, limit)
		if err != nil || len(out) == limit || from == 0 {
			slices.Reverse(out)
			return out, err
		}
	}
}

// decisionsFrom returns the last of the indexes between from and below, in order.
func (s *Service) decisionsFrom(ctx context.Context, node string, from, below uint64, limit int) ([]uint64, error) {
	const page = 500
	after := node + "/" // before every index
	if from > 0 {
		after = decisionKey(node, from-1).ID
	}
	var out []uint64
	for {
		rows, err := s.log.List(ctx, kindDecision, after, page)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			id, of := strings.CutPrefix(r.Key.ID, node+"/")
			index, err := strconv.ParseUint(id, 10, 64)
			if !of || err != nil || index >= below {
				return out, nil
			}
			if out = append(out, index); len(out) > limit {
				out = out[1:]
			}
			after = r.Key.ID
		}
		if len(rows) < page {
			return out, nil
		}
	}
}
