package protocol

import "encoding/json"

// Health is how a verifier is: GET /v1/public/health, where the page is open.
type Health struct {
	At       int64    `json:"at"` // Unix seconds, by the verifier's clock
	Domain   string   `json:"domain"`
	Verifier string   `json:"verifier"` // its name within the domain
	Metrics  []Metric `json:"metrics"`  // as Prometheus scrapes them
	Growth   []Growth `json:"growth"`   // of the log, oldest first
}

// Metric is a family of figures under the name that Prometheus has for it.
type Metric struct {
	Name    string         `json:"name"`
	Help    string         `json:"help"`
	Type    string         `json:"type"` // "gauge", "counter", "histogram"
	Samples []MetricSample `json:"samples"`
}

// MetricSample is one figure. Of a histogram Value is the sum.
type MetricSample struct {
	Labels  map[string]string `json:"labels"`
	Value   float64           `json:"value"`
	Count   uint64            `json:"count,omitempty"`
	Buckets []Bucket          `json:"buckets,omitempty"`
}

// Bucket is how many observations were at most Most.
type Bucket struct {
	Most  float64 `json:"most"`
	Count uint64  `json:"count"`
}

// Growth is how many entries the log had at a time (Unix seconds).
type Growth struct {
	At   int64  `json:"at"`
	Size uint64 `json:"size"`
}

// Executions are those found, the latest first: GET
// /v1/public/executions?q=&node=&from=&to=&before=, where the page is open.
type Executions struct {
	Size       uint64      `json:"size"` // of the log
	Read       uint64      `json:"read"` // entries read so far: below Size there may be more to find
	Executions []Execution `json:"executions"`
	More       bool        `json:"more"` // ask again with before: the entry of the last one
}

// Alive are the executions that have a token now, the latest first: GET
// /v1/executions?node=.
type Alive struct {
	Executions []Execution `json:"executions"`
	More       bool        `json:"more"` // there are more than are told
}

// Execution is a run in short. Times are Unix seconds.
type Execution struct {
	Exec      string `json:"exec"`
	Parent    string `json:"parent,omitempty"`
	Node      string `json:"node"` // pseudonym in this domain's log
	Workload  string `json:"workload,omitempty"`
	Basis     string `json:"workload_basis"` // "measured", "asserted", "none"
	Level     string `json:"level"`
	Base      uint64 `json:"base"`  // entry of the decision that the first token rests on
	Entry     uint64 `json:"entry"` // of the first token
	Started   int64  `json:"started"`
	Expires   int64  `json:"expires"` // of the last token
	Last      int64  `json:"last"`    // entry
	Tokens    int    `json:"tokens"`
	Ended     bool   `json:"ended"`
	End       uint64 `json:"end,omitempty"` // entry of the end
	Cause     string `json:"cause,omitempty"`
	Confirmed bool   `json:"confirmed,omitempty"`
	LatencyUS int64  `json:"latency_us,omitempty"`
	Children  int    `json:"children"`
}

// Told is the life of an execution: GET /v1/public/lineage?exec=.
type Told struct {
	Now      int64           `json:"now"`
	Lineage  json.RawMessage `json:"lineage"` // as writ lineage export --format native
	Children []Execution     `json:"children"`
	Omitted  int             `json:"omitted"` // entries that are not listed, since there are so many
	Gone     int             `json:"gone"`    // entries that retention gave up
	Peers    []ToldPeer      `json:"peers"`   // recognised domains, whose logs were looked at, too
}

// ToldPeer is a recognised domain, and what its log knows of an execution of this one.
// That its entries stand there is proven; what they say is that domain's word.
type ToldPeer struct {
	Domain   string      `json:"domain"`
	Size     uint64      `json:"size"`          // entries under the checkpoint that this domain has seen last
	Seen     int64       `json:"seen"`          // when; Unix seconds
	Read     uint64      `json:"read"`          // entries read so far
	Why      string      `json:"why,omitempty"` // why nothing of it is told
	Parent   bool        `json:"parent"`        // it has the parent that this domain's log has not
	Children []Execution `json:"children"`      // that name this execution as their parent
}

// PeerEntry is an entry of a recognised domain's log with its proof, and the trust file
// that this domain's operators have approved: GET
// /v1/public/lineage/entry?domain=&index=.
type PeerEntry struct {
	Entry   string          `json:"entry"`
	Receipt string          `json:"receipt"`
	Trust   json.RawMessage `json:"trust"`
}
