package api

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// metrics counts what a server does. Label values are of small fixed sets: never
// a node, a digest, or anything a stranger chose.
type metrics struct {
	handler    http.Handler
	appraisals *prometheus.CounterVec // by result
	appraising prometheus.Histogram
	issued     *prometheus.CounterVec // by kind
	denied     *prometheus.CounterVec // by problem
	size       prometheus.Histogram
	age        prometheus.Histogram
	problems   *prometheus.CounterVec // by route, problem
	diverged   prometheus.Counter
	panics     prometheus.Counter
	streams    prometheus.Gauge
	stops      *prometheus.CounterVec   // by cause, confirmed
	stopping   *prometheus.HistogramVec // by cause
	registry   *prometheus.Registry
}

func newMetrics(s *Server) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "writ", Name: name, Help: help}
	}
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), strings.Fields(label))
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "writ", Name: name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		appraisals: counter("appraisals_total", "Authentic evidence judged.", "result"),
		appraising: histogram("appraisal_duration_seconds", "Time from evidence read to its answer, commit included.", prometheus.ExponentialBuckets(0.0005, 2, 16)),
		issued:     counter("tokens_issued_total", "Tokens issued.", "kind"),
		denied:     counter("tokens_denied_total", "Attestations and token requests refused.", "problem"),
		size:       histogram("evidence_bytes", "Size of evidence as sent.", prometheus.ExponentialBuckets(1024, 4, 8)),
		age:        histogram("evidence_age_seconds", "Time from challenge to verdict.", []float64{1, 2, 5, 10, 20, 30, 60, 120, 300}),
		problems:   counter("http_problems_total", "Requests answered with a problem.", "route problem"),
		diverged:   prometheus.NewCounter(prometheus.CounterOpts(opts("divergence_detected_total", "Requests refused because the domain is frozen or its history diverged."))),
		panics:     prometheus.NewCounter(prometheus.CounterOpts(opts("panics_total", "Panics in handlers."))),
		streams:    prometheus.NewGauge(prometheus.GaugeOpts(opts("event_streams", "Nodes that follow their events now."))),
	}
	m.stopMetrics()
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "writ", Name: "build_info", Help: "What runs here.",
		ConstLabels: prometheus.Labels{"version": s.cfg.Version, "revision": s.cfg.Revision, "goversion": runtime.Version()}})
	info.Set(1)
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.appraisals, m.appraising, m.issued, m.denied, m.size, m.age, m.problems, m.diverged, m.panics, m.streams, m.stops, m.stopping, info,
		&domainCollector{s: s}, &conditionCollector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry = reg
	m.handler = promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return m
}

// stopCauses are the causes of stops by name; the others are counted as "other",
// since a node may write what it likes.
var stopCauses = []string{"exited", "not-started", "deadline", "revoked", "denied", "init-died", "keeper-killed", bundle.ProveHalt, "other"}

// ordered are the causes of stops that somebody waits for.
var ordered = []string{"deadline", "revoked", "denied"}

func (m *metrics) stopMetrics() {
	m.stops = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "writ", Name: "stops_total", Help: "Ends of executions that were recorded."}, []string{"cause", "confirmed"})
	m.stopping = prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "writ", Name: "stop_latency_seconds", Help: "Time from the deadline or the order to the last process gone, of confirmed stops.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}, []string{"cause"})
	for _, cause := range ordered { // there from the start, so that the first one is seen as a change
		m.stopping.WithLabelValues(cause)
		m.stops.WithLabelValues(cause, "true")
		m.stops.WithLabelValues(cause, "false")
	}
	m.denied.WithLabelValues(protocol.PolicyDenied)
	m.problems.WithLabelValues("none", codeInternal)
}

// stopped counts a stop that was recorded.
func (m *metrics) stopped(s bundle.Stop) {
	cause := s.Cause
	if !slices.Contains(stopCauses, cause) {
		cause = "other"
	}
	m.stops.WithLabelValues(cause, strconv.FormatBool(s.Confirmed)).Inc()
	if s.Confirmed && s.LatencyUS >= 0 && slices.Contains(ordered, cause) {
		m.stopping.WithLabelValues(cause).Observe(float64(s.LatencyUS) / 1e6)
	}
}

