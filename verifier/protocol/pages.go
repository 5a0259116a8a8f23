package protocol

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
