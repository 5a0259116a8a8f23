package browser

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/writ-attestation/writ/internal/interop/domain"
)

// health reads the figures, each under its Prometheus name.
func health(t *testing.T, d *domain.Domain, chromium context.Context) {
	b := open(t, chromium)
	b.open(d.URL + "/health")
	for id, words := range map[string][]string{
		"readiness": {"ready", "clock", "governance", "keys", "log", "serving", `writ_ready{check="log"}`},
		"log":       {"Entries over the last hour", "writ_log_size_entries", "writ_log_checkpoint_timestamp_seconds"},
		"witnesses": {"writ_witnesses", "Nobody cosigns this log"},
		"evidence":  {"writ_node_evidence_age_seconds", "writ_evidence_age_seconds"},
		"stops":     {"99 of 100 within", "writ_stop_latency_seconds"},
		"database":  {"writ_database_commit_seconds", "writ_clock_step_seconds"},
		"queue":     {`writ_queue_waiting{lane="trusted"}`},
		"errors":    {"writ_http_problems_total", "writ_panics_total"},
	} {
		b.shows("#"+id, words...)
	}
	b.until("the growth of the log to be drawn", func() bool { return b.is(`!!document.querySelector('#log svg[role="img"][aria-label]')`) })
	b.shows("#evidence .figures dd", "3")
	b.clean("/health")
}

// life finds a run that has ended and reads it from request to end; the graph leads to
// the same entries as the list, and each format can be had.
func life(t *testing.T, d *domain.Domain, chromium context.Context) {
	parent := d.Writ(t, "run", "--level", "E2", "--", "sh", "-c", "echo $WRIT_EXECUTION")
	exec := d.Writ(t, "run", "--level", "E2", "--parent", parent, "--", "sh", "-c", "echo $WRIT_EXECUTION")
	b := open(t, chromium)
	b.open(d.URL + "/lineage")
	b.shows("#executions", exec, parent, "ended", "exited")
	b.write("#q", exec[:20])
	b.press("Search")
	b.until("only what was searched for to be listed", func() bool {
		return b.is(`document.querySelectorAll('#executions tbody tr').length === 1`)
	})
	b.shows("#executions", exec)
	b.eval(`document.querySelector('#executions a').click()`)
	b.shows("h1", exec)
	b.shows("#state", "ended")
	b.shows("#events", "Request", "Decision", "Start", "Stop", "The work ended by itself", "It rests on the decision")
	b.shows("#facts", "asserted", parent)
	b.shows("div:has(> #graph)", "Decision #", "Start #", "Stop #", "parent, same node")
	b.inspect("lineage-life")
	links, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll('[id^="export-"]')].map(a => a.getAttribute('href'))`))
	b.must(err, "reading the exports")
	if len(links) != 3 {
		t.Errorf("exports %q, expected three", links)
	}
	for _, link := range links {
		r, err := d.Client().Get(d.Issuer + link)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK || !strings.Contains(string(raw), exec) && !strings.Contains(string(raw), "subject") {
			t.Errorf("%s: %d %.200s %v", link, r.StatusCode, raw, err)
		}
	}
	b.eval(`document.querySelector('#graph a[href^="#entry-"]').dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true }))`)
	b.until("the entry to be the target", func() bool { return b.is(`!!document.querySelector('#events tr:target')`) })
	b.clean("an execution")
	for _, hostile := range []string{`%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E`, `%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E`} {
		b.open(d.URL + "/lineage?exec=" + hostile)
		b.shows("#main", "the log has no execution", "<")
		if all := b.seen(); slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, "dialog") || strings.HasPrefix(s, "content") }) {
			t.Errorf("%s: %q", hostile, all)
		}
	}
}
