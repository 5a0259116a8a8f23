package browser

import (
	"context"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/writ-attestation/writ/internal/interop/domain"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/reference"
)

// healthy are the words of a badge for what goes well at the moment.
const healthy = `/^\W*(active|verified|synchronized|elevated-assurance|ready|ok|running|runs|valid)$/`

// said is how a page tells that nobody answers, and of when its figures are.
var said = regexp.MustCompile(`What is shown is of 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC`)

// away stops, kills and restarts the verifier under each page that shows something of
// now.
func away(t *testing.T, d *domain.Domain, l *lab, chromium context.Context) {
	m := l.join(t, "watched")
	m.boot(nil)
	ctx := t.Context()
	if _, err := l.api.Publish(ctx, m.learn(1, func(*reference.Set) {})); err != nil {
		t.Fatal(err)
	}
	m.approve(ctx)
	a := m.agent()
	defer a.Close()
	if _, err := a.Lease(ctx, request("run", "still-running", "")); err != nil {
		t.Fatal(err)
	}
	tabs := map[string]*tab{}
	for name, at := range map[string]string{
		"console": "/console", "node": "/console?node=" + bundle.Subject("dev.invalid", m.node), "lineage": "/lineage", "execution": "/lineage?exec=still-running", "health": "/health", "demo": "/demo", "proof": "/proof",
	} {
		tabs[name] = open(t, chromium)
		tabs[name].open(l.URL + at)
	}
	tabs["console"].shows("#signal", "live")
	tabs["node"].shows("main", "synchronized")
	tabs["lineage"].shows("#executions", "running")
	tabs["execution"].shows("#state", "running")
	tabs["health"].shows("#readiness", "ready")
	operator := open(t, chromium)
	operator.signIn(l, l.operator)
	tabs["proof"].write("#bundle", "0")
	tabs["proof"].check(result+" h2", "The receipt:")

	if err := l.process.Process.Signal(syscall.SIGSTOP); err != nil { // it takes connections and says nothing
		t.Fatal(err)
	}
	gone(t, tabs)
	if err := l.process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	back(tabs)
	l.kill()
	gone(t, tabs)
	for name, b := range tabs {
		if name != "proof" {
			b.inspect("away-" + name)
		}
	}
	p := tabs["proof"]
	p.write("#bundle", "1")
	p.check("[role=alert]", "The verifier does not answer")
	p.write("#bundle", string(m.trust.Marshal()))
	p.check("[role=alert]", "not a bundle") // what was loaded goes on checking
	l.start(t)
	back(tabs)
	p.write("#bundle", "1")
	p.check(result+" h2", "The receipt:")
	for _, b := range tabs {
		b.seen() // of the verifier that did not answer
	}
	tabs["console"].shows("#signal", "live")
	operator.shows("main", "Your session has ended")
	operator.seen()
	operator.over("a session of a verifier that was restarted")
	d.Stop()
	gone(t, map[string]*tab{"demo": tabs["demo"]})
	tabs["demo"].shows(".away", "writ dev does not answer")
	tabs["demo"].public("a demonstration that has ended")
}

// gone waits until each page says that nobody answers, and since when, and shows
// nothing as if it were of now.
func gone(t *testing.T, tabs map[string]*tab) {
	t.Helper()
	for name, b := range tabs {
		if name == "proof" { // shows nothing of now
			continue
		}
		b.shows(".away [role=alert]", "What is shown is of", "Trying again")
		if text := b.text(".away"); !said.MatchString(text) {
			t.Errorf("%s: %q does not say of when it is", name, text)
		}
		live, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`(() => {
			const sample = document.createElement('b'); sample.className = 'good'; document.body.append(sample)
			const good = getComputedStyle(sample).color; sample.remove()
			return [...document.querySelectorAll('main *')].filter(e => e.children.length === 0 && e.textContent.trim() && getComputedStyle(e).color === good || e.matches('.badge') && `+healthy+`.test(e.innerText.trim()) || e.matches('button:not(:disabled)') && !!e.closest('.choices')).map(e => e.outerHTML.slice(0, 120))
		})()`))
		b.must(err, "reading "+name)
		if len(live) > 0 {
			t.Errorf("%s shows as of now: %s", name, strings.Join(live, "\n"))
		}
		b.sensible(name + ", out of reach")
	}
}

// back waits until each page shows what is now, without being loaded again.
func back(tabs map[string]*tab) {
	for name, b := range tabs {
		b.until(name+" to be of now", func() bool { return b.is(`!document.querySelector('.away, .past')`) })
	}
}
