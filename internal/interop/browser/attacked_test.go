package browser

import (
	"context"
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/writ-attestation/writ/verifier/bundle"
)

// attacked reads what a hostile node and a careless operator have made the verifier
// say, on each page that says it: all of it is there as text, and nothing of it runs.
func attacked(t *testing.T, l *lab, h *hostile, chromium context.Context) {
	subject := bundle.Subject("dev.invalid", h.node)
	b := open(t, chromium)

	b.open(l.URL + "/console")
	b.shows("#count-nodes", "1")
	b.shows("main", "constructor", "fail-closed-restricted")
	b.reads("/console", attacks[0]) // in its recent findings
	b.inspect("console-hostile")
	b.harmless("/console")

	b.open(l.URL + "/console?node=" + subject)
	b.shows("section[aria-labelledby=boot-title]", "Difference from the boot before", "21 proven entries")
	b.inspect("node-hostile")
	b.unfold()
	b.reads("the node's second boot", slices.Concat(h.events[1:], each("later ", h.events), each("", escapedAll(h.files)), []string{attacks[0], attacks[4]})...)
	b.harmless("the node's second boot")
	b.eval(`document.querySelector('button[aria-pressed=false][aria-label^="Show the boot"]').click()`) // of the decision before
	b.shows("section[aria-labelledby=boot-title]", "The chosen decision", "No earlier boot")
	b.unfold()
	b.reads("the node's first boot", slices.Concat(h.events, []string{`/usr/bin/` + attacks[0]})...)
	b.harmless("the node's first boot")

	b.signIn(l, l.operator)
	b.shows("#signed-in", "first")
	b.reads("the list of nodes", maker)
	b.write("#search", attacks[1])
	b.shows("#no-nodes", "No node fits")
	b.open(l.URL + "/console?node=" + subject)
	b.reads("the node, to operators", maker, h.node)
	b.harmless("/console, signed in")

	b.open(l.URL + "/lineage")
	b.shows("#executions", h.exec)
	b.eval(`document.querySelector('#executions a').click()`)
	b.shows("#state", "ended")
	b.unfold()
	b.reads("/lineage", h.exec, h.parent, audience, "Cause: constructor")
	b.inspect("lineage-hostile")
	b.harmless("/lineage")

	b.open(l.URL + "/health")
	b.reads("/health", `w<svg/onload=window.hurt=1>`)
	b.harmless("/health")
	addresses(l, b)
	pasted(t, l, h, b)
}

// addresses are what links of strangers lead to.
func addresses(l *lab, b *tab) {
	for i, a := range attacks {
		q := url.QueryEscape(a)
		at := []string{"/console?node=" + q, "/console?q=" + q + "&state=" + q + "&class=" + q + "&judged=" + q, "/console#sign-in=" + q, "/lineage?q=" + q + "&node=" + q + "&from=" + q, "/lineage?exec=" + q, "/proof#" + q, "/proof#demo/" + q}
		b.open(l.URL + at[i%len(at)])
		b.harmless(at[i%len(at)])
	}
	b.open(l.URL + "/console?node=" + url.QueryEscape(attacks[0]))
	b.shows("[role=alert]", "The log knows no node", attacks[0])
	b.harmless("a node's page of another name")
}

// pasted checks on /proof what a hostile node has sent, and what a stranger has.
func pasted(t *testing.T, l *lab, h *hostile, b *tab) {
	t.Helper()
	raw, err := l.api.Bundle(t.Context(), h.node, -1)
	h.must(err, "fetching the evidence")
	file := filepath.Join(t.TempDir(), `<img src=x onerror=window.hurt=1>`+"\u202e.json")
	h.must(os.WriteFile(file, raw, 0o600), "writing the bundle")
	trust := string(h.trust.Marshal())

	b.open(l.URL + "/proof")
	b.drop("#bundle", file)
	b.shows("#bundle", `<img src=x onerror=window.hurt=1>`)
	b.write("#trust", trust)
	b.check(result+" h2", "The bundle:", "denied")
	b.unfold()
	b.reads("a hostile bundle", "deny", `<img src=x onerror=window.hurt=1>`)
	b.inspect("proof-hostile")
	b.harmless("a hostile bundle")
	b.press("Remove")

	b.write("#bundle", h.token)
	b.check(result, "The token:", audience)
	b.harmless("a hostile token")
	encoded := base64.RawURLEncoding.EncodeToString
	for _, a := range attacks {
		for name, paste := range map[string]string{
			"a member": `{` + quote(a) + `:1}`,
			"a token":  encoded([]byte(`{"alg":"ES256","typ":"JWT","kid":`+quote(a)+`}`)) + "." + encoded([]byte(`{"iss":`+quote(a)+`,"sub":`+quote(a)+`}`)) + ".AAAA",
			"a text":   a,
		} {
			b.write("#trust", "")
			b.write("#bundle", paste)
			b.check("div[aria-live]:not([aria-busy=true])", "")
			b.harmless(name + " " + a)
		}
		b.write("#bundle", h.token)
		b.write("#trust", strings.Replace(trust, `"dev.invalid"`, quote(a), 1))
		b.check("div[aria-live]:not([aria-busy=true])", "")
		b.harmless("a trust file of " + a)
	}
}

func escapedAll(all []string) (out []string) {
	for _, s := range all {
		out = append(out, escaped(s))
	}
	return out
}

func each(before string, all []string) (out []string) {
	for _, s := range all {
		out = append(out, before+s)
	}
	return out
}

// unfold opens all that is folded.
func (b *tab) unfold() {
	b.Helper()
	b.eval(`document.querySelectorAll('details').forEach(d => { d.open = true })`)
}

// reads waits until each text can be seen as it is, but for white space.
func (b *tab) reads(where string, texts ...string) {
	b.Helper()
	plain := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	var missing []string
	for i := range texts {
		texts[i] = plain(texts[i])
	}
	for deadline := time.Now().Add(patience / 2); ; time.Sleep(50 * time.Millisecond) {
		seen := plain(b.text("main"))
		missing = slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return strings.Contains(seen, s) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s lacks %q: %s", where, missing, seen)
		}
		b.unfold()
	}
}

// harmless fails the test if anything that was shown did more than be shown.
func (b *tab) harmless(where string) {
	b.Helper()
	if !b.is(`window.hurt === undefined`) {
		b.Errorf("%s: a script ran", where)
	}
	found, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll('body *')].filter(e =>
		['img', 'iframe', 'object', 'embed', 'style', 'link', 'meta', 'base', 'template', 'audio', 'video', 'animate', 'set', 'use', 'foreignObject'].includes(e.localName) || e.localName === 'script' ||
		[...e.attributes].some(a => /^on/i.test(a.name) || a.name === 'autofocus' || a.name === 'srcdoc' || (/^(href|src|action|formaction)$/.test(a.name.split(':').pop()) && !/^(https:|[\/#])/.test(a.value)))).map(e => e.outerHTML.slice(0, 200))`))
	b.must(err, "looking for what was put into the page")
	if len(found) > 0 {
		b.Errorf("%s: in the page are %q", where, found)
	}
	for _, s := range b.seen() {
		if !strings.HasPrefix(s, "answer: 4") && !strings.HasPrefix(s, "log: Failed to load resource: the server responded with a status of 4") {
			b.Errorf("%s: %s", where, s)
		}
	}
}

// signIn makes the page an operator's, as docs/console.md says.
func (b *tab) signIn(l *lab, operator string) {
	b.Helper()
	b.open(l.run(b.T, operator, "sign-in"))
	b.press("Sign in")
	b.shows("#signed-in", "Signed in as")
}
