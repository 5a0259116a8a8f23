package api

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// hiddenMetrics are the families that whoever may see the page does not see: which
// build runs here is for the admin listener.
const hiddenMetrics = "writ_build_info"

// health answers with the figures of /metrics and with how the log has grown. Why a
// check fails is said on the admin listener alone.
func (s *Server) health(q *call) error {
	h, err := s.figures.of(q.Request().Context(), s)
	if err != nil {
		return err
	}
	return q.answer(h)
}

// figures remembers an answer for a second and the growth for longer, since both
// read much.
type figures struct {
	mu     sync.Mutex
	at     time.Time
	last   *protocol.Health
	grown  time.Time
	growth []protocol.Growth
}

const (
	healthCost = 10 // in public reads
	growEvery  = 30 * time.Second
	growOver   = time.Hour
	growPoints = 24
)

func (f *figures) of(ctx context.Context, s *Server) (*protocol.Health, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.at) < probeEvery {
		return f.last, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTime)
	defer cancel()
	families, err := s.metrics.registry.Gather()
	if err != nil { // what could be gathered is there
		s.cfg.Log.WarnContext(ctx, "gathering metrics failed", "error", err)
	}
	now := s.cfg.Now()
	h := &protocol.Health{At: now.Unix(), Domain: s.svc.Domain(), Verifier: s.cfg.Name, Metrics: []protocol.Metric{}, Growth: []protocol.Growth{}}
	for _, family := range families {
		if name := family.GetName(); strings.HasPrefix(name, "writ_") && name != hiddenMetrics {
			h.Metrics = append(h.Metrics, metricOf(family))
		}
	}
	if time.Since(f.grown) >= growEvery {
		if f.growth, err = growth(ctx, s, now); err != nil { // the database is away; the checks say so
			s.cfg.Log.WarnContext(ctx, "reading the log's growth failed", "error", err)
		}
		f.grown = time.Now()
	}
	h.Growth = append(append(h.Growth, f.growth...), protocol.Growth{At: now.Unix(), Size: s.svc.Log().Size()})
	f.last, f.at = h, time.Now()
	return h, nil
}

// growth is how many entries the log had at points of the last hour, by their times.
func growth(ctx context.Context, s *Server, now time.Time) ([]protocol.Growth, error) {
	var out []protocol.Growth
	for i := range growPoints {
		at := now.Add(-growOver + time.Duration(i)*growOver/growPoints).Unix()
		size, err := s.svc.Log().FirstAt(ctx, at+1)
		if err != nil {
			return out, err
		}
		out = append(out, protocol.Growth{At: at, Size: size})
	}
	return out, nil
}

func metricOf(f *dto.MetricFamily) protocol.Metric {
	out := protocol.Metric{Name: f.GetName(), Help: f.GetHelp(), Type: strings.ToLower(f.GetType().String()), Samples: []protocol.MetricSample{}}
	for _, m := range f.GetMetric() {
		sample := protocol.MetricSample{Labels: map[string]string{}}
		for _, l := range m.GetLabel() {
			sample.Labels[l.GetName()] = l.GetValue()
		}
		switch f.GetType() {
		case dto.MetricType_HISTOGRAM:
			h := m.GetHistogram()
			sample.Value, sample.Count = h.GetSampleSum(), h.GetSampleCount()
			for _, b := range h.GetBucket() {
				sample.Buckets = append(sample.Buckets, protocol.Bucket{Most: b.GetUpperBound(), Count: b.GetCumulativeCount()})
			}
		case dto.MetricType_COUNTER:
			sample.Value = m.GetCounter().GetValue()
		default:
			sample.Value = m.GetGauge().GetValue()
		}
		if !math.IsNaN(sample.Value) && !math.IsInf(sample.Value, 0) { // JSON has neither
			out.Samples = append(out.Samples, sample)
		}
	}
	return out
}
