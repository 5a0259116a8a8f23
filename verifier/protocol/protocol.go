// Package protocol holds the messages that nodes, operators and a verifier
// exchange over HTTP, so that both ends speak of one definition.
//
// Byte slices travel as standard base64, times as Unix seconds unless RFC 3339
// is said. Evidence, reference sets and bundles have formats of their own.
package protocol

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/writ-attestation/writ/internal/jsonform"
	"github.com/writ-attestation/writ/verifier/rotation"
)

// EK is an endorsement key of a TPM with what its maker says of it.
type EK struct {
	Public      []byte   `json:"public"`      // TPMT_PUBLIC
	Certificate []byte   `json:"certificate"` // DER; null: the TPM carries none
	Chain       [][]byte `json:"chain,omitempty"`
}

// EnrollRequest asks to enrol a TPM: POST /v1/enrollments.
type EnrollRequest struct {
	JoinToken  string `json:"join_token"`
	EKs        []EK   `json:"eks"`        // every EK with a certificate, the one that names the node first
	AK         []byte `json:"ak"`         // TPMT_PUBLIC
	Generation uint32 `json:"generation"` // of the AK template
	IAK        *IAK   `json:"iak,omitempty"`
}

// IAK is the initial attestation key that a device's maker certified, and the AK
// certified by it.
type IAK struct {
	Public      []byte   `json:"public"`      // TPMT_PUBLIC
	Certificate []byte   `json:"certificate"` // DER
	IDevID      []byte   `json:"idevid"`      // DER: the certificate of the device's other key
	Chain       [][]byte `json:"chain"`
	Attest      []byte   `json:"attest"`    // TPMS_ATTEST of TPM2_Certify over the AK
	Signature   []byte   `json:"signature"` // TPMT_SIGNATURE
}

// EnrollChallenge is what only the TPM that holds the AK and every EK can open.
type EnrollChallenge struct {
	ID          string       `json:"id"`
	Credentials []Credential `json:"credentials"` // one per EK, in order
	Expires     time.Time    `json:"expires"`     // RFC 3339
}

// Credential is the output of TPM2_MakeCredential, both parts as the TPM takes
// them in TPM2_ActivateCredential.
type Credential struct {
	Blob   []byte `json:"blob"`   // TPM2B_ID_OBJECT contents
	Secret []byte `json:"secret"` // TPM2B_ENCRYPTED_SECRET contents
}

// Activation answers an EnrollChallenge: POST /v1/enrollments/{id}/activation.
type Activation struct {
	Secrets [][]byte `json:"secrets"` // one per EK, in order
}

// Enrolled answers an Activation.
type Enrolled struct {
	Node    string `json:"node"`
	Status  string `json:"status"`           // active, or pending until an operator approves
	Reason  string `json:"reason,omitempty"` // why the TPM's maker could not be confirmed
	Class   string `json:"class"`
	Subject string `json:"sub"`
	Receipt string `json:"receipt"` // c2sp.org/tlog-proof@v1
}

// ChallengeRequest asks for a nonce: POST /v1/challenges.
type ChallengeRequest struct {
	Node       string `json:"node"`
	Checkpoint string `json:"checkpoint,omitempty"` // the last one the node holds
}

// Challenge is a nonce for one attestation of one node.
type Challenge struct {
	Nonce   []byte    `json:"nonce"`   // 32 bytes
	Expires time.Time `json:"expires"` // RFC 3339
}

// Outcome answers an attestation: POST /v1/attestations. A denial carries the
// same members in its problem, without a token and with the signed events that
// end the node's tokens.
type Outcome struct {
	Verdict   json.RawMessage `json:"verdict"`
	Token     string          `json:"token,omitempty"`
	Receipt   string          `json:"receipt"`
	Challenge Challenge       `json:"challenge"`
	Events    []string        `json:"events,omitempty"`

	// What the verdict says, for whoever counts; not sent.
	Tier string `json:"-"`
	At   int64  `json:"-"` // Unix seconds
}

