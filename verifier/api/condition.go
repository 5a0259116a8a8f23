package api

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// conditionCollector reads what issuing rests on when it is scraped: witnesses,
// database, clock and the queues before them.
type conditionCollector struct{ s *Server }

var (
	witnessesDesc       = prometheus.NewDesc("writ_witnesses", "Witnesses that are configured.", nil, nil)
	witnessedDesc       = prometheus.NewDesc("writ_log_witnessed_entries", "Entries under the latest checkpoint that a witness cosigned.", nil, nil)
	witnessedAtDesc     = prometheus.NewDesc("writ_log_witnessed_timestamp_seconds", "Time of the latest cosignature; 0 without one.", nil, nil)
	cosignedDesc        = prometheus.NewDesc("writ_witness_cosigned_entries", "Entries under the latest cosigned checkpoint, by witness; 0 if this one has not cosigned it.", []string{"witness"}, nil)
	databaseDesc        = prometheus.NewDesc("writ_database_commit_seconds", "Time that the latest empty transaction took.", nil, nil)
	clockDesc           = prometheus.NewDesc("writ_clock_step_seconds", "How far the wall clock was stepped against the time since boot; above 2 s nothing is issued.", nil, nil)
	draftsDesc          = prometheus.NewDesc("writ_commit_queue_drafts", "Changes that wait for a transaction.", nil, nil)
	queueDesc           = prometheus.NewDesc("writ_queue_waiting", "Requests that wait to be judged, by lane.", []string{"lane"}, nil)
	placesDesc          = prometheus.NewDesc("writ_queue_judged", "Requests that are judged now, by lane.", []string{"lane"}, nil)
	conditionDescribers = []*prometheus.Desc{witnessesDesc, witnessedDesc, witnessedAtDesc, cosignedDesc, databaseDesc, clockDesc, draftsDesc, queueDesc, placesDesc}
)

func (c *conditionCollector) Describe(d chan<- *prometheus.Desc) {
	for _, desc := range conditionDescribers {
		d <- desc
	}
}

func (c *conditionCollector) Collect(out chan<- prometheus.Metric) {
	s := c.s
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	signed := s.svc.Cosignatures()
	size, at := uint64(0), int64(0)
	for _, w := range signed {
		gauge(cosignedDesc, float64(w.Size), w.Witness)
		if size = max(size, w.Size); w.Size > 0 {
			at = max(at, w.At.Unix())
		}
	}
	gauge(witnessesDesc, float64(len(signed)))
	gauge(witnessedDesc, float64(size))
	gauge(witnessedAtDesc, float64(at))

	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	s.ready.run(ctx, s)
	gauge(databaseDesc, s.ready.commit().Seconds())
	gauge(clockDesc, s.svc.ClockStep().Round(time.Millisecond).Seconds())
	gauge(draftsDesc, float64(s.svc.Log().Waiting()))
	for name, l := range map[string]*lane{"trusted": s.queue.trusted, "doubted": s.queue.doubted} {
		gauge(queueDesc, float64(l.waiting.Load()), name)
		gauge(placesDesc, float64(len(l.places)), name)
	}
}
