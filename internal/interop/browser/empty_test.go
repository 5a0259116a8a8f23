package browser

import (
	"context"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// empty reads every page of a domain without a node, a reference set or an execution:
// each says what is missing and the command that makes it.
func empty(t *testing.T, l *lab, chromium context.Context) {
	b := open(t, chromium)
	for _, page := range []struct {
		name  string
		words map[string][]string
	}{
		{"console", map[string][]string{
			"main":                {"No node has enrolled yet", "writ join-token create", "writ provision", "No set is in force", "writ reference learn", "No node was denied"},
			"#count-nodes":        {"0"},
			"#count-legitimate":   {"0"},
			"ol.timeline":         {"a verifier started", "entry 0"},
			"[aria-label=Policy]": {"1 entry", "1 of 1 keys"},
		}},
		{"lineage", map[string][]string{"#none": {"No execution is in the log yet", "writ run"}}},
		{"health", map[string][]string{
			"#readiness": {"ready"},
			"#evidence":  {"Legitimate nodes", "0", "writ node approve"},
			"#stops":     {"writ run"},
			"#log":       {"Entries", "1"},
		}},
		{"proof", map[string][]string{"main": {"Check a proof"}}},
		{"demo", map[string][]string{"main": {"Start a node"}}},
	} {
		b.open(l.URL + "/" + page.name)
		for selector, words := range page.words {
			b.shows(selector, words...)
		}
		b.sensible("/" + page.name + " of an empty domain")
		b.inspect(page.name + "-none")
		b.clean("/" + page.name)
	}
	b.open(l.URL + "/proof")
	b.check("[role=alert]", "Paste or choose something", "writ bundle", "writ token", "writ log prove")
	b.clean("/proof")
	b.write("#bundle", "1")
	b.check("[role=alert]", "The verifier does not give /log/proof/1")
	b.seen() // that answer is no fault of the page
	b.write("#bundle", "0")
	b.check(result+" h2", "The receipt:")
	b.open(l.URL + "/console?node=" + "00000000000000000000000000000000")
	b.shows("[role=alert]", "The log knows no node")
	b.seen()
}

// sensible fails the test for a page with a hole in it: a picture of nothing, or a
// value that is none.
func (b *tab) sensible(where string) {
	b.Helper()
	const holes = `[
		...(document.body.innerText.match(/.{0,30}(\bNaN\b|\bundefined\b|\bnull\b|Infinity|\[object |Invalid Date|1970-01-01).{0,30}/g) ?? []),
		...[...document.querySelectorAll('.picture')].filter(p => !p.querySelector('svg') && !p.innerText.trim()).map(p => 'a blank picture: ' + p.parentElement.innerText),
		...[...document.querySelectorAll('table')].filter(t => !t.tBodies[0]?.rows.length).map(t => 'a table without rows: ' + t.innerText),
		...[...document.querySelectorAll('dd, h1, h2, h3')].filter(e => e.checkVisibility() && !e.innerText.trim()).map(e => 'empty: ' + e.parentElement.innerText),
	]`
	var found []string
	var err error
	for deadline := time.Now().Add(patience / 2); ; time.Sleep(50 * time.Millisecond) { // pictures are drawn later
		found, err = chromedp.Run(b.ctx, chromedp.Evaluate[[]string](holes))
		b.must(err, "looking for holes")
		if len(found) == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s: %q", where, found)
		}
	}
}