// AppendJSON appends the outcome as encoding/json writes it; the verdict is in that
// form already.
func (o *Outcome) AppendJSON(b []byte) []byte {
	out := jsonform.In(b)
	verdict := o.Verdict
	if verdict == nil {
		verdict = json.RawMessage("null")
	}
	out.Raw("verdict", verdict)
	out.Filled("token", o.Token)
	out.String("receipt", o.Receipt)
	next := jsonform.In(out.Name("challenge").B)
	next.Bytes("nonce", o.Challenge.Nonce)
	next.B = append(o.Challenge.Expires.AppendFormat(append(next.Name("expires").B, '"'), time.RFC3339Nano), '"')
	out.B = next.End()
	if len(o.Events) > 0 {
		out.Strings("events", o.Events)
	}
	return out.End()
}

// Grant answers a request for a further token: POST /v1/tokens.
type Grant struct {
	Token   string `json:"token"`
	Receipt string `json:"receipt"`
}

// Stopped answers a stop record: POST /v1/stops.
type Stopped struct {
	Receipt string `json:"receipt"`
}

// Published says what became of a reference set: POST /v1/references.
type Published struct {
	Name       string `json:"name"`
	Generation uint64 `json:"generation"`
	Digest     string `json:"digest"`
	Active     bool   `json:"active"`
	Approvals  int    `json:"approvals"`
	Needed     int    `json:"needed"`
}

// NewJoinToken describes a join token to make: POST /v1/join-tokens.
type NewJoinToken struct {
	Class string `json:"class"`
	EK    string `json:"ek,omitempty"`   // hexadecimal SHA-256 of the TPMT_PUBLIC: enrols without an approval
	Life  int64  `json:"life,omitempty"` // seconds, at most a day
}

// JoinToken is a join token as operators see it; Token is shown once.
type JoinToken struct {
	ID      string `json:"id"`
	Class   string `json:"class"`
	EK      string `json:"ek,omitempty"`
	Expires int64  `json:"expires"`
	UsedBy  string `json:"used_by,omitempty"`
	Revoked bool   `json:"revoked,omitempty"`
	Token   string `json:"token,omitempty"`
}

// StatusChange is an operator's act on a node: POST /v1/nodes/{id}/status.
type StatusChange struct {
	Status string `json:"status"`
	Reason string `json:"reason"`
}

// Node is a node as operators see it: GET /v1/nodes, /v1/nodes/{id}.
type Node struct {
	ID        string   `json:"id"`
	Class     string   `json:"class"`
	Status    string   `json:"status"`
	State     string   `json:"state"`    // effective at the time of the answer
	Deadline  int64    `json:"deadline"` // exp of its last token, 0: none
	Seq       uint64   `json:"seq"`
	Enrolled  int64    `json:"enrolled"`
	BootCount uint32   `json:"bootcount"`
	EKs       []string `json:"eks"`              // hexadecimal SHA-256 of each public area
	Device    string   `json:"device,omitempty"` // maker and serial number, of a node with an IAK
	Last      *Last    `json:"last,omitempty"`
}

// Last is a node's last decision in short.
type Last struct {
	Index    uint64          `json:"index"`
	At       int64           `json:"at"`
	Decision string          `json:"decision"`
	Tier     string          `json:"tier"`
	Findings json.RawMessage `json:"findings"` // the first few
}

// Governance is the state of the domain: GET and POST /v1/freeze.
type Governance struct {
	Frozen    bool   `json:"frozen"`
	Epoch     uint64 `json:"epoch"`
	Approvals int    `json:"approvals"`
	Needed    int    `json:"needed"`
}

// NewPeer asks to recognise another domain, by its trust file.
type NewPeer struct {
	Trust  json.RawMessage `json:"trust"`
	URL    string          `json:"url"`          // of its verifier
	CA     string          `json:"ca,omitempty"` // PEM of the authority of its verifiers
	MaxAge int64           `json:"max_age"`      // seconds it may be silent
}

// PeerChange says how far the recognition of a domain is.
type PeerChange struct {
	Domain    string `json:"domain"`
	Digest    string `json:"digest"`
	Active    bool   `json:"active"`
	Approvals int    `json:"approvals"`
	Needed    int    `json:"needed"`
}

// NewVerifier is a further verifier of the domain, by its log key in note format.
type NewVerifier struct {
	LogKey string `json:"log_key"`
}

// Admission says how many operators have agreed to a further verifier.
type Admission struct {
	LogKey    string `json:"log_key"` // hexadecimal SHA-256
	Approvals int    `json:"approvals"`
	Needed    int    `json:"needed"`
}

