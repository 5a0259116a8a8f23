package browser

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/writ-attestation/writ/internal/interop/domain"
	"github.com/writ-attestation/writ/verifier/console"
)

// TestPages runs one domain, one verifier besides and one Chromium for all that is
// looked at. What comes first finds the verifier empty; the last ends both.
func TestPages(t *testing.T) {
	d := domain.Start(t)
	l := newLab(t, d, maker, `witnesses = `+quote(witness()), `audiences = [`+quote(audience)+`]`)
	chromium := launch(t, d.CA, l.CA)
	t.Run("an empty domain", func(t *testing.T) { empty(t, l, chromium) })
	t.Run("hostile text", func(t *testing.T) { attacked(t, l, newHostile(t, l), chromium) })
	late := leaving(t, l, chromium)
	t.Run("operators", func(t *testing.T) { operate(t, l, chromium) })
	t.Run("the end of a session", func(t *testing.T) { ended(t, l, chromium, late) })
	t.Run("keyboard", func(t *testing.T) { keyboard(t, l, chromium) })
	t.Run("every page and link", func(t *testing.T) { everyPage(t, d, chromium) })
	t.Run("demo", func(t *testing.T) { demo(t, d, chromium) })
	t.Run("health", func(t *testing.T) { health(t, d, chromium) })
	t.Run("lineage", func(t *testing.T) { life(t, d, chromium) })
	t.Run("proof", func(t *testing.T) { proof(t, d, chromium) })
	t.Run("proof with pinned keys", func(t *testing.T) { pinned(t, d, chromium) })
	t.Run("proof from a saved page", func(t *testing.T) { saved(t, d, chromium) })
	t.Run("documents", func(t *testing.T) { documents(t, d, chromium) }) // harms the domain
	t.Run("no answer", func(t *testing.T) { away(t, d, l, chromium) })
}

// openPages asks the server which pages it shows.
func openPages(t *testing.T, d *domain.Domain) []string {
	t.Helper()
	var out []string
	for _, name := range console.Names {
		if status(t, d, "/"+name) == http.StatusOK {
			out = append(out, "/"+name)
		}
	}
	if !slices.Contains(out, "/proof") {
		t.Fatalf("writ dev shows %q alone", out)
	}
	return out
}

func status(t *testing.T, d *domain.Domain, path string) int {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.Issuer+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Accept", "text/html, */*;q=0.8") // as a browser that follows a link
	r, err := d.Client().Do(q)
	if err != nil {
		t.Fatalf("getting %s: %v", path, err)
	}
	defer r.Body.Close()
	_, _ = io.Copy(io.Discard, r.Body)
	return r.StatusCode
}

// shaped takes from a link what differs between things of a kind.
var shaped = regexp.MustCompile(`[0-9a-f-]{8,}|[0-9]+|exec[^&/]*`)

// everyPage follows links from the open pages to every kind of view there is.
func everyPage(t *testing.T, d *domain.Domain, chromium context.Context) {
	b := open(t, chromium)
	todo, known := openPages(t, d), map[string]bool{}
	for _, p := range todo {
		known[p] = true
	}
	for views := 0; len(todo) > 0 && views < 20; views++ {
		at := todo[0]
		todo = todo[1:]
		b.open(d.URL + at)
		b.inspect(strings.Trim(regexp.MustCompile(`[^a-z]+`).ReplaceAllString(shaped.ReplaceAllString(at, ""), "-"), "-"))
		b.clean(at)
		links, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll('a[href]')].map(a => a.href)`))
		b.must(err, "reading links")
		for _, link := range links {
			u, err := url.Parse(link)
			if err != nil || u.Scheme+"://"+u.Host != d.URL {
				t.Errorf("%s links %s, elsewhere", at, link)
				continue
			}
			path := strings.TrimPrefix(link, d.URL)
			if shape := shaped.ReplaceAllString(path, "*"); path == at || known[path] || known[shape] {
				continue
			} else {
				known[path], known[shape] = true, true
			}
			if got := status(t, d, u.RequestURI()); got != http.StatusOK {
				t.Errorf("%s links %s: %d", at, path, got)
			} else if slices.Contains(console.Names, strings.Split(u.Path, "/")[1]) {
				if u.Fragment != "main" {
					todo = append(todo, path)
				}
			}
		}
	}
}
