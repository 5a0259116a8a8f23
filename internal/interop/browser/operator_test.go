package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/reference"
)

// controls are what only operators have, and the file that makes them.
const controls = `[...document.querySelectorAll('#signed-in, [id^="act-"], dialog, .operate')].map(e => e.outerHTML.slice(0, 100)).concat(performance.getEntriesByType('resource').map(e => e.name).filter(n => n.includes('/operator')))`

// public fails the test if the page has anything that is for operators alone.
func (b *tab) public(where string) {
	b.Helper()
	found, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](controls))
	b.must(err, "looking for an operator's controls")
	if len(found) > 0 {
		b.Errorf("%s: the public is sent %q", where, found)
	}
}

// act is what an operator does with a button.
type act struct {
	id, name string
	final    bool
	reason   string
	file     string
	told     string // by the page
	kind     string // of the entry that results
	data     string // a part of it
}

// operate signs an operator in and does all that the console offers; each act asks for
// a reason and to be confirmed, and is in the log.
func operate(t *testing.T, l *lab, chromium context.Context) {
	m := l.join(t, "fleet")
	m.boot(nil)
	set := filepath.Join(t.TempDir(), "fleet.signed.json")
	m.must(os.WriteFile(set, m.learn(1, func(*reference.Set) {}), 0o600), "writing the set")
	page := l.URL + "/console?node=" + bundle.Subject("dev.invalid", m.node)

	b := open(t, chromium)
	for _, at := range []string{l.URL + "/console", page} {
		b.open(at)
		b.shows("main", "fleet", "pending")
		b.public(at)
		if text := b.text("body"); strings.Contains(text, m.node) {
			t.Errorf("%s shows the public the node's id", at)
		}
	}
	link := l.run(t, l.operator, "sign-in")
	b.open(link)
	b.shows("[aria-labelledby=sign-in-title]", "Sign this browser in to dev.invalid?", "leave this page")
	if b.is(`location.hash !== ''`) {
		t.Error("the code stays in the address")
	}
	b.inspect("sign-in")
	b.press("Sign in")
	b.shows("#signed-in", "Signed in as first", "approver", "may act until")
	b.shows("main", "Publish a reference set")
	b.inspect("console-operator")
	b.clean("signing in")
	spent := open(t, chromium)
	spent.open(link) // once more: it was good once
	spent.press("Sign in")
	spent.shows("[role=alert]", "was used")
	spent.public("a used link")

	l.do(b, m, act{id: "publish", name: "Publish a reference set", file: set, told: "fleet generation 1 is in force", kind: "reference.activated"})
	b.open(page)
	b.shows("h1", m.node)
	l.do(b, m, act{id: "approve", name: "Approve", reason: "it is ours", told: "The node is active", kind: "node.status"})
	b.shows("main", "active")
	if _, err := m.ask(t.Context(), request("base", "", "")); err != nil {
		t.Fatalf("an approved node: %v", err)
	}
	b.shows("main", "synchronized")
	b.inspect("node-operator")
	l.do(b, m, act{id: "suspend", name: "Suspend", reason: "<b>looks odd</b>", told: "The node is suspended", kind: "legitimacy.revoked"})
	b.shows("main", "suspended")
	l.do(b, m, act{id: "approve", name: "Approve", reason: "was nothing", told: "The node is active", kind: "node.status"})
	l.do(b, m, act{id: "revoke", name: "Revoke", final: true, reason: "sold", told: "The node is revoked", kind: "legitimacy.revoked"})
	b.shows(".operate", "It is revoked, which is final")
	b.open(l.URL + "/console")
	b.shows("main", "Freeze the domain")
	l.do(b, m, act{id: "freeze", name: "Freeze the domain", final: true, reason: "drill", told: "The domain is frozen", kind: "governance.frozen"})
	b.shows("#frozen", "The domain is frozen")
	b.inspect("console-frozen")
	l.do(b, m, act{id: "unfreeze", name: "Lift the freeze", reason: "drill over", told: "The freeze is lifted", kind: "governance.unfrozen"})
	b.until("no word of the freeze", func() bool { return b.is(`!document.querySelector('#frozen')`) })
	refused(t, b, m)
	b.clean("acts")

	l.viewer(t, chromium, page)
	b.press("Sign out")
	b.until("the public view", func() bool { return b.is(`!document.querySelector('#signed-in, .operate, dialog')`) })
	b.open(l.URL + "/console")
	b.shows("#count-nodes", "2")
	b.public("after signing out")
	if strings.Contains(b.text("body"), m.node) {
		t.Error("after signing out the page still shows the node's id")
	}
}

