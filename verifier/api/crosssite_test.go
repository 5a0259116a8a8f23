package api

import (
	"bytes"
	"net/http"
	"sync/atomic"
	"testing"
)

// forgery is how a request that another site makes a browser send differs from that of
// a page of this verifier: by one of the browser's own words each.
type forgery struct {
	name   string
	change func(*http.Request)
}

func setting(name string, values ...string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Del(name)
		for _, v := range values {
			r.Header.Add(name, v)
		}
	}
}

// forgeries of a request to a verifier at url, whichever way it is sent.
func forgeries(url string) []forgery {
	return []forgery{
		{"a foreign origin", setting("Origin", "https://evil.example")},
		{"another port", setting("Origin", "https://127.0.0.1:1")},
		{"without TLS", setting("Origin", "http"+url[len("https"):])},
		{"the origin null", setting("Origin", "null")},
		{"two origins", setting("Origin", url, "https://evil.example")},
		{"a foreign site", setting("Sec-Fetch-Site", "cross-site")},
		{"the same site only", setting("Sec-Fetch-Site", "same-site")},
		{"a word that is not known", setting("Sec-Fetch-Site", "friendly")},
		{"two sites", setting("Sec-Fetch-Site", "same-origin", "cross-site")},
	}
}

// rebound: the attacker's name leads to this verifier's address, so that the browser
// takes both for one origin.
func rebound(r *http.Request) {
	r.Host = "evil.example:" + r.URL.Port()
	if r.Header.Get("Origin") != "" {
		r.Header.Set("Origin", "https://"+r.Host)
	}
}

// TestDemoActsFromAnotherSite: whatever the demonstration is asked by a page that is
// not this verifier's comes to no one's ears, on each of its paths.
func TestDemoActsFromAnotherSite(t *testing.T) {
	t.Parallel()
	var heard atomic.Int64
	d := newDomain(t, opened(true, "demo"), option{server: func(c *Config) {
		c.Demo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			heard.Add(1)
			if len(r.Header) > 0 {
				t.Errorf("%s %s carried %v on", r.Method, r.URL, r.Header)
			}
			w.Header().Set("Content-Type", mediaJSON)
			_, _ = w.Write([]byte("{}"))
		})
	}})
	routes := d.srv.demoRoutes()
	if len(routes) != 4 {
		t.Fatalf("%d routes: is each of them tried here?", len(routes))
	}
	b := d.browser()
	for _, r := range routes {
		send := func(change ...func(*http.Request)) reply {
			var body any
			if r.in != "" {
				body = struct{}{}
			}
			return b.send(r.method, r.sample(), body, append([]func(*http.Request){setting("Writ-Demo", "1")}, change...)...)
		}
		refused := func(what string, got reply, status int) {
			t.Helper()
			if n := heard.Swap(0); n > 0 || got.status != status || got.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s, %s: %d %s, and was heard %d times", r.method, r.path, what, got.status, got.body, n)
			}
		}
		for _, f := range forgeries(d.url) {
			refused(f.name, send(f.change), http.StatusForbidden)
		}
		refused("a name that was bound anew", send(rebound), http.StatusMisdirectedRequest)
		if r.method != http.MethodGet {
			refused("no token", send(setting("Writ-Demo")), http.StatusForbidden)
			refused("another token", send(setting("Writ-Demo", "0")), http.StatusForbidden)
			refused("two tokens", send(setting("Writ-Demo", "1", "1")), http.StatusForbidden)
			refused("a form", send(setting("Content-Type", mediaForm)), http.StatusUnsupportedMediaType)
			refused("asked first", d.ask(b.c, http.MethodOptions, r.sample(), "", nil, setting("Origin", "https://evil.example"), setting("Access-Control-Request-Method", r.method)), http.StatusMethodNotAllowed)
		}
		if got := send(); got.status != http.StatusOK || heard.Swap(0) != 1 {
			t.Errorf("%s %s by the page itself: %d %s", r.method, r.path, got.status, got.body)
		}
	}
}