// attested counts one attestation by what came of it.
func (m *metrics) attested(body []byte, out *protocol.Outcome, err error, took time.Duration, now time.Time) {
	m.size.Observe(float64(len(body)))
	m.appraising.Observe(took.Seconds())
	if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Denied != nil {
		out = r.Denied
	} else if err == nil {
		m.issued.WithLabelValues("legitimacy").Inc()
	}
	if out != nil {
		m.appraisals.WithLabelValues(out.Tier).Inc()
		m.age.Observe(float64(now.Unix() - out.At))
	}
}

// refused counts a problem.
func (m *metrics) refused(route string, p problem) {
	if route == "" {
		route = "none"
	}
	m.problems.WithLabelValues(route, p.Type).Inc()
	if route == "/v1/attestations" || route == "/v1/tokens" {
		m.denied.WithLabelValues(p.Type).Inc()
	}
	if p.Type == protocol.DomainFrozen {
		m.diverged.Inc()
	}
}

// domainCollector reads the state of domain and log when it is scraped. Counting
// the nodes reads all of them, so that is done at most every 15 s.
type domainCollector struct {
	s *Server

	mu    sync.Mutex
	at    time.Time
	nodes map[string]int // by effective state
	ages  []int64        // of the evidence that legitimate nodes rest on, seconds
}

const countEvery = 15 * time.Second

var (
	nodesDesc      = prometheus.NewDesc("writ_nodes", "Nodes by effective legitimacy state.", []string{"state"}, nil)
	logSizeDesc    = prometheus.NewDesc("writ_log_size_entries", "Entries in the log.", nil, nil)
	checkpointDesc = prometheus.NewDesc("writ_log_checkpoint_timestamp_seconds", "Time of the last entry under the latest checkpoint.", nil, nil)
	nodeAgeDesc    = prometheus.NewDesc("writ_node_evidence_age_seconds", "Age of the latest evidence of each legitimate node.", nil, nil)
	readyDesc      = prometheus.NewDesc("writ_ready", "Whether tokens can be issued, by check.", []string{"check"}, nil)
)

func (c *domainCollector) Describe(d chan<- *prometheus.Desc) {
	d <- nodesDesc
	d <- logSizeDesc
	d <- checkpointDesc
	d <- nodeAgeDesc
	d <- readyDesc
}

func (c *domainCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	log := c.s.svc.Log()
	size := log.Size()
	gauge(logSizeDesc, float64(size))
	if size > 0 {
		if leaf, err := log.Entry(ctx, size-1); err == nil {
			if l, err := ledger.ParseLeaf(leaf); err == nil {
				gauge(checkpointDesc, float64(l.At))
			}
		}
	}
	for _, ch := range c.s.ready.run(ctx, c.s) {
		ok := 1.0
		if ch.err != nil {
			ok = 0
		}
		gauge(readyDesc, ok, ch.name)
	}
	counts, err := c.count(ctx)
	if err != nil {
		c.s.cfg.Log.WarnContext(ctx, "counting nodes failed", "error", err)
		return
	}
	for _, state := range []string{verifier.Initialized, verifier.Verified, verifier.Synchronized, verifier.Constrained, verifier.Elevated, verifier.FailClosed, verifier.Terminated} {
		gauge(nodesDesc, float64(counts[state]), state)
	}
	out <- c.evidenceAges()
}

func (c *domainCollector) count(ctx context.Context) (map[string]int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < countEvery {
		return c.nodes, nil
	}
	counts, after := map[string]int{}, ""
	var ages []int64
	now := c.s.cfg.Now()
	for {
		page, err := c.s.svc.Nodes(ctx, after, nodesAtMost)
		if err != nil {
			return nil, err
		}
		for i := range page {
			counts[c.s.svc.State(&page[i])]++
			if n := &page[i]; n.Last != nil && n.Legitimate(now) {
				ages = append(ages, max(0, now.Unix()-n.Last.At))
			}
		}
		if len(page) < nodesAtMost {
			c.nodes, c.ages, c.at = counts, ages, time.Now()
			return counts, nil
		}
		after = page[len(page)-1].ID
	}
}

// evidenceAges is the histogram of the ages counted last.
func (c *domainCollector) evidenceAges() prometheus.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	buckets, sum := map[float64]uint64{}, 0.0
	for _, le := range []float64{5, 10, 20, 30, 60, 120, 300, 600} {
		buckets[le] = 0
		for _, age := range c.ages {
			if float64(age) <= le {
				buckets[le]++
			}
		}
	}
	for _, age := range c.ages {
		sum += float64(age)
	}
	return prometheus.MustNewConstHistogram(nodeAgeDesc, uint64(len(c.ages)), sum, buckets)
}