// do presses an act's button, is asked, gives reason and confirmation, and finds the
// entry in the log.
func (l *lab) do(b *tab, m *machine, a act) {
	b.Helper()
	audit, err := l.api.Audit(b.Context(), 0, 1)
	b.must(err, "reading the log")
	b.until("the button "+a.id, func() bool {
		return b.is(fmt.Sprintf(`(e => !!e && !e.disabled && (e.click(), true))(document.querySelector('#act-%s'))`, a.id))
	})
	b.shows("dialog[open] h2", a.name)
	may := func() bool { return b.is(`!document.querySelector('#act-confirm').disabled`) }
	if may() {
		b.Errorf("%s: nothing was said, and it may be confirmed", a.id)
	}
	if a.file != "" {
		b.must(chromedp.Do(b.ctx, chromedp.SetUploadFiles(chromedp.CSS("#act-file"), []string{a.file})), "choosing the set")
	} else {
		b.write("#act-reason", "  \n ")
		b.eval(`document.querySelector('dialog form').requestSubmit()`)
		if may() {
			b.Errorf("%s: an empty reason may be confirmed", a.id)
		}
		b.write("#act-reason", a.reason)
	}
	if a.final {
		b.until("the reason to be there", func() bool { return b.is(`document.querySelector('#act-reason').value !== ''`) })
		if may() {
			b.Errorf("%s: it may be confirmed without the box", a.id)
		}
		b.eval(`document.querySelector('#act-sure').click()`)
	}
	b.until("the act to be possible", may)
	if a.id == "revoke" || a.id == "publish" {
		b.inspect("dialog-" + a.id)
	}
	b.eval(`document.querySelector('#act-confirm').click()`)
	b.shows("#act-done", a.told)
	l.wrote(b, m, a, audit.Size)
}

// wrote looks for the entry of an act in the log, from an index on.
func (l *lab) wrote(b *tab, m *machine, a act, from uint64) {
	b.Helper()
	audit, err := l.api.Audit(b.Context(), from, from+50)
	b.must(err, "reading the log")
	var kinds []string
	for _, e := range audit.Entries {
		leaf, err := ledger.ParseLeaf(e.Leaf)
		b.must(err, "reading an entry")
		kinds = append(kinds, leaf.Kind)
		if leaf.Kind != a.kind {
			continue
		}
		var said struct{ Reason string }
		b.must(json.Unmarshal(leaf.Data, &said), "reading an entry")
		if a.reason != "" && (said.Reason == "" || strings.Contains(string(e.Leaf), a.reason)) {
			b.Errorf("%s: the entry has the reason %q, expected a commitment: %s", a.id, said.Reason, e.Leaf)
		}
		if want := bundle.Subject("dev.invalid", m.node); strings.HasPrefix(a.kind, "node.") && leaf.Subject != want {
			b.Errorf("%s: about %s, expected %s", a.id, leaf.Subject, want)
		}
		if leaf.Actor == "" {
			b.Errorf("%s: nobody did it: %s", a.id, e.Leaf)
		}
		return
	}
	b.Errorf("%s: expected an entry %s, found %q", a.id, a.kind, kinds)
}

