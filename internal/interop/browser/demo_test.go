package browser

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/writ-attestation/writ/internal/interop/domain"
)

// demo presses every button of /demo: each act stops the job, says in what time, and
// names the entries that prove it, which /proof finds good.
func demo(t *testing.T, d *domain.Domain, chromium context.Context) {
	b := open(t, chromium)
	b.open(d.URL + "/demo")
	b.shows("main", "Start a node")
	b.inspect("demo-empty")
	measured := regexp.MustCompile(`\d+ ms|\d+\.\d s`)
	begin := func(button string) {
		t.Helper()
		b.press(button)
		b.shows(".story", "its job runs", "legitimacy.issued", "execution.admitted")
		b.until("the start to have ended", func() bool { return b.is(`!!document.querySelector('.choices button:not(:disabled)')`) })
	}
	acts := []struct{ button, title, kind string }{
		{"Tamper with the boot", "The boot was tampered with", "appraisal.decided"},
		{"Revoke the node", "An operator revoked the node", "legitimacy.revoked"},
		{"Kill the verifier", "The verifier was killed", "verifier.started"},
		{"Split the history", "The history was split", "of the other history"},
	}
	begin("Start a node")
	b.inspect("demo-running")
	for i, a := range acts {
		switch a.button {
		case "Tamper with the boot":
		case "Split the history": // the killed verifier is back: the node goes on
			b.press("Start the job again")
			b.shows(".story article", "The job runs again", "execution.admitted")
		default:
			begin("Begin again")
		}
		b.press(a.button)
		b.shows(".story article", a.title, "until the last process was gone", a.kind)
		text := b.text(".story article")
		if !measured.MatchString(b.text(".story .measured strong")) || !strings.Contains(text, "found nothing left") {
			t.Errorf("%s: %s", a.button, text)
		}
		b.shows(".parts", "stopped")
		if i == 0 || i == len(acts)-1 {
			b.inspect("demo-" + strings.ToLower(strings.Fields(a.button)[0]))
		}
		b.clean(a.button)
		proven(t, d, chromium, b)
	}
}

// proven opens the links to proofs of the latest act.
func proven(t *testing.T, d *domain.Domain, chromium context.Context, b *tab) {
	t.Helper()
	links, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll('.story article')][0] ? [...document.querySelector('.story article').querySelectorAll('a')].map(a => a.href) : []`))
	b.must(err, "reading links")
	if len(links) == 0 {
		t.Error("nothing proves it")
	}
	p := open(t, chromium)
	for _, link := range links {
		p.open(link)
		p.shows(result+" h2", "The receipt:", "verified")
		p.clean(link)
	}
}