// States of a peer.
const (
	PeerAccepted = "accepted"
	PeerClosed   = "closed" // nothing of it counts
)

// PeerDomain is a recognised domain.
type PeerDomain struct {
	Domain     string          `json:"domain"`
	State      string          `json:"state"`
	Why        string          `json:"why,omitempty"` // it is closed
	URL        string          `json:"url"`
	CA         string          `json:"ca,omitempty"`
	MaxAge     int64           `json:"max_age"`
	Seen       int64           `json:"seen"`                 // Unix seconds; 0: never
	Checkpoint string          `json:"checkpoint,omitempty"` // the last one it has shown
	Trust      json.RawMessage `json:"trust"`
}

// PeerDomains lists them.
type PeerDomains struct {
	Peers []PeerDomain `json:"peers"`
}

// GovernanceChange freezes or unfreezes the domain.
type GovernanceChange struct {
	Frozen bool   `json:"frozen"`
	Reason string `json:"reason"`
}

// TokenKeys is GET /v1/public/keys: the domain's token keys, and the log entries by
// which whoever pinned the log's key comes to know them.
type TokenKeys struct {
	Keys   []TokenKey       `json:"keys"`
	Proven []rotation.Entry `json:"proven"`
}

// TokenKey is one of them.
type TokenKey struct {
	KID   string `json:"kid"`
	State string `json:"state"`           // signing, next, retiring, retired or withdrawn
	From  int64  `json:"from"`            // Unix second since when it signs, or will
	Until int64  `json:"until,omitempty"` // when its last token has expired
}

// KeyAct is POST /v1/keys: "rotate", or "withdraw" of a key for a reason.
type KeyAct struct {
	Act    string `json:"act"`
	KID    string `json:"kid,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// KeyChange is what came of it: the key that signs, from when. KID is empty while
// approvals are missing.
type KeyChange struct {
	KID       string `json:"kid,omitempty"`
	From      int64  `json:"from,omitempty"`
	Epoch     uint64 `json:"epoch"`
	Approvals int    `json:"approvals"`
	Needed    int    `json:"needed"`
}

// OperatorRevocation agrees to revoke the certificates of an operator: POST
// /v1/operators. Whose they are revokes them alone.
type OperatorRevocation struct {
	Operator string `json:"operator"` // name
	Reason   string `json:"reason"`   // the log holds a commitment to it
}

// OperatorChange says how far a revocation has come.
type OperatorChange struct {
	Operator  string `json:"operator"`
	Revoked   bool   `json:"revoked"`
	Approvals int    `json:"approvals"`
	Needed    int    `json:"needed"`
}

// RevokedOperators are those whose certificates are revoked: GET /v1/operators.
type RevokedOperators struct {
	Operators []RevokedOperator `json:"operators"`
}

// RevokedOperator is an operator whose certificates of before a time count no more.
type RevokedOperator struct {
	Operator string `json:"operator"`
	At       int64  `json:"at"`    // Unix seconds
	Entry    uint64 `json:"entry"` // of the log
}

// Problem types, the last part of a problem's URI.
const (
	NotEnrolled        = "not-enrolled"
	NodeNotActive      = "node-not-active"
	NonceExpired       = "nonce-unknown-or-expired"
	EvidenceMalformed  = "evidence-malformed"
	EvidenceUnverified = "evidence-unverifiable"
	LogNotHeld         = "log-not-held"
	PolicyDenied       = "policy-denied"
	RequestRefused     = "request-refused"
	RequestReused      = "request-id-reused"
	JoinTokenRefused   = "join-token-refused"
	EnrollmentRefused  = "enrollment-refused"
	ReferenceRefused   = "reference-refused"
	NotFound           = "not-found"
	Pruned             = "pruned"
	IllegalAct         = "illegal-act"
	DomainFrozen       = "divergence-detected"
	ClockUnsound       = "clock-unsound"
	Unwitnessed        = "witness-quorum-missing"
	TokenRevoked       = "token-revoked"
)

// Refusal is an answer that is no: what was asked is understood and not given.
type Refusal struct {
	Code   string // a problem type
	Detail string
	Denied *Outcome // PolicyDenied only: the recorded verdict
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Detail }

// Refuse makes a refusal.
func Refuse(code, format string, args ...any) error {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}
