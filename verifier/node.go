package verifier

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// Kinds of state rows.
const (
	kindDomain     = "domain"     // "keys", "state", "token-keys"
	kindNode       = "node"       // by node id
	kindEK         = "ek"         // by ekID -> node id
	kindAK         = "ak"         // by SHA-256 of the TPMT_PUBLIC -> node id
	kindDevice     = "device"     // by Device.id -> node id
	kindJoin       = "join-token" // by id
	kindEnrollment = "enrollment" // by id, until activated
	kindOperator   = "operator"   // by name: up to when its certificates are revoked
	kindReference  = "reference"  // by name: the active generation
	kindPending    = "pending"    // by act: who approved it so far
	kindDecision   = "decision"   // by node id, "/" and the entry's index
	kindOpening    = "opening"    // by commitment
	kindOver       = "over"       // by the index that began a run of legitimacy which is over -> node id
	kindEvidence   = "evidence"   // by SHA-256: when a decision named it last
	kindSubject    = "subject"    // by a node's pseudonym in the log -> node id; absent for nodes enrolled before it was kept
)

// Administrative status: only operators change it.
const (
	Pending   = "pending"
	Active    = "active"
	Suspended = "suspended"
	Revoked   = "revoked" // final
	Retired   = "retired" // final
)

// Legitimacy states (RFC-EG-018).
const (
	Initialized  = "initialized"
	Verified     = "verified"
	Synchronized = "synchronized"
	Constrained  = "constrained"
	Elevated     = "elevated-assurance"
	FailClosed   = "fail-closed-restricted"
	Terminated   = "execution-terminated"
)

// edges are the legal transitions; anything else cannot be written.
var edges = map[string][]string{
	Initialized:  {Verified, FailClosed},
	Verified:     {Synchronized, FailClosed},
	Synchronized: {Synchronized, Verified, Constrained, Elevated, FailClosed},
	Constrained:  {Synchronized, Verified, FailClosed},
	Elevated:     {Synchronized, Verified, FailClosed},
	FailClosed:   {FailClosed, Verified, Terminated},
	Terminated:   {FailClosed, Verified},
}

// Node is what the domain knows of a node.
type Node struct {
	ID         string          `json:"id"`
	Class      string          `json:"class"`
	Status     string          `json:"status"`
	State      string          `json:"state"`
	EKs        []protocol.EK   `json:"eks"`
	IAK        *protocol.IAK   `json:"iak,omitempty"`     // nil: no known maker of devices vouches for the TPM
	Device     *Device         `json:"device,omitempty"`  // what it says of it
	Vouched    bool            `json:"vouched,omitempty"` // it is believed because no known maker of the TPM does
	AK         []byte          `json:"ak"`                // TPMT_PUBLIC
	Generation uint32          `json:"generation"`        // of the AK template
	Enrolled   int64           `json:"enrolled"`          // Unix seconds
	Entry      uint64          `json:"entry"`             // index of the enrolment entry
	Counter    uint64          `json:"counter"`           // decisions so far: a challenge is good for one
	Seq        uint64          `json:"seq"`               // of the last token
	Prev       string          `json:"prev"`              // digest of the last token
	Ended      uint64          `json:"ended"`             // tokens up to this seq are dead
	Deadline   int64           `json:"deadline"`          // exp of the last base token
	JKT        string          `json:"jkt"`               // of the agent's key of this boot
	Base       uint64          `json:"base"`              // index of the last granting decision
	Run        uint64          `json:"run,omitempty"`     // index of the decision that began its present run of legitimacy; 0: none
	Halted     int64           `json:"halted,omitempty"`  // when it last proved that it can halt work; Unix seconds
	Doubt      bool            `json:"doubt"`             // its TPM's counters went back: closed until an operator decides
	Boot       *appraisal.Boot `json:"boot,omitempty"`
	IMAChunks  []string        `json:"ima_chunks,omitempty"` // blobs that make up the proven prefix
	Marked     int64           `json:"marked,omitempty"`     // when rows last said that its evidence is in use
	Recent     []Request       `json:"recent,omitempty"`
	Last       *Summary        `json:"last,omitempty"`
	Boots      []BootSpan      `json:"boots,omitempty"` // the last few, oldest first
}

