package protocol

import "encoding/json"

// Console is GET /v1/public/console: a domain at a glance. What only operators may see
// is absent for anybody else.
type Console struct {
	Domain   string            `json:"domain"`
	Now      int64             `json:"now"`   // Unix seconds; all times here
	Ready    bool              `json:"ready"` // false: the verifier still reads its nodes
	Size     uint64            `json:"size"`  // entries of the log that this rests on
	At       int64             `json:"at"`    // of the last of them
	Epoch    uint64            `json:"epoch"`
	Frozen   bool              `json:"frozen"`
	Act      *uint64           `json:"act,omitempty"` // index of the last act that ended every token
	Nodes    int               `json:"nodes"`
	Tokens   int               `json:"tokens"` // that count now
	States   []Tally           `json:"states"` // effective, in the order of a node's life
	Statuses []Tally           `json:"statuses"`
	Coverage []Coverage        `json:"coverage"`
	Findings []Denial          `json:"findings"` // newest first
	Acts     []Act             `json:"acts"`     // newest first
	Minutes  []Minute          `json:"minutes"`  // oldest first
	Samples  []Sample          `json:"samples"`  // oldest first
	Peers    []Peer            `json:"peers"`
	Domains  []ConsoleDomain   `json:"domains"` // others that are recognised
	Policy   Policy            `json:"policy"`
	Keys     []ConsoleKey      `json:"keys"`
	Evidence bool              `json:"evidence"`          // whether findings and boots are shown
	Session  *ConsoleSession   `json:"session,omitempty"` // of the operator who asks
	Signed   ConsoleCheckpoint `json:"checkpoint"`
}

// Tally is a number of something.
type Tally struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// Coverage is how many nodes of a class are judged by which set.
type Coverage struct {
	Class      string   `json:"class"`
	Reference  *InForce `json:"reference,omitempty"` // absent: none is in force
	Nodes      int      `json:"nodes"`
	Current    int      `json:"current"` // judged by it
	Earlier    int      `json:"earlier"` // by another
	Never      int      `json:"never"`
	Legitimate int      `json:"legitimate"`
}

// InForce is a reference set in force.
type InForce struct {
	Generation uint64   `json:"generation"`
	Digest     string   `json:"digest"`
	NotAfter   int64    `json:"not_after,omitempty"`
	Base       []string `json:"base"`
	Whole      bool     `json:"whole"` // it holds together with what it builds on
	Entry      uint64   `json:"entry"`
}

// Denial is the last denial of a node. Findings are absent where evidence is not public.
type Denial struct {
	Index    uint64          `json:"index"`
	At       int64           `json:"at"`
	Subject  string          `json:"subject"`
	Class    string          `json:"class"`
	Tier     string          `json:"tier"`
	Times    int             `json:"times"`
	Findings json.RawMessage `json:"findings,omitempty"`
}

// Act is an entry of the log that is no decision on evidence.
type Act struct {
	Index   uint64 `json:"index"`
	At      int64  `json:"at"`
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	Actor   string `json:"actor"`
}

// Minute counts what was decided in a minute.
type Minute struct {
	At      int64 `json:"at"`
	Granted int   `json:"granted"`
	Denied  int   `json:"denied"`
	Revoked int   `json:"revoked"`
}

// Sample is how many nodes were in which state, in the order of Console.States.
type Sample struct {
	At     int64 `json:"at"`
	States []int `json:"states"`
	Tokens int   `json:"tokens"`
}

// Peer is a verifier of the domain by its log key.
type Peer struct {
	LogKey  string  `json:"log_key"`
	Self    bool    `json:"self"`
	First   bool    `json:"first"` // it began the domain
	Retired bool    `json:"retired"`
	Entry   *uint64 `json:"entry,omitempty"` // the last one about it that was seen
}

// ConsoleDomain is another domain that operators have recognised.
type ConsoleDomain struct {
	Domain string `json:"domain"`
	State  string `json:"state"` // [PeerAccepted], [PeerClosed]
	Why    string `json:"why,omitempty"`
	Seen   int64  `json:"seen"` // when it showed its log last; 0: never
	Size   uint64 `json:"size"` // entries of it then
	MaxAge int64  `json:"max_age"`
}

// Policy is what the domain asks of its nodes and operators.
type Policy struct {
	Rules              int    `json:"rules"`
	TokenLife          int64  `json:"token_life"` // seconds
	MinLevel           string `json:"min_level"`
	Approvals          int    `json:"approvals"`
	ReferenceThreshold int    `json:"reference_threshold"`
	ReferenceKeys      int    `json:"reference_keys"`
	ProveHaltEvery     int64  `json:"prove_halt_every,omitempty"` // seconds
	EKVendors          string `json:"ek_vendors,omitempty"`
	EKRoots            int    `json:"ek_roots"`
}

// ConsoleKey is a token key.
type ConsoleKey struct {
	KID   string  `json:"kid"`
	State string  `json:"state"`
	From  int64   `json:"from"`
	Until int64   `json:"until,omitempty"`
	Entry *uint64 `json:"entry,omitempty"`
}

// ConsoleCheckpoint is the log's signed checkpoint.
type ConsoleCheckpoint struct {
	Size       uint64 `json:"size"`
	Root       string `json:"root"` // base64
	Signatures int    `json:"signatures"`
}

