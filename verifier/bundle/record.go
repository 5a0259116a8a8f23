package bundle

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/rotation"
)

// The kinds of log entries (data of each: the struct named beside it).
const (
	NodeEnrolled      = "node.enrolled"           // Enrolled
	NodeStatus        = "node.status"             // Status
	Decided           = "appraisal.decided"       // Decision, a denial
	Issued            = "legitimacy.issued"       // Decision, the first token after a lapse
	Renewed           = "legitimacy.renewed"      // Decision
	Lapsed            = "legitimacy.expired"      // Lapse
	Admitted          = "execution.admitted"      // Token
	Terminated        = "execution.terminated"    // Stop
	Exchanged         = "token.exchanged"         // Exchange
	SVIDIssued        = "svid.issued"             // SVID
	Revoked           = "legitimacy.revoked"      // Status
	ReferenceAdded    = "reference.added"         // Reference
	ReferenceActive   = "reference.activated"     // Reference
	JoinTokenMade     = "join-token.created"      // JoinToken
	JoinTokenRevoked  = "join-token.revoked"      // JoinToken
	KeyIntroduced     = rotation.Introduced       // rotation.Introduction
	KeyRotated        = rotation.Rotated          // rotation.Rotation
	KeyWithdrawn      = rotation.Withdrawn        // rotation.Withdrawal
	Frozen            = "governance.frozen"       // Governance
	Unfrozen          = "governance.unfrozen"     // Governance
	Approved          = "governance.approved"     // Approval: an act that waits for more operators
	OperatorRevoked   = "operator.revoked"        // OperatorEnd: what certificates it had until then count no more
	VerifierStarted   = "verifier.started"        // Started
	VerifierJoined    = "verifier.joined"         // Joined
	VerifierRetired   = "verifier.retired"        // Joined: what its key signed up to here is history, nothing after it
	PeerAdded         = "federation.peer-added"   // Peer: another domain is recognised
	PeerRemoved       = "federation.peer-removed" // Peer
	PeerSeen          = "federation.checkpoint"   // PeerCheckpoint
	PeerDiverged      = "federation.diverged"     // Divergence: nothing of that domain counts any more
	ForgeriesRejected = "evidence.rejected"       // Rejected: an aggregate
	RetentionPruned   = ledger.KindPruned         // ledger.Pruned
)

// Enrolled binds a node to its keys. The keys themselves stay off the log.
type Enrolled struct {
	EK         []string `json:"ek"` // hexadecimal SHA-256 of each TPMT_PUBLIC, salted with the domain
	AK         string   `json:"ak"` // hexadecimal SHA-256 of the AK's TPMT_PUBLIC
	Generation uint32   `json:"generation"`
	Class      string   `json:"class"`
	Status     string   `json:"status"`
	Device     string   `json:"device,omitempty"` // whose IAK was presented, salted with the domain
}

// Status is an operator's act on a node, or its own word that a token of it is to
// end, and the last token that it ends.
type Status struct {
	From   string `json:"from"`
	To     string `json:"to"`
	State  string `json:"state"`
	Seq    uint64 `json:"seq"`    // tokens of the node up to this one are dead
	Reason string `json:"reason"` // salted commitment
}

// Lapse is that a node's last base token expired and no other followed. The deadline
// ended the work; this says so.
type Lapse struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Deadline int64  `json:"deadline"` // exp of that token
	Seq      uint64 `json:"seq"`      // the node's last
}

// Decision is a verdict and, for a grant, the token it earned.
type Decision struct {
	Decision   string `json:"decision"`
	Tier       string `json:"tier"`
	At         int64  `json:"at"`
	Verdict    string `json:"verdict"` // hexadecimal SHA-256, as all digests here
	Evidence   string `json:"evidence"`
	References string `json:"references"`
	From       string `json:"from"` // legitimacy state before
	To         string `json:"to"`
	Seq        uint64 `json:"seq"` // the node's last; a denial ends every token up to it
	Token      *Token `json:"token,omitempty"`
}