// BootSpan is where in the log the decisions on one boot are.
type BootSpan struct {
	ResetCount   uint32 `json:"reset_count"`
	RestartCount uint32 `json:"restart_count"`
	First        uint64 `json:"first"`          // index of the first decision
	Last         uint64 `json:"last,omitempty"` // and of the last one; 0 while the boot lasts
}

// Request remembers an answered request, so that a retry gets the same answer.
type Request struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
	Index  uint64 `json:"index"`
}

// Summary is the last decision in short, for people.
type Summary struct {
	Index      uint64              `json:"index"`
	At         int64               `json:"at"`
	Decision   string              `json:"decision"`
	Tier       string              `json:"tier"`
	References string              `json:"references,omitempty"` // digest of the set it was judged by
	Findings   []appraisal.Finding `json:"findings"`             // the first few
}

// rememberedBoots is how many boots a node's row names.
const rememberedBoots = 4

// booted notes where the decisions on a boot begin. last and index are those of the
// decision before and of this one.
func (n *Node) booted(last, index uint64) {
	if n.Boot == nil {
		return
	}
	now := BootSpan{ResetCount: n.Boot.ResetCount, RestartCount: n.Boot.RestartCount, First: index}
	if i := len(n.Boots) - 1; i >= 0 {
		before := n.Boots[i]
		if before.ResetCount == now.ResetCount && before.RestartCount == now.RestartCount {
			return
		}
		before.Last = last
		n.Boots = append(slices.Clone(n.Boots[:i]), before)
	}
	n.Boots = append(slices.Clip(n.Boots), now)
	n.Boots = n.Boots[max(0, len(n.Boots)-rememberedBoots):]
}

// recentRequests is how many answered requests a node may still repeat.
const recentRequests = 8

func (n *Node) remember(r Request) {
	n.Recent = append(n.Recent, r)
	if len(n.Recent) > recentRequests {
		n.Recent = slices.Clone(n.Recent[len(n.Recent)-recentRequests:])
	}
}

func (n *Node) recent(id string) (Request, bool) {
	for _, r := range n.Recent {
		if r.ID == id {
			return r, true
		}
	}
	return Request{}, false
}

// move changes the legitimacy state along legal edges only.
func (n *Node) move(states ...string) error {
	for _, to := range states {
		if !slices.Contains(edges[n.State], to) {
			return fmt.Errorf("moving node %s from %s to %s: no such transition", n.ID, n.State, to)
		}
		n.State = to
	}
	return nil
}

// Effective is the state that counts at a moment: the stored word never
// outlives its deadline or the operator's act (security rule 12).
func (n *Node) Effective(now time.Time) string {
	return Effective(n.Status, n.State, n.Deadline, now)
}

// Effective is [Node.Effective] of a node's administrative status, its stored state
// and the deadline of its last token (Unix seconds).
func Effective(status, state string, deadline int64, now time.Time) string {
	switch {
	case status == Pending && state == Initialized:
		return Initialized
	case status != Active:
		return FailClosed
	case (state == Synchronized || state == Elevated) && now.Unix() >= deadline:
		return FailClosed
	}
	return state
}

// Legitimate reports whether work may run on the node at a moment.
func (n *Node) Legitimate(now time.Time) bool {
	s := n.Effective(now)
	return s == Synchronized || s == Elevated
}

func nodeKey(id string) ledger.Key { return ledger.Key{Kind: kindNode, ID: id} }

// Node returns what is known of a node.
func (s *Service) Node(ctx context.Context, id string) (*Node, error) {
	n, ok, err := row[Node](ctx, s, nodeKey(id))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, s.notEnrolled(id)
	}
	return &n, nil
}

func (s *Service) notEnrolled(id string) error {
	return protocol.Refuse(protocol.NotEnrolled, "no node %.64q is enrolled in %s; provision it first", id, s.cfg.Domain)
}

// Nodes lists nodes by id, starting after one of them.
func (s *Service) Nodes(ctx context.Context, after string, limit int) ([]Node, error) {
	rows, err := s.log.List(ctx, kindNode, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Node, len(rows))
	for i, r := range rows {
		if err := decode(r.Value, &out[i]); err != nil {
			return nil, fmt.Errorf("reading node %s: %w", r.Key.ID, err)
		}
	}
	return out, nil
}

func decisionKey(node string, index uint64) ledger.Key {
	return ledger.Key{Kind: kindDecision, ID: fmt.Sprintf("%s/%020d", node, index)}
}
