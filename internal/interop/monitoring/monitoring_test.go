package monitoring

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/writ-attestation/writ/internal/interop/domain"
	"github.com/writ-attestation/writ/verifier/ledger"
)

// witness is a line that configures one, which is never asked, so that its figures
// are there.
func witness(t *testing.T) string {
	t.Helper()
	w, err := ledger.NewWitness("witness.example", ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return "witnesses = \"witness w1 " + w.VerifierKey() + "\\nquorum none\\n\""
}

// TestAlertsAndDashboardNameWhatThereIs: every expression of the alert rules and of
// the dashboard parses, and all it selects is scraped from a running domain.
func TestAlertsAndDashboardNameWhatThereIs(t *testing.T) {
	t.Parallel()
	found := expressions(t)
	scraped := scrape(t, domain.Start(t, witness(t)))
	named := map[string]bool{}
	for where, text := range found {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if s, ok := n.(*parser.VectorSelector); ok {
				named[s.Name] = true
				if lacks := lacking(scraped, s); lacks != "" {
					t.Errorf("%s: %s", where, lacks)
				}
			}
			return nil
		})
	}
	if len(found) < 30 || len(named) < 20 {
		t.Errorf("%d expressions of %d metrics: expected more", len(found), len(named))
	}
	if lacking(scraped, &parser.VectorSelector{Name: "writ_no_such"}) == "" {
		t.Error("a metric that nobody serves is not missed")
	}
}

// expressions are those of the alert rules and of the dashboard, by where they are.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	rules, errs := rulefmt.ParseFile("../../../docs/monitoring/alerts.yaml", false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatalf("alerts.yaml: %v", errs)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %s lacks a severity, a summary or what to do", r.Alert)
			}
			out["alert "+r.Alert] = r.Expr
		}
	}
	raw, err := os.ReadFile("../../../docs/monitoring/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, q := range p.Targets {
			// What Grafana fills in.
			out["panel "+p.Title+" "+q.RefID] = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(q.Expr)
		}
	}
	return out
}

// scrape reads /metrics.
func scrape(t *testing.T, d *domain.Domain) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := http.Get(d.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("scraping: %d %v", resp.StatusCode, err)
	}
	text := expfmt.NewTextParser(model.UTF8Validation)
	families, err := text.TextToMetricFamilies(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// added are the labels that Prometheus adds to what it scrapes, and those of buckets.
var added = map[string]bool{labels.MetricName: true, "instance": true, "job": true, "le": true}

// lacking says what of a selector is not scraped; "": nothing.
func lacking(scraped map[string]*dto.MetricFamily, s *parser.VectorSelector) string {
	name := s.Name
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && scraped[base].GetType() == dto.MetricType_HISTOGRAM {
			name = base
		}
	}
	family := scraped[name]
	if family == nil {
		return s.Name + " is not scraped"
	}
	has := map[string]bool{}
	for _, l := range family.GetMetric()[0].GetLabel() {
		has[l.GetName()] = true
	}
	for _, m := range s.LabelMatchers {
		if !has[m.Name] && !added[m.Name] {
			return s.Name + " has no label " + m.Name
		}
	}
	return ""
}
