package browser

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long a page may take for anything on a loaded machine.
const patience = time.Minute

// launch starts a Chromium for which certificates of these authorities, and no others,
// are as good as those of the web's. Cancelling the context ends it.
func launch(t *testing.T, authorities ...*x509.Certificate) context.Context {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("the pages are tested in Chromium: %v; apt-get install chromium", err)
	}
	var spki []string
	for _, ca := range authorities {
		sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
		spki = append(spki, base64.StdEncoding.EncodeToString(sum[:]))
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(program), chromedp.WSURLReadTimeout(patience),
		chromedp.Flag("ignore-certificate-errors-spki-list", strings.Join(spki, ",")))
	if os.Geteuid() == 0 { // Chromium's sandbox refuses root
		options = append(options, chromedp.NoSandbox)
	}
	alloc, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting Chromium: %v", err)
	}
	return ctx
}

// tab is a page with a profile of its own. It keeps all that goes wrong in it.
type tab struct {
	*testing.T
	ctx context.Context

	mu       sync.Mutex
	asked    map[network.RequestID]string // requests without an end yet
	urls     map[network.RequestID]string
	troubles []string
}

func open(t *testing.T, chromium context.Context) *tab {
	t.Helper()
	return newTab(t, chromium, chromedp.WithNewBrowserContext())
}

// beside opens a page that has what the other one's profile has.
func beside(t *testing.T, b *tab) *tab {
	t.Helper()
	return newTab(t, b.ctx)
}

func newTab(t *testing.T, parent context.Context, options ...chromedp.ContextOption) *tab {
	t.Helper()
	b := &tab{T: t, asked: map[network.RequestID]string{}, urls: map[network.RequestID]string{}}
	ctx, cancel := chromedp.NewContext(parent, options...)
	t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, 8*patience)
	t.Cleanup(stop)
	b.ctx = ctx
	b.must(chromedp.Do(ctx), "opening a tab")
	b.must(chromedp.Listen(ctx, b.hear), "listening")
	_, err := chromedp.Call(ctx, audits.Enable, struct{}{})
	b.must(err, "enabling audits")
	b.size(1600, false)
	return b
}

func (b *tab) must(err error, doing string) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s: %v; so far %q", doing, err, b.seen())
	}
}

// hear is told each event of the page, in order.
func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	trouble := func(format string, args ...any) { b.troubles = append(b.troubles, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		trouble("exception: %s %s", e.ExceptionDetails.Text, e.ExceptionDetails.Exception.Description)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			raw, _ := json.Marshal(e.Args) // for the message alone
			trouble("console: %s %s", e.Type, raw)
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			trouble("log: %s %s", e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if e.Issue.Code == audits.InspectorIssueCodeContentSecurityPolicyIssue {
			raw, _ := json.Marshal(e.Issue.Details)
			trouble("content security policy: %s", raw)
		}
	case *page.EventJavascriptDialogOpening:
		trouble("dialog: %s", e.Message)
		go func() {
			_, _ = chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
		}()
	case *network.EventRequestWillBeSent:
		b.urls[e.RequestID] = e.Request.URL
		if e.Type != network.ResourceTypeEventSource {
			b.asked[e.RequestID] = e.Request.URL
		}
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 {
			trouble("answer: %d %s", e.Response.Status, e.Response.URL)
		}
		if e.Response.MimeType == "text/event-stream" {
			delete(b.asked, e.RequestID)
		}
	case *network.EventLoadingFinished:
		delete(b.asked, e.RequestID)
	case *network.EventLoadingFailed:
		delete(b.asked, e.RequestID)
		if !e.Canceled {
			trouble("request: %s %s", e.ErrorText, b.urls[e.RequestID])
		}
	}
}

// seen is what went wrong since it was last asked.
func (b *tab) seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.troubles
	b.troubles = nil
	return out
}

// clean fails the test if anything went wrong.
func (b *tab) clean(where string) {
	b.Helper()
	if all := b.seen(); len(all) > 0 {
		b.Errorf("%s:\n  %s", where, strings.Join(all, "\n  "))
	}
}

// open shows a page and waits until it has all that it asked for.
func (b *tab) open(url string) {
	b.Helper()
	b.must(chromedp.Do(b.ctx, chromedp.Navigate("about:blank")), "leaving")
	b.mu.Lock()
	clear(b.asked) // what the last page asked for, it does not want any more
	b.mu.Unlock()
	b.must(chromedp.Do(b.ctx, chromedp.Navigate(url)), "opening "+url)
	b.settled(url)
}

// settled waits until nothing is under way and the page has a heading.
func (b *tab) settled(where string) {
	b.Helper()
	b.until(where+" to have loaded", func() bool {
		return b.quiet() && b.is(`document.readyState === 'complete' && !!document.querySelector('h1') && !document.querySelector('[aria-busy="true"]')`)
	})
}

// quiet reports whether no request is under way. Chromium does not tell of the end of
// every request, so the page is asked, too: its timings have those that have ended.
func (b *tab) quiet() bool {
	b.mu.Lock()
	n := len(b.asked)
	b.mu.Unlock()
	if n == 0 {
		return true
	}
	ended, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`performance.getEntriesByType('resource').filter(e => e.responseEnd > 0).map(e => e.name)`))
	if err != nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, url := range b.asked {
		if slices.Contains(ended, url) {
			delete(b.asked, id)
		}
	}
	return len(b.asked) == 0
}

