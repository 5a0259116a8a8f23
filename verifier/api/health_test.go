package api

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// showing is a server with pages open.
func showing(pages ...string) option {
	return option{server: func(c *Config) { c.Pages = pages }}
}

// public reads an answer for pages into v.
func (d *domain) public(path string, v any) {
	d.t.Helper()
	got := d.ask(d.http(), http.MethodGet, path, "", nil)
	if got.status != http.StatusOK || got.header.Get("Content-Type") != mediaJSON || got.header.Get("X-Content-Type-Options") != "nosniff" {
		d.t.Fatalf("%s: %d %v %.300s", path, got.status, got.header, got.body)
	}
	if err := json.Unmarshal(got.body, v); err != nil {
		d.t.Fatalf("%s: %v", path, err)
	}
}

// TestClosedPageTellsNothing: what a page reads is there only while it is open.
func TestClosedPageTellsNothing(t *testing.T) {
	t.Parallel()
	for _, o := range []option{showing(), showing("proof")} {
		d := newDomain(t, o)
		walked := 0
		for _, r := range d.srv.publicRoutes() {
			if r.page == "" {
				continue
			}
			walked++
			got := d.ask(d.http(), r.method, r.sample(), "", nil)
			if got.status != http.StatusNotFound || got.code(t) != protocol.NotFound || !strings.Contains(string(got.body), "not open") {
				t.Errorf("%s: %d %s", r.path, got.status, got.body)
			}
		}
		if walked == 0 {
			t.Error("no route is of a page")
		}
	}
}

// sampleOf is one figure of an answer: that with this label value, or the first.
func sampleOf(h *protocol.Health, name, value string) *protocol.MetricSample {
	for _, m := range h.Metrics {
		for i, s := range m.Samples {
			if m.Name == name && (value == "" || strings.Contains(fmt.Sprint(s.Labels), value)) {
				return &m.Samples[i]
			}
		}
	}
	return &protocol.MetricSample{Value: -1}
}

// TestHealthIsWhatPrometheusScrapes: the page's figures are all of /metrics that is
// ours, under the same names, but for the build.
func TestHealthIsWhatPrometheusScrapes(t *testing.T) {
	t.Parallel()
	d := newDomain(t, showing("health"))
	n, c, base := d.working()
	if _, err := c.Stopped(t.Context(), base, n.key, stopOf("job-1")); err != nil {
		t.Fatal(err)
	}
	forged := stopOf("job-1")
	forged.Cause = "no-such-cause"
	if _, err := c.Stopped(t.Context(), base, n.key, forged); err != nil {
		t.Fatal(err)
	}
	var h protocol.Health
	d.public("/v1/public/health", &h)
	scraped := string(d.ask(http.DefaultClient, http.MethodGet, d.admin+"/metrics", "", nil).body)
	shown := map[string]bool{}
	for _, m := range h.Metrics {
		shown[m.Name] = true
		if m.Help == "" || !strings.Contains(scraped, "\n# TYPE "+m.Name+" "+m.Type+"\n") {
			t.Errorf("%s (%s) is not scraped like this", m.Name, m.Type)
		}
	}
	for line := range strings.Lines(scraped) {
		if name, ok := strings.CutPrefix(line, "# TYPE writ_"); ok {
			name, _, _ = strings.Cut("writ_"+name, " ")
			if shown[name] == (name == "writ_build_info") {
				t.Errorf("%s is shown: %v", name, shown[name])
			}
		}
	}
	for name, want := range map[[2]string]float64{
		{"writ_ready", "log"}: 1, {"writ_nodes", "synchronized"}: 1, {"writ_witnesses", ""}: 0, {"writ_clock_step_seconds", ""}: 0,
		{"writ_stops_total", "keeper-killed"}: 1, {"writ_stops_total", "other"}: 1, {"writ_appraisals_total", "affirming"}: 1, {"writ_queue_waiting", "doubted"}: 0,
	} {
		if got := sampleOf(&h, name[0], name[1]).Value; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if s := sampleOf(&h, "writ_node_evidence_age_seconds", ""); s.Count != 1 || len(s.Buckets) == 0 {
		t.Errorf("evidence ages %+v", s)
	}
	if got := sampleOf(&h, "writ_log_size_entries", "").Value; len(h.Growth) != growPoints+1 || got != float64(h.Growth[growPoints].Size) || h.Growth[0].Size != 0 {
		t.Errorf("the log has %v entries and grew %v", got, h.Growth)
	}
	raw, _ := json.Marshal(h)
	for _, secret := range []string{n.id, "no-such-cause", d.srv.cfg.Version + `"`} {
		if strings.Contains(string(raw), secret) {
			t.Errorf("the page is told %s", secret)
		}
	}
}

// TestStopsAreMeasured: only what a keeper has confirmed counts as a time to stop.
func TestStopsAreMeasured(t *testing.T) {
	t.Parallel()
	d := newDomain(t, showing("health"))
	m := d.srv.metrics
	stop := stopOf("job-1")
	stop.Cause, stop.LatencyUS = "revoked", 3000
	m.stopped(stop)
	stop.Confirmed = true
	m.stopped(stop)
	stop.LatencyUS = -1
	m.stopped(stop)
	stop.Cause, stop.LatencyUS = "exited", 9e6
	m.stopped(stop)
	var h protocol.Health
	d.public("/v1/public/health", &h)
	s := sampleOf(&h, "writ_stop_latency_seconds", "revoked")
	if s.Count != 1 || s.Value != 0.003 {
		t.Errorf("measured %+v, want one of 3 ms", s)
	}
}

// TestCosignaturesAreShown: how far each witness has cosigned.
func TestCosignaturesAreShown(t *testing.T) {
	t.Parallel()
	var witnesses []*ledger.Witness
	policy := ""
	for i, name := range []string{"one.example", "two.example"} {
		w, err := ledger.NewWitness(name, ed25519.NewKeyFromSeed(append(make([]byte, 31), byte(i+1))))
		if err != nil {
			t.Fatal(err)
		}
		witnesses = append(witnesses, w)
		policy += fmt.Sprintf("witness w%d %s\n", i+1, w.VerifierKey())
	}
	policy += "group g any w1 w2\nquorum g\n"
	d := newDomain(t, showing("health"), option{service: func(c *verifier.Config) { c.Witnesses = policy }})
	note := d.svc.Log().Checkpoint()
	at := time.Now().Add(-time.Minute)
	line, err := witnesses[0].Cosign(note, at)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.svc.Witnessed(t.Context(), append(note, line...)); err != nil {
		t.Fatal(err)
	}
	var h protocol.Health
	d.public("/v1/public/health", &h)
	size := float64(d.svc.Log().Size())
	for name, want := range map[[2]string]float64{
		{"writ_witnesses", ""}: 2, {"writ_log_witnessed_entries", ""}: size, {"writ_log_witnessed_timestamp_seconds", ""}: float64(at.Unix()),
		{"writ_witness_cosigned_entries", "w1"}: size, {"writ_witness_cosigned_entries", "w2"}: 0,
	} {
		if got := sampleOf(&h, name[0], name[1]).Value; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