// Token records a token by what it claims; Digest is that of its JWS signing
// input, so the entry stands before the token is signed.
type Token struct {
	ID       string `json:"jti"`
	Audience string `json:"aud"`
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	Seq      uint64 `json:"seq"`
	Prev     string `json:"prev"`
	JKT      string `json:"jkt"`           // empty: bound to a client certificate
	X5T      string `json:"x5t,omitempty"` // which it names
	Exec     string `json:"exec,omitempty"`
	Parent   string `json:"parent,omitempty"`
	Workload string `json:"wl,omitempty"`
	Keeper   string `json:"keeper,omitempty"` // the node's word, as wl and level are
	Key      string `json:"key,omitempty"`    // thumbprint of the keeper's key, which signs how it ended
	Image    string `json:"image,omitempty"`  // of the workload; the word of whoever started it
	Argv     string `json:"argv,omitempty"`   // digest of the policy that allowed the command line; the keeper's word
	Level    string `json:"level"`
	Epoch    uint64 `json:"epoch"`
	Base     uint64 `json:"base,omitempty"` // index of the entry of the token it was derived from

	// On what the digests stand: appraisal.BasisMeasured or BasisAsserted; absent
	// without the digest, and in records of old.
	WorkloadBasis string `json:"wl_basis,omitempty"`
	KeeperBasis   string `json:"keeper_basis,omitempty"`
}

// Exchange is a bearer token given for a token, whose entry is Base.
type Exchange struct {
	ID       string `json:"jti"`
	Audience string `json:"aud"`
	Workload string `json:"workload,omitempty"` // path of the SPIFFE ID, if it is not the node's
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	Base     uint64 `json:"base"`
}

// SVID is an X509-SVID given for a token, whose entry is Base.
type SVID struct {
	Workload string `json:"workload"` // path of the SPIFFE ID; "" is the node's
	Key      string `json:"key"`      // hexadecimal SHA-256 of the subject's public key
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	Base     uint64 `json:"base"`
}

// Reference is a reference set entering or gaining force.
type Reference struct {
	Name       string `json:"name"`
	Generation uint64 `json:"generation"`
	Digest     string `json:"digest"`
	Approvals  int    `json:"approvals"`
}

// JoinToken is a join token by its public id.
type JoinToken struct {
	ID      string `json:"id"`
	Class   string `json:"class"`
	Expires int64  `json:"expires"`
}

// Governance is a domain-wide act.
type Governance struct {
	Epoch     uint64 `json:"epoch"`
	Reason    string `json:"reason"` // salted commitment
	Approvals int    `json:"approvals"`
}

// Approval is an operator's word for an act that takes several.
type Approval struct {
	Act       string `json:"act"`
	Approvals int    `json:"approvals"` // so far
}

// OperatorEnd is that operators, or the one it is about, ended an operator's
// certificates.
type OperatorEnd struct {
	Approvals int    `json:"approvals"`
	Reason    string `json:"reason"` // salted commitment
}

// Peer is another domain. Digest is that of what operators approved: its trust file,
// the address it is followed at, and how long it may be silent.
type Peer struct {
	Domain    string `json:"domain"`
	Digest    string `json:"digest"`
	Approvals int    `json:"approvals,omitempty"`
}

// PeerCheckpoint is what another domain's log has shown.
type PeerCheckpoint struct {
	Domain     string `json:"domain"`
	Checkpoint string `json:"checkpoint"` // signed note
}

// Divergence is the proof that another domain's log contradicts itself.
type Divergence struct {
	Domain string `json:"domain"`
	Before string `json:"before"` // signed notes
	Shown  string `json:"shown"`
	Reason string `json:"reason"`
}

// Started is the barrier a verifier writes before it serves.
type Started struct {
	Verifier string            `json:"verifier"`
	Build    string            `json:"build"`
	Keys     map[string]string `json:"keys"` // purpose -> id
}

// Joined is a further verifier whose checkpoints are the domain's from here on,
// or, retired, up to here.
type Joined struct {
	LogKey string `json:"log_key"` // hexadecimal SHA-256
}

// Rejected counts evidence that was not authentic; none of it moved anything.
type Rejected struct {
	Count uint64 `json:"count"`
	From  int64  `json:"from"`
	To    int64  `json:"to"`
}

// Subject is the pseudonym under which a node or operator appears on the log of
// one domain: whoever knows the name can find it, nobody can join two domains'
// logs by it.
func Subject(domain, name string) string {
	s := sha256.Sum256([]byte("writ-subject-v1\x00" + domain + "\x00" + name))
	return hex.EncodeToString(s[:16])
}

// Base64 turns a digest as entries and verdicts write it (hexadecimal) into the
// form of token claims (base64url).
func Base64(hexDigest string) string {
	b, err := hex.DecodeString(hexDigest)
	if err != nil {
		panic("bundle: a digest of our own is not hexadecimal: " + hexDigest)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}
