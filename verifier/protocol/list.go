package protocol

import "encoding/json"

// Nodes is a page of nodes by id: GET /v1/nodes?after=&limit=.
type Nodes struct {
	Nodes []Node `json:"nodes"`
	Next  string `json:"next,omitempty"` // after of the next page; absent in the last
}

// References are the sets in force: GET /v1/references.
type References struct {
	References []Published `json:"references"`
}

// JoinTokens are all join tokens, without their secrets: GET /v1/join-tokens.
type JoinTokens struct {
	JoinTokens []JoinToken `json:"join_tokens"`
}

// Audit is a stretch of the history: GET /v1/audit?from=&to=. There may be
// fewer entries than asked for; ask again from where they end. Those that
// retention gave up are left out; the problem is "pruned" when all are.
type Audit struct {
	Size    uint64       `json:"size"` // of the log
	Entries []AuditEntry `json:"entries"`
}

// AuditEntry is one leaf of the log, byte for byte.
type AuditEntry struct {
	Index uint64          `json:"index"`
	Leaf  json.RawMessage `json:"leaf"`
}
