package console

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, p *Pages, name string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/"+name, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	if asset, ok := strings.CutPrefix(name, "assets/"); ok {
		p.Asset(w, r, asset)
	} else {
		p.Page(w, r, name)
	}
	return w
}

func TestPagesAreClosedByDefault(t *testing.T) {
	p, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Names {
		if w := get(t, p, name); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "not public") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if _, err := New([]string{"prof"}); err == nil {
		t.Error("a page that does not exist was opened")
	}
}

var (
	linked = regexp.MustCompile(`(?:src|href)="/(assets/[^"]+)"`)
	inline = regexp.MustCompile(`(?i)<script>|<script [^>]*[^/"]>[^<]|<style|style="| on[a-z]+="`)
)

func TestNoInlineScriptAndOnlyProofRunsWebAssembly(t *testing.T) {
	p, err := New([]string{"proof", "health"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Names {
		w := get(t, p, name)
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'") || strings.Contains(csp, "'unsafe-") {
			t.Errorf("%s: policy %q", name, csp)
		}
		if got := strings.Contains(csp, "wasm-unsafe-eval"); got != (name == "proof") {
			t.Errorf("%s: WebAssembly %v", name, got)
		}
		if m := inline.FindString(w.Body.String()); m != "" {
			t.Errorf("%s: inline %q", name, m)
		}
		links := linked.FindAllStringSubmatch(w.Body.String(), -1)
		if len(links) == 0 {
			t.Errorf("%s links no asset", name)
		}
		for _, m := range links {
			a := get(t, p, m[1], "Accept-Encoding", "br, gzip")
			if a.Code != http.StatusOK || a.Header().Get("Content-Encoding") != "gzip" || !strings.Contains(a.Header().Get("Cache-Control"), "immutable") {
				t.Errorf("%s: %d %v", m[1], a.Code, a.Header())
			}
			if again := get(t, p, m[1], "Accept-Encoding", "gzip", "If-None-Match", a.Header().Get("ETag")); again.Code != http.StatusNotModified {
				t.Errorf("%s: %d, expected 304", m[1], again.Code)
			}
			if plain := get(t, p, m[1], "Accept-Encoding", "gzip;q=0"); plain.Header().Get("Content-Encoding") != "" {
				t.Errorf("%s: gzip was refused and sent", m[1])
			}
		}
	}
}

// TestPagesAreSmall: whatever a page loads of its own is at most 300 KB, packed.
func TestPagesAreSmall(t *testing.T) {
	p, err := New(Names)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for name := range p.files {
		if asset, ok := strings.CutPrefix(name, "assets/"); ok && !strings.HasPrefix(asset, "core/") {
			total += get(t, p, name, "Accept-Encoding", "gzip").Body.Len()
		}
	}
	if total == 0 || total > 300_000 {
		t.Errorf("all pages together are %d bytes", total)
	}
}