// until waits for a condition.
func (b *tab) until(what string, f func() bool) {
	b.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) || b.ctx.Err() != nil {
			b.mu.Lock()
			asked := fmt.Sprint(b.asked)
			b.mu.Unlock()
			b.Fatalf("waiting for %s: the page says %q; waiting for %s; troubles %q", what, b.text("body"), asked, b.seen())
		}
	}
}

// is evaluates a condition; one that cannot be, as while a page is being replaced, is
// not met.
func (b *tab) is(script string) bool {
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](script))
	return err == nil && v
}

// shows waits until an element's text has all of the words.
func (b *tab) shows(selector string, words ...string) {
	b.Helper()
	b.until(fmt.Sprintf("%s to show %q", selector, words), func() bool {
		text := b.text(selector)
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
	})
}

// text is the text of the first element, "" if there is none.
func (b *tab) text(selector string) string {
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](fmt.Sprintf(`document.querySelector(%s)?.innerText ?? ''`, quote(selector))))
	if err != nil {
		return ""
	}
	return v
}

func (b *tab) eval(script string) {
	b.Helper()
	b.must(chromedp.Do(b.ctx, chromedp.Evaluate[chromedp.Void](script, chromedp.EvalAwaitPromise)), "evaluating "+script[:min(len(script), 200)])
}

// press clicks the button with this text, once there is one that can be.
func (b *tab) press(label string) {
	b.Helper()
	b.until("a button "+label, func() bool {
		return b.is(fmt.Sprintf(`(x => !!x && (x.click(), true))([...document.querySelectorAll('button')].find(x => x.innerText.trim() === %s && !x.disabled))`, quote(label)))
	})
}

// write gives a field a value as if it had been typed.
func (b *tab) write(selector, text string) {
	b.Helper()
	b.eval(fmt.Sprintf(`(() => {
		const e = document.querySelector(%s)
		Object.getOwnPropertyDescriptor(Object.getPrototypeOf(e), 'value').set.call(e, %s)
		e.dispatchEvent(new Event('input', { bubbles: true }))
	})()`, quote(selector), quote(text)))
}

// quote makes a JavaScript string.
func quote(s string) string {
	raw, _ := json.Marshal(s) // strings always marshal
	return string(raw)
}

// size makes the page as wide as a telephone or a desk's screen, light or dark.
func (b *tab) size(width int, dark bool) {
	b.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	_, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: int64(width), Height: 900, DeviceScaleFactor: 1, Mobile: width < 500})
	b.must(err, "setting the size")
	_, err = chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
	b.must(err, "setting the colours")
}

// kept reports whether anybody keeps the pictures.
func kept() bool {
	artifacts := flag.Lookup("test.artifacts")
	return os.Getenv("WRIT_SCREENSHOTS") != "" || artifacts != nil && artifacts.Value.String() == "true"
}

// picture saves the whole page.
func (b *tab) picture(name string) []byte {
	b.Helper()
	dir := os.Getenv("WRIT_SCREENSHOTS")
	if dir == "" {
		dir = b.ArtifactDir()
	}
	shot, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	b.must(err, "taking a picture")
	b.must(os.MkdirAll(dir, 0o755), "making "+dir)
	b.must(os.WriteFile(filepath.Join(dir, name+".png"), shot, 0o644), "saving a picture")
	return shot
}

// views are the sizes and colours that pages are looked at in.
var views = []struct {
	name  string
	width int
	dark  bool
}{{"380-light", 380, false}, {"380-dark", 380, true}, {"1600-light", 1600, false}, {"1600-dark", 1600, true}}

// inspect looks at the page in all sizes and colours: nothing hangs over, and axe finds
// nothing that a reader could not use.
func (b *tab) inspect(name string) {
	b.Helper()
	for _, v := range views {
		looked := v.width == 380 && v.dark || v.width == 1600 && !v.dark
		if !looked && !kept() { // the same in other colours, for the picture alone
			continue
		}
		b.size(v.width, v.dark)
		if kept() {
			b.picture(name + "-" + v.name)
		}
		if b.is(`document.documentElement.scrollWidth > window.innerWidth`) {
			wide, _ := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > window.innerWidth + 1).map(e => e.outerHTML.slice(0, 120)).slice(0, 5)`))
			b.Errorf("%s at %s is wider than the window: %q", name, v.name, wide)
		}
		if looked {
			b.usable(name + " at " + v.name)
		}
	}
	b.size(1600, false)
}

// usable runs axe, which comes by the debugger, not by the page.
func (b *tab) usable(where string) {
	b.Helper()
	if !b.is(`typeof axe === 'object'`) {
		const file = "../../../verifier/console/web/node_modules/axe-core/axe.min.js"
		axe, err := os.ReadFile(file)
		if err != nil {
			b.Fatalf("axe-core: %v; `make pages` installs it", err)
		}
		b.eval(string(axe) + "; undefined")
	}
	found, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`axe.run().then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ': ' + v.help + ': ' + n.target.join(' ') + ': ' + n.failureSummary)))`, chromedp.EvalAwaitPromise))
	b.must(err, "running axe")
	for _, v := range found {
		b.Errorf("%s: %s", where, v)
	}
}
