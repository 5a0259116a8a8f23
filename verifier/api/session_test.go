package api

import (
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestSessionCookieStolenCrossSite: a request that another site makes a signed-in
// browser send, with its cookie, does nothing, whichever of the browser's own words
// gives it away.
func TestSessionCookieStolenCrossSite(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	n, _, _ := d.working()
	b := d.browser()
	b.signIn(d.first)
	change := protocol.StatusChange{Status: "suspended", Reason: "x"}
	drop := func(name string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(name) } }
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, forge := range map[string]func(*http.Request){
		"no CSRF token":      drop(csrfHeader),
		"another's token":    set(csrfHeader, secret()),
		"an empty token":     set(csrfHeader, ""),
		"a foreign origin":   set("Origin", "https://evil.example"),
		"another port":       set("Origin", "https://127.0.0.1:1"),
		"the origin null":    set("Origin", "null"),
		"no origin":          drop("Origin"),
		"two origins":        func(r *http.Request) { r.Header.Add("Origin", d.url) },
		"a foreign site":     set("Sec-Fetch-Site", "cross-site"),
		"the same site only": set("Sec-Fetch-Site", "same-site"),
	} {
		if got := b.send(http.MethodPost, "/v1/nodes/"+n.id+"/status", change, forge); got.status != http.StatusForbidden || got.code(t) != codeOrigin {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if got := b.send(http.MethodGet, consolePath, nil, set("Sec-Fetch-Site", "cross-site")); got.status != http.StatusForbidden {
		t.Errorf("another site reads: %d", got.status)
	}
	if got := b.send(http.MethodGet, consolePath, nil, set("Origin", "https://evil.example")); got.status != http.StatusForbidden || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin reads: %d", got.status)
	}
	if row, err := d.svc.Node(t.Context(), n.id); err != nil || row.Status != "active" {
		t.Errorf("the node is %+v, %v", row, err)
	}
	if got := b.send(http.MethodPost, "/v1/nodes/"+n.id+"/status", change); got.status != http.StatusOK {
		t.Errorf("the page itself: %d %s", got.status, got.body)
	}
}

// TestSignInCodeIsGoodOnce: a code that was seen on the way is worth nothing after it
// was used, late, or guessed.
func TestSignInCodeIsGoodOnce(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	try := func(code string) reply {
		return d.browser().send(http.MethodPost, "/v1/sessions", protocol.SignInCode{Code: code})
	}
	code, err := d.first.SignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := try("_" + code.Code); got.status != http.StatusUnauthorized {
		t.Errorf("a guess: %d", got.status)
	}
	if got := try(code.Code); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if got := try(code.Code); got.status != http.StatusUnauthorized || got.code(t) != codeSession {
		t.Errorf("the second time: %d %s", got.status, got.body)
	}
	late, err := d.first.SignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.ahead.Add(int64(codeLife))
	if got := try(late.Code); got.status != http.StatusUnauthorized {
		t.Errorf("late: %d %s", got.status, got.body)
	}
	limited := false
	for range 2 * signInBurst {
		limited = limited || try("x").status == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("guesses are not limited")
	}
}

// TestSignInFromAnotherSite: nobody is signed in by a page that is not this
// verifier's.
func TestSignInFromAnotherSite(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	code, err := d.first.SignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := d.browser()
	if got := b.send(http.MethodPost, "/v1/sessions", protocol.SignInCode{Code: code.Code}, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }); got.status != http.StatusForbidden {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestSessionEnds: in time, with its certificate, and when its operator leaves. What
// is shown of an ended session is refused, not taken for none.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	n, _, _ := d.working()
	change := protocol.StatusChange{Status: "suspended", Reason: "x"}
	out := d.browser()
	out.signIn(d.first)
	if got := out.send(http.MethodDelete, "/v1/sessions", nil); got.status != http.StatusNoContent {
		t.Fatalf("%d %s", got.status, got.body)
	}
	stale := d.browser()
	stale.signIn(d.first) // its certificate ends in an hour
	d.ahead.Store(int64(actLife))
	if got := stale.send(http.MethodPost, "/v1/nodes/"+n.id+"/status", change); got.status != http.StatusForbidden || got.code(t) != codeStepUp {
		t.Errorf("acting on an old sign-in: %d %s", got.status, got.body)
	}
	if got := stale.send(http.MethodGet, consolePath, nil); got.status != http.StatusOK {
		t.Errorf("reading on an old sign-in: %d %s", got.status, got.body)
	}
	d.ahead.Store(int64(time.Hour + time.Minute))
	for name, b := range map[string]*browser{"signed out": out, "the certificate has ended": stale, "made up": {d: d, c: d.http(), cookie: secret()}} {
		for _, r := range d.srv.publicRoutes() {
			if !r.browser {
				continue
			}
			var body any
			if r.in != "" {
				body = struct{}{}
			}
			got := b.send(r.method, r.sample(), body)
			if got.status != http.StatusUnauthorized || got.code(t) != codeSession || got.header.Get("Set-Cookie") == "" {
				t.Errorf("%s: %s %s: %d %s", name, r.method, r.path, got.status, got.body)
			}
		}
	}
	if row, err := d.svc.Node(t.Context(), n.id); err != nil || row.Status != "active" {
		t.Errorf("the node is %+v, %v", row, err)
	}
}

// TestSessionBesideACertificate: of two credentials it would be unclear which counts.
func TestSessionBesideACertificate(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	b := d.browser()
	b.signIn(d.as(keys.Operator{Name: "v", Roles: []keys.Role{keys.Viewer}}))
	b.c = d.http(d.identity(keys.Operator{Name: "first", Roles: keys.AllRoles()}).Certificate)
	if got := b.send(http.MethodPost, "/v1/freeze", protocol.GovernanceChange{Frozen: true, Reason: "x"}); got.status != http.StatusUnauthorized {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := b.send(http.MethodGet, consolePath, nil, func(r *http.Request) { r.Header.Add("Cookie", sessionCookie+"="+secret()) }); got.status != http.StatusUnauthorized {
		t.Errorf("two cookies: %d %s", got.status, got.body)
	}
}

// TestOpenConsoleAsksForCredentials: opened, its paths ask of each caller what their
// lines say.
func TestOpenConsoleAsksForCredentials(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	n, _, base := d.working()
	for _, r := range d.srv.publicRoutes() {
		if r.page != "console" || r.stream {
			continue
		}
		var body []byte
		if r.in != "" {
			body = []byte("{}")
		}
		got := d.ask(d.http(), r.method, r.sample(), r.in, body)
		if want := r.auth == operator; want != (got.status == http.StatusUnauthorized && got.code(t) == codeUnauthenticated) {
			t.Errorf("%s %s without a credential: %d %s", r.method, r.path, got.status, got.body)
		}
		if got := d.ask(d.http(), r.method, r.sample(), r.in, nil, d.prove(proven{base: base, key: n.key})); got.status != http.StatusUnauthorized {
			t.Errorf("%s %s with a node's token: %d %s", r.method, r.path, got.status, got.body)
		}
	}
}

// TestWatchersAreBounded: one address cannot take every place of those who watch, and
// gives back the ones it leaves.
func TestWatchersAreBounded(t *testing.T) {
	var w watchers
	one, other := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	var leave []func()
	for range watchersEach {
		l, ok := w.enter(one)
		if !ok {
			t.Fatal("refused too early")
		}
		leave = append(leave, l)
	}
	if _, ok := w.enter(one); ok {
		t.Error("one address has more than its share")
	}
	if _, ok := w.enter(other); !ok {
		t.Error("another address is refused")
	}
	for _, l := range leave {
		l()
	}
	if _, ok := w.enter(one); !ok || w.all != 2 || len(w.by) != 2 {
		t.Errorf("%d watch, by %v", w.all, w.by)
	}
}