// refused: the verifier itself takes no act without a reason, and none without the
// page's token.
func refused(t *testing.T, b *tab, m *machine) {
	t.Helper()
	for name, send := range map[string]struct {
		csrf   string
		status int
	}{"no reason": {`(await (await fetch('/v1/public/console')).json()).session.csrf`, 400}, "no token": {`''`, 403}} {
		got, err := chromedp.Run(b.ctx, chromedp.Evaluate[int](fmt.Sprintf(`(async () => (await fetch('/v1/nodes/%s/status', { method: 'POST', body: JSON.stringify({ status: 'retired', reason: ' ' }), headers: { 'Content-Type': 'application/json', 'X-Writ-CSRF': %s } })).status)()`, m.node, send.csrf), chromedp.EvalAwaitPromise))
		b.must(err, "asking")
		if got != send.status {
			t.Errorf("an act with %s: %d, expected %d", name, got, send.status)
		}
	}
	b.seen() // those were no page's
}

// viewer: who may only look is offered nothing else.
func (l *lab) viewer(t *testing.T, chromium context.Context, page string) {
	t.Helper()
	b := open(t, chromium)
	b.signIn(l, l.issue(t, time.Hour, "viewer", keys.Viewer))
	b.open(page)
	b.shows(".operate", "revoked")
	b.open(l.URL + "/console")
	b.shows(".operate", "let you look, not act")
	b.clean("a viewer")
}

// leaving is an operator whose certificate ends soon, with a dialog open.
func leaving(t *testing.T, l *lab, chromium context.Context) *tab {
	t.Helper()
	for life := 40 * time.Second; ; life *= 2 {
		b := open(t, chromium)
		b.open(l.run(t, l.issue(t, life, "brief", keys.AllRoles()...), "sign-in"))
		b.press("Sign in")
		b.until("an answer", func() bool { return b.is(`!!document.querySelector('#act-freeze, [role=alert]')`) })
		if b.is(`(e => !!e && !e.disabled && (e.click(), true))(document.querySelector('#act-freeze'))`) {
			b.shows("dialog[open] h2", "Freeze")
			b.write("#act-reason", "too late")
			b.eval(`document.querySelector('#act-sure').click()`)
			b.clean("signing in for a while")
			return b
		} else if life > 10*time.Minute {
			b.Fatal("a certificate of ten minutes is too short to sign in with")
		}
	}
}

// ended: an act of a session that is over is refused; the page says so, offers to sign
// in, and goes on as anybody's. So it does where another page signed out.
func ended(t *testing.T, l *lab, chromium context.Context, late *tab) {
	late.T = t
	late.until("the end of the certificate", func() bool {
		return late.is(`document.querySelector('#signed-in') ? (document.querySelector('#signed-in time') ? false : true) : true`) || late.is(`!!document.querySelector('dialog[open]') && [...document.querySelectorAll('#signed-in time')].every(t => Date.parse(t.dateTime) < Date.now() - 1000)`)
	})
	if late.is(`!!document.querySelector('#act-confirm')`) {
		late.eval(`document.querySelector('#act-confirm')?.click()`)
	}
	late.over("an expired session")

	b := open(t, chromium)
	b.signIn(l, l.operator)
	b.shows(".operate", "Freeze the domain")
	b.eval(`document.querySelector('#act-freeze').click()`)
	b.write("#act-reason", "elsewhere it was signed out")
	b.eval(`document.querySelector('#act-sure').click()`)
	other := beside(t, b)
	other.open(l.URL + "/console")
	other.press("Sign out")
	other.until("the public view", func() bool { return other.is(`!document.querySelector('#signed-in')`) })
	b.eval(`document.querySelector('#act-confirm')?.click()`)
	b.over("a session that another page ended")
}

// over waits for what a page shows whose session has ended.
func (b *tab) over(what string) {
	b.Helper()
	b.shows("main", "Your session has ended", "writ sign-in")
	b.until("the public view after "+what, func() bool { return b.is(`!document.querySelector('#signed-in, .operate, dialog')`) })
	b.shows("h1", "Console of dev.invalid")
	b.inspect("session-ended")
	if b.is(`!!document.querySelector('#frozen')`) {
		b.Errorf("%s: the act was done", what)
	}
	b.harmless(what)
}
