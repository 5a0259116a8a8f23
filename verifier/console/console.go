// Package console holds the pages that people read in a browser: built files,
// embedded, behind a strict Content-Security-Policy. A page shows nothing that it
// was not configured to: the zero Pages serves none.
package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
)

// Names are the pages there are. A page of this list that is not open answers 404.
var Names = []string{"console", "demo", "proof", "health", "lineage"}

//go:embed all:dist
var dist embed.FS

// core is the checking core for browsers, where `make build` has put it.
//
//go:embed all:core
var core embed.FS

// Pages serves the open pages and what they are made of.
type Pages struct {
	open  []string
	files map[string]*file // by path below dist
}

type file struct {
	plain, packed []byte // packed: gzip, nil where it saves nothing; one of them is always there
	kind, etag    string
}

// New makes the pages named in open reachable, and no other.
func New(open []string) (*Pages, error) {
	for _, name := range open {
		if !slices.Contains(Names, name) {
			return nil, fmt.Errorf("opening page %q: expected some of %s", name, strings.Join(Names, ", "))
		}
	}
	p := &Pages{open: slices.Clone(open), files: map[string]*file{}}
	if err := errors.Join(p.load(dist, "dist", ""), p.load(core, "core", "assets/core/")); err != nil {
		return nil, fmt.Errorf("reading the embedded pages: %w", err)
	}
	facts := `data-pages="` + strings.Join(open, " ") + `"` // its navigation names the open pages
	if p.savable() {
		facts += ` data-core="yes"`
	}
	frame := p.files["index.html"].plain
	p.files["index.html"] = pack("index.html", bytes.Replace(frame, []byte(`data-pages=""`), []byte(facts), 1))
	return p, nil
}

func (p *Pages) load(from embed.FS, dir, under string) error {
	return fs.WalkDir(from, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := from.ReadFile(name)
		if err != nil {
			return err
		}
		name = strings.TrimPrefix(name, dir+"/")
		if packed, ok := strings.CutSuffix(name, ".gz"); ok { // large: packed by make, not at each start
			f := describe(packed, b)
			f.packed = b
			p.files[under+packed] = f
			return nil
		}
		p.files[under+name] = pack(name, b)
		return nil
	})
}

// describe is a file without content: its media type by name, its tag by b.
func describe(name string, b []byte) *file {
	kind := mime.TypeByExtension(path.Ext(name))
	switch path.Ext(name) { // not what the machine's own tables say
	case ".wasm":
		kind = "application/wasm"
	case ".js":
		kind = "text/javascript; charset=utf-8"
	case ".css":
		kind = "text/css; charset=utf-8"
	case ".svg":
		kind = "image/svg+xml"
	case ".html":
		kind = "text/html; charset=utf-8"
	}
	sum := sha256.Sum256(b)
	return &file{kind: kind, etag: `"` + hex.EncodeToString(sum[:16]) + `"`}
}

func pack(name string, b []byte) *file {
	f := describe(name, b)
	f.plain = b
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression) // the level is valid
	_, _ = w.Write(b)                                     // a buffer takes everything
	_ = w.Close()
	if z.Len() < len(b) {
		f.packed = z.Bytes()
	}
	return f
}

// Open reports whether a page is open.
func (p *Pages) Open(name string) bool { return slices.Contains(p.open, name) }

// Page answers for the page called name: its frame, or 404 and a page that says so.
func (p *Pages) Page(w http.ResponseWriter, r *http.Request, name string) {
	headers(w.Header(), name)
	w.Header().Set("Cache-Control", "no-cache")
	if !p.Open(name) {
		p.write(w, r, p.files["closed.html"], http.StatusNotFound)
		return
	}
	p.write(w, r, p.files["index.html"], http.StatusOK)
}

// Index answers for the root with a page that names those that are open. While none is,
// it says no more than a closed page.
func (p *Pages) Index(w http.ResponseWriter, r *http.Request) {
	headers(w.Header(), "")
	w.Header().Set("Cache-Control", "no-cache")
	if len(p.open) == 0 {
		p.write(w, r, p.files["closed.html"], http.StatusNotFound)
		return
	}
	p.write(w, r, p.files["index.html"], http.StatusOK)
}

// Asset answers with a built file, whose name changes with its content. While no
// page is open there are none.
func (p *Pages) Asset(w http.ResponseWriter, r *http.Request, name string) {
	headers(w.Header(), "")
	if name == offlineName && slices.Contains(p.open, "proof") && p.savable() {
		p.offline(w)
		return
	}
	f := p.files["assets/"+name]
	if f == nil || len(p.open) == 0 && path.Ext(name) != ".css" { // the closed page is styled
		w.Header().Set("Cache-Control", "no-cache")
		p.write(w, r, p.files["closed.html"], http.StatusNotFound)
		return
	}
	if strings.HasPrefix(name, "core/") { // these keep their names
		w.Header().Set("Cache-Control", "no-cache")
		p.write(w, r, f, http.StatusOK)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	p.write(w, r, f, http.StatusOK)
}

// headers sets what a browser may do with a page. Only /proof runs WebAssembly.
func headers(h http.Header, page string) {
	script := "'self'"
	if page == "proof" {
		script += " 'wasm-unsafe-eval'"
	}
	h.Set("Content-Security-Policy", "default-src 'none'; script-src "+script+"; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

func (p *Pages) write(w http.ResponseWriter, r *http.Request, f *file, status int) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Add("Vary", "Accept-Encoding")
	body, etag := f.plain, f.etag
	if f.packed != nil && acceptsGzip(r.Header.Get("Accept-Encoding")) {
		body, etag = f.packed, strings.TrimSuffix(etag, `"`)+`-gzip"`
		h.Set("Content-Encoding", "gzip")
	}
	if status == http.StatusOK {
		h.Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			h.Del("Content-Encoding")
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.WriteHeader(status)
	if body == nil {
		if z, err := gzip.NewReader(bytes.NewReader(f.packed)); err == nil { // make's own output
			_, _ = io.Copy(w, z)
		}
		return
	}
	_, _ = w.Write(body) // an error: the reader has gone
}

// acceptsGzip reads Accept-Encoding (RFC 9110, 12.5.3) for gzip by name, with any
// weight but nought.
func acceptsGzip(header string) bool {
	for item := range strings.SplitSeq(header, ",") {
		coding, weight, _ := strings.Cut(strings.TrimSpace(item), ";")
		if strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			q := strings.TrimPrefix(strings.TrimSpace(weight), "q=")
			return strings.Trim(q, "0.") != "" || q == ""
		}
	}
	return false
}