// ConsoleNodes is GET /v1/public/console/nodes.
type ConsoleNodes struct {
	Nodes []ConsoleNode `json:"nodes"`
	Total int           `json:"total"`
	Next  string        `json:"next,omitempty"`
}

// ConsoleNode is a node in the list. ID and Device are for operators.
type ConsoleNode struct {
	Subject   string          `json:"subject"`
	ID        string          `json:"id,omitempty"`
	Device    string          `json:"device,omitempty"`
	Class     string          `json:"class"`
	Status    string          `json:"status"`
	State     string          `json:"state"`
	Deadline  int64           `json:"deadline"`
	Seq       uint64          `json:"seq"`
	Enrolled  int64           `json:"enrolled"`
	Entry     uint64          `json:"entry"`
	Decided   *uint64         `json:"decided,omitempty"` // index of the last decision
	DecidedAt int64           `json:"decided_at,omitempty"`
	Decision  string          `json:"decision,omitempty"`
	Tier      string          `json:"tier,omitempty"`
	Judged    string          `json:"judged"` // by which set: current, earlier, never
	Findings  json.RawMessage `json:"findings,omitempty"`
}

// ConsoleDetail is GET /v1/public/console/nodes/{subject}.
type ConsoleDetail struct {
	Node      ConsoleNode   `json:"node"`
	Reference *InForce      `json:"reference,omitempty"`
	Chain     []ConsoleLink `json:"chain"` // newest first
	More      bool          `json:"more"`  // there are older ones
	Now       int64         `json:"now"`
}

// ConsoleLink is one decision on a node.
type ConsoleLink struct {
	Index    uint64 `json:"index"`
	At       int64  `json:"at"`
	Kind     string `json:"kind"`
	Gone     bool   `json:"gone,omitempty"` // retention gave up its bytes
	Decision string `json:"decision,omitempty"`
	Tier     string `json:"tier,omitempty"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	Seq      uint64 `json:"seq,omitempty"`
	Prev     string `json:"prev,omitempty"`
	Issued   int64  `json:"iat,omitempty"`
	Expires  int64  `json:"exp,omitempty"`
	Level    string `json:"level,omitempty"`
	Exec     string `json:"exec,omitempty"`
	Ended    bool   `json:"ended,omitempty"` // before its time
}

// ConsoleBoot is GET /v1/public/console/nodes/{subject}/boot.
type ConsoleBoot struct {
	Index      uint64             `json:"index"`
	Decision   string             `json:"decision"`
	Tier       string             `json:"tier"`
	At         int64              `json:"at"`
	Until      int64              `json:"until"`
	Claims     []ConsoleClaim     `json:"claims"`
	Steps      []ConsoleStep      `json:"steps"`
	Components []ConsoleComponent `json:"components"`
	Findings   json.RawMessage    `json:"findings"`
	Set        string             `json:"set,omitempty"` // it was judged by
	Generation uint64             `json:"generation,omitempty"`
	Entries    int                `json:"ima_entries"` // proven
	Files      int                `json:"ima_files"`
	Violations int                `json:"ima_violations"`
	Before     *ConsoleBefore     `json:"before,omitempty"`
	Missing    string             `json:"missing,omitempty"` // why there is no boot before
}

// ConsoleClaim is a claim of the verdict.
type ConsoleClaim struct {
	Name  string `json:"name"`
	Value int    `json:"value"`
	Tier  string `json:"tier"`
}

// ConsoleStep is a step of the appraisal, as `writ verify --explain` shows it.
type ConsoleStep struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

// ConsoleComponent is a measured event of the boot.
type ConsoleComponent struct {
	Event     int    `json:"event"`
	PCR       int    `json:"pcr"`
	Type      string `json:"type"`
	What      string `json:"what"`
	Digest    string `json:"digest"`
	Judgement string `json:"judgement"`
	Why       string `json:"why"`
}

// ConsoleBefore is how a boot differs from the one before.
type ConsoleBefore struct {
	Index uint64          `json:"index"`
	Boot  []ConsoleChange `json:"boot"`
	Files []ConsoleChange `json:"files"`
	More  int             `json:"more"`
}

// ConsoleChange is something that came, has gone or has changed.
type ConsoleChange struct {
	Change string `json:"change"`
	PCR    int    `json:"pcr"`
	Name   string `json:"name"`
	Now    string `json:"now,omitempty"`
	Was    string `json:"was,omitempty"`
}

// SignInRequest is POST /v1/sign-in-codes. Who asks is in the certificate.
type SignInRequest struct{}

// SignIn answers it: a code that signs one browser in, once.
type SignIn struct {
	Code    string `json:"code"`
	Expires int64  `json:"expires"`
}

// SignInCode is POST /v1/sessions.
type SignInCode struct {
	Code string `json:"code"`
}

// ConsoleSession is an operator's session in a browser.
type ConsoleSession struct {
	Operator string   `json:"operator"`
	Roles    []string `json:"roles"`
	CSRF     string   `json:"csrf"`
	Acts     int64    `json:"acts"` // until then it may act
	Ends     int64    `json:"ends"`
}
