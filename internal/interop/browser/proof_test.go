package browser

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/writ-attestation/writ/internal/interop/domain"
)

// things to check on /proof, in files.
type things struct{ bundle, token, receipt, entry, trust string }

func collect(t *testing.T, d *domain.Domain) things {
	t.Helper()
	dir := t.TempDir()
	w := things{filepath.Join(dir, "node.writ.json"), filepath.Join(dir, "token.jwt"), filepath.Join(dir, "entry.tlog-proof"), filepath.Join(dir, "entry.json"), filepath.Join(d.Dir, "node-1", "state", "trust.json")}
	d.Writ(t, "bundle", d.Node(t, 1), "-o", w.bundle)
	d.Writ(t, "log", "prove", "5", "-o", w.receipt)
	d.Writ(t, "log", "entry", "5", "-o", w.entry)
	if err := os.WriteFile(w.token, []byte(d.Token(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

const result = `section[aria-label="Result"]`

// check presses the button and waits for an answer with the words.
func (b *tab) check(selector string, words ...string) {
	b.Helper()
	b.press("Check")
	b.shows(selector, words...)
}

// drop lets a file fall on an element, as from the desk.
func (b *tab) drop(selector, file string) {
	b.Helper()
	at, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]float64](fmt.Sprintf(`(e => (e.scrollIntoView(), (r => [r.x + r.width / 2, r.y + r.height / 2])(e.getBoundingClientRect())))(document.querySelector(%s))`, quote(selector))))
	b.must(err, "finding "+selector)
	for _, kind := range []input.DispatchDragEventType{input.DispatchDragEventTypeDragEnter, input.DispatchDragEventTypeDragOver, input.DispatchDragEventTypeDrop} {
		_, err := chromedp.Call(b.ctx, input.DispatchDragEvent, input.DispatchDragEventParams{Type: kind, X: at[0], Y: at[1], Data: &input.DragData{Items: []*input.DragDataItem{}, Files: []string{file}, DragOperationsMask: 1}})
		b.must(err, "dropping")
	}
}

// paste puts text on the clipboard and presses Ctrl+V in an element.
func (b *tab) paste(selector, text string) {
	b.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	b.must(err, "focusing")
	b.must(chromedp.Do(b.ctx, chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`navigator.clipboard.writeText(%s)`, quote(text)), chromedp.EvalAwaitPromise, func(p *runtime.EvaluateParams) { p.UserGesture = new(true) })), "copying")
	b.eval(fmt.Sprintf(`document.querySelector(%s).focus()`, quote(selector)))
	_, err = chromedp.Call(b.ctx, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeRawKeyDown, Key: "v", Code: "KeyV", Modifiers: 2, Commands: []string{"paste"}})
	b.must(err, "pasting")
}