// TestEveryActOfASessionFromAnotherSite: what an operator's session opens does nothing
// when another site's page asks for it, on each of its paths, nor without the session's
// token, nor under another name. None of them ends the session, either.
func TestEveryActOfASessionFromAnotherSite(t *testing.T) {
	t.Parallel()
	d := newDomain(t, opened(true, "console"))
	b := d.browser()
	b.signIn(d.first)
	size, tried := d.svc.Log().Size(), 0
	for _, r := range d.srv.publicRoutes() {
		if !r.browser || r.auth != operator {
			continue
		}
		tried++
		send := func(change func(*http.Request)) reply {
			var body any
			if r.in != "" {
				body = struct{}{}
			}
			return b.send(r.method, r.sample(), body, change)
		}
		all := append(forgeries(d.url), forgery{"no origin", setting("Origin")}, forgery{"typed in", setting("Sec-Fetch-Site", "none")},
			forgery{"no CSRF token", setting(csrfHeader)}, forgery{"another's", setting(csrfHeader, secret())}, forgery{"an empty one", setting(csrfHeader, "")})
		for _, f := range all {
			if got := send(f.change); got.status != http.StatusForbidden || got.code(t) != codeOrigin || got.header.Get("Set-Cookie") != "" {
				t.Errorf("%s %s, %s: %d %s", r.method, r.path, f.name, got.status, got.body)
			}
		}
		if got := send(rebound); got.status != http.StatusMisdirectedRequest {
			t.Errorf("%s %s under another name: %d %s", r.method, r.path, got.status, got.body)
		}
		if got := send(setting("Cookie")); got.status != http.StatusUnauthorized {
			t.Errorf("%s %s without the cookie: %d %s", r.method, r.path, got.status, got.body)
		}
	}
	if tried != 4 { // a node's status, a reference set, a freeze, signing out
		t.Errorf("%d paths take a session, 4 are meant", tried)
	}
	if now := d.svc.Log().Size(); now != size {
		t.Errorf("the log went from %d entries to %d", size, now)
	}
	if got := b.send(http.MethodGet, consolePath, nil); got.status != http.StatusOK {
		t.Errorf("the session itself: %d %s", got.status, got.body)
	}
}

// TestRootNamesOpenPages: a browser that was given the host alone finds the pages that
// are open, and nothing where none is; whatever else asks is told that it is nowhere.
func TestRootNamesOpenPages(t *testing.T) {
	t.Parallel()
	d, closed := newDomain(t, opened(false, "proof", "health")), newDomain(t)
	const browsers = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	if got := d.ask(d.http(), http.MethodGet, "/", "", nil, setting("Accept", browsers)); got.status != http.StatusOK || got.header.Get("Content-Type") != mediaHTML || !bytes.Contains(got.body, []byte(`data-pages="proof health"`)) || bytes.Contains(got.body, []byte("console")) {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
	if got := closed.ask(closed.http(), http.MethodGet, "/", "", nil, setting("Accept", browsers)); got.status != http.StatusNotFound || got.header.Get("Content-Type") != mediaHTML || bytes.Contains(got.body, []byte(closed.name)) || bytes.Contains(got.body, []byte("data-pages")) {
		t.Errorf("closed: %d %s", got.status, got.body)
	}
	for _, accept := range []string{"", "*/*", "application/json", "text/*", "text/html;q=0", "text/html;q=x", "texthtml", ";"} {
		for _, d := range []*domain{d, closed} {
			if got := d.ask(d.http(), http.MethodGet, "/", "", nil, setting("Accept", accept)); got.status != http.StatusNotFound || got.header.Get("Content-Type") != "application/problem+json" || got.code(t) != "not-found" {
				t.Errorf("Accept: %s: %d %v %s", accept, got.status, got.header, got.body)
			}
		}
	}
}
