package browser

import (
	"context"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// keyboard goes through the console with nothing but keys.
func keyboard(t *testing.T, l *lab, chromium context.Context) {
	b := open(t, chromium)
	b.signIn(l, l.operator)
	b.open(l.URL + "/console")
	b.shows(".operate", "Freeze the domain")
	b.key(kb.Tab)
	if !b.is(`document.activeElement.matches('.skip')`) {
		t.Error("the first stop is not the way past the navigation")
	}
	b.key(kb.Enter)
	b.until("the focus to be on the content", func() bool { return b.is(`document.activeElement.id === 'main'`) })
	b.walk("#state-synchronized", kb.Enter)
	b.shows("#no-nodes", "No node fits")
	b.walk("#clear", kb.Enter)
	b.shows("[aria-label='List of nodes']", "constructor")
	b.walk("#search", "constructor")
	b.until("the hostile node alone", func() bool {
		return b.is(`document.querySelectorAll("[aria-label='List of nodes'] tbody tr").length === 1`)
	})
	b.walk("[aria-label='List of nodes'] tbody a", kb.Enter)
	b.shows("h1", "Node")
	b.until("the focus to be on the content", func() bool { return b.is(`document.activeElement.id === 'main'`) })
	b.walk("#boot-title ~ details summary", kb.Enter)
	b.walk("#only-odd", " ")
	b.until("the box to be checked", func() bool { return b.is(`document.querySelector('#only-odd').checked`) })
	b.walk("[aria-label='Token chain, newest first'] button", kb.Enter)
	b.open(l.URL + "/console")
	b.shows(".operate", "Freeze the domain")

	b.walk("#act-freeze", kb.Enter)
	b.shows("dialog[open] h2", "Freeze the domain")
	for range 12 {
		b.key(kb.Tab)
		if !b.is(`document.activeElement === document.body || !!document.activeElement.closest('dialog')`) {
			t.Errorf("the focus left the dialog, for %s", b.focused())
		}
	}
	b.key(kb.Escape)
	b.until("the dialog to close", func() bool { return b.is(`!document.querySelector('dialog')`) })
	if !b.is(`document.activeElement.id === 'act-freeze'`) {
		t.Errorf("after Escape the focus is on %s", b.focused())
	}
	b.key(kb.Enter)
	b.shows("dialog[open] h2", "Freeze the domain")
	b.walk("#act-cancel", kb.Enter)
	b.until("the dialog to close", func() bool { return b.is(`!document.querySelector('dialog')`) })
	if !b.is(`document.activeElement.id === 'act-freeze'`) {
		t.Errorf("after Cancel the focus is on %s", b.focused())
	}
	b.clean("with keys")

	b.open(l.URL + "/demo")
	b.shows("main", "Start a node")
	b.walk("main button.main", "")
	b.open(l.URL + "/proof")
	b.walk("#bundle", "")
	b.write("#bundle", "0")
	b.walk("main button.main", kb.Enter)
	b.shows(result+" h2", "The receipt:")
	b.open(l.URL + "/lineage")
	b.shows("#executions", "constructor")
	b.walk("#executions a", kb.Enter)
	b.shows("#state", "ended")
	b.walk(`#graph a[href^="#entry-"]`, kb.Enter)
	b.until("the entry to be the target", func() bool { return b.is(`!!document.querySelector('#events tr:target')`) })
	b.clean("with keys")
}

func (b *tab) key(name string) {
	b.Helper()
	b.must(chromedp.Do(b.ctx, chromedp.KeyEvent(name)), "pressing a key")
}

func (b *tab) focused() string {
	v, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.activeElement.outerHTML.slice(0, 200)`))
	return v
}

// walk presses Tab until the element has the focus, and can be seen to have it; then a
// key.
func (b *tab) walk(selector, then string) {
	b.Helper()
	at := "document.activeElement === document.querySelector(" + quote(selector) + ")"
	b.until(selector+" to be there", func() bool { return b.is("!!document.querySelector(" + quote(selector) + ")") })
	for steps := 0; !b.is(at); steps++ {
		if steps > 300 {
			b.Fatalf("Tab does not lead to %s; the focus is on %s", selector, b.focused())
		}
		b.key(kb.Tab)
	}
	if !b.is(`(e => { const s = getComputedStyle(e), r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0 && (e.localName === 'a' && !!e.closest('svg') || s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1) })(document.activeElement)`) {
		b.Errorf("nothing shows that the focus is on %s", selector)
	}
	if then != "" {
		b.key(then)
	}
}