// proof walks through /proof: what is right, what is not, and what is no proof.
func proof(t *testing.T, d *domain.Domain, chromium context.Context) {
	w, b := collect(t, d), open(t, chromium)
	b.open(d.URL + "/proof")

	b.drop("#bundle", w.bundle)
	b.shows("#bundle", "node.writ.json")
	b.check(result, "The bundle:", "partial", "signer", "skipped", "writ verify bundle.json")
	if text := b.text(result + " h2"); strings.Contains(text, "verified") {
		t.Errorf("without a key the page says %q", text)
	}
	b.must(chromedp.Do(b.ctx, chromedp.SetUploadFiles(chromedp.CSS(`input[aria-label^="Trust file"]`), []string{w.trust})), "choosing the trust file")
	b.check(result+" h2", "verified")
	b.inspect("proof-bundle")

	b.press("Remove") // the bundle's
	b.paste("#bundle", read(t, w.token))
	b.check(result, "The token:", "partial", "signed by a key of the trust file", "whether it was revoked since is not in the token")
	b.write("#bundle", read(t, w.token)+"x")
	b.check(result+" h2", "The token:", "invalid")

	b.write("#bundle", read(t, w.receipt))
	b.check(`[role=alert]`, "paste the entry too")
	b.write("#entry", read(t, w.entry))
	b.check(result+" h2", "The receipt:", "verified")
	b.write("#entry", strings.Replace(read(t, w.entry), `"v":1`, `"v":2`, 1))
	b.check(result+" h2", "The receipt:", "invalid")

	b.write("#bundle", "7")
	b.check(result+" h2", "The receipt:", "verified")
	b.clean("/proof")
	b.write("#bundle", "999999999")
	b.check(`[role=alert]`, "The verifier does not give /log/proof/999999999")
	b.seen() // that answer is no fault of the page
	b.open(d.URL + "/proof#7")
	b.shows(result+" h2", "The receipt:", "partial") // a new page: no trust file

	for paste, want := range map[string]string{"": "Paste or choose something", "Dear Sir or Madam": "neither a bundle", `{"v":1}`: "not a bundle that Writ wrote", "\x00<script>alert(1)</script>": "neither a bundle"} {
		b.write("#bundle", paste)
		b.check(`[role=alert]`, want)
	}
	b.inspect("proof-wrong")
	b.write("#bundle", "")
	b.paste("#bundle", strings.Repeat("0123456789abcde\n", 10<<20/16))
	b.shows("#bundle", "pasted text", "10,485,760 bytes")
	b.check(`[role=alert]`, "neither a bundle")
	b.clean("/proof")
}

// pinned: the keys that a reader pins are there on the next visit, until unpinned.
func pinned(t *testing.T, d *domain.Domain, chromium context.Context) {
	w, b := collect(t, d), open(t, chromium)
	b.open(d.URL + "/proof")
	b.write("#trust", read(t, w.trust))
	b.eval(`document.querySelector('input[type=checkbox]').click()`)
	b.write("#bundle", read(t, w.token))
	b.check(result, "signed by a key of the trust file")
	b.open(d.URL + "/proof")
	b.write("#bundle", read(t, w.token))
	b.check(result, "signed by a key of the trust file")
	b.eval(`document.querySelector('input[type=checkbox]').click()`)
	b.open(d.URL + "/proof")
	b.write("#bundle", read(t, w.token))
	b.check(result, "skipped")
	if strings.Contains(b.text(result), "signed by a key of the trust file") {
		t.Error("the unpinned trust file is still there")
	}
	b.clean("/proof")
}

// saved: the copy of /proof that a reader saved checks with no network.
func saved(t *testing.T, d *domain.Domain, chromium context.Context) {
	w, b := collect(t, d), open(t, chromium)
	dir := t.TempDir()
	_, err := chromedp.CallBrowser(b.ctx, cdpbrowser.SetDownloadBehavior, cdpbrowser.SetDownloadBehaviorParams{Behavior: cdpbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, BrowserContextID: chromedp.FromContext(b.ctx).BrowserContextID})
	b.must(err, "allowing downloads")
	b.open(d.URL + "/proof")
	b.eval(`document.querySelector('a[download]').click()`)
	file := filepath.Join(dir, "writ-proof.html")
	b.until("the saved page", func() bool {
		raw, err := os.ReadFile(file)
		return err == nil && strings.HasSuffix(string(raw), "</html>\n")
	})
	b.clean("saving")

	b = open(t, chromium)
	_, err = chromedp.Call(b.ctx, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: true})
	b.must(err, "cutting the network")
	b.open("file://" + file)
	b.write("#trust", read(t, w.trust))
	b.drop("#bundle", w.bundle)
	b.check(result+" h2", "The bundle:", "verified")
	b.press("Remove")
	b.write("#bundle", read(t, w.token))
	b.check(result, "The token:", "signed by a key of the trust file")
	b.write("#bundle", "7")
	b.check(`[role=alert]`, "asks nobody")
	b.inspect("proof-saved")
	b.clean("the saved page")
}
