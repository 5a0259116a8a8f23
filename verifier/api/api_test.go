package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestTokenOverHTTPS goes the whole way: join, enrol, attest, renew, derive.
func TestTokenOverHTTPS(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	n, c, base := d.working()
	s := n.shot(n.nonce(c))
	s.brief = true
	out, err := c.Attest(t.Context(), s.take(n))
	if err != nil {
		t.Fatal(err)
	}
	if got := d.claims(out.Token); got.Writ.Seq != d.claims(base).Writ.Seq+1 {
		t.Errorf("renewed token has seq %d", got.Writ.Seq)
	}
	g, err := c.Token(t.Context(), out.Token, n.key, n.request("job-1"))
	if err != nil {
		t.Fatal(err)
	}
	if got := d.claims(g.Token); got.Writ.Execution != "job-1" {
		t.Errorf("derived token: %+v", got.Writ)
	}
}

// sample is a path of a route that names nothing there is.
func (r route) sample() string {
	p := strings.NewReplacer(":id", "0123456789abcdef0123456789abcdef", ":index", "999999", "entries/*", "entries/000.p/1", "*", "0/000.p/1").Replace(r.path)
	return p
}

// TestTableIsTheServer: what echo answers is what the table says, and every line
// of it says who may.
func TestTableIsTheServer(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	for name, table := range map[string][]route{"public": d.srv.publicRoutes(), "admin": d.srv.adminRoutes()} {
		registered := d.srv.router(table).Routes()
		if len(registered) != len(table) {
			t.Errorf("%s: %d routes registered, %d in the table", name, len(registered), len(table))
		}
		ids := map[string]bool{}
		for _, e := range registered {
			i := slices.IndexFunc(table, func(r route) bool { return r.method == e.Method && r.path == e.Path })
			if i < 0 {
				t.Errorf("%s %s is served and not in the table", e.Method, e.Path)
				continue
			}
			r := table[i]
			switch {
			case r.auth == nobody:
				t.Errorf("%s %s has no class", r.method, r.path)
			case (r.auth == operator || r.auth == holder) && len(r.roles) == 0:
				t.Errorf("%s %s has no role", r.method, r.path)
			case (r.auth == local) != (name == "admin"):
				t.Errorf("%s %s is on the wrong listener", r.method, r.path)
			case r.in != "" && r.max == 0, r.method == http.MethodPost && r.in == "":
				t.Errorf("%s %s has a body without type or limit", r.method, r.path)
			case r.name == "" || ids[r.name] || r.about == "":
				t.Errorf("%s %s has no operationId of its own", r.method, r.path)
			}
			ids[r.name] = true
		}
	}
}

// TestNoCredential walks the table and calls each path with none.
func TestNoCredential(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	c := d.http()
	want := map[credential][]string{
		operator: {codeUnauthenticated}, nodeKey: {codeUnauthenticated}, endedKey: {codeUnauthenticated}, holder: {codeUnauthenticated},
		joinToken:  {protocol.JoinTokenRefused, protocol.EnrollmentRefused},
		evidential: {protocol.NotEnrolled, protocol.EvidenceMalformed},
	}
	for _, r := range d.srv.publicRoutes() {
		var body []byte
		if r.in != "" {
			body = []byte("{}")
		}
		got := d.ask(c, r.method, r.sample(), r.in, body)
		if r.auth == public || r.page != "" {
			if got.status != http.StatusOK && got.status != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", r.method, r.path, got.status, got.body)
			}
			continue
		}
		if got.status < 400 || !slices.Contains(want[r.auth], got.code(t)) {
			t.Errorf("%s %s without a credential: %d %s, want a refusal %v", r.method, r.path, got.status, got.body, want[r.auth])
		}
	}
	for _, r := range d.srv.adminRoutes() {
		if got := d.ask(c, r.method, r.path, "", nil); got.status != http.StatusNotFound {
			t.Errorf("%s on the public listener: %d", r.path, got.status)
		}
		if got := d.ask(http.DefaultClient, r.method, d.admin+r.path, "", nil); got.status != http.StatusOK {
			t.Errorf("%s: %d %s", r.path, got.status, got.body)
		}
	}
	if got := d.ask(http.DefaultClient, http.MethodGet, d.admin+"/v1/nodes", "", nil); got.status != http.StatusNotFound {
		t.Errorf("/v1/nodes on the admin listener: %d", got.status)
	}
}

// TestZeroRouteAdmitsNobody: a line that forgot to say who may is closed.
func TestZeroRouteAdmitsNobody(t *testing.T) {
	t.Parallel()
	d := newDomain(t, option{server: func(c *Config) { c.Hosts = append(c.Hosts, "127.0.0.1:443") }})
	h := d.srv.router([]route{{method: http.MethodGet, path: "/x", handle: func(q *call) error { return q.answer("in") }}})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "https://localhost/x", nil)
	r.Host = "127.0.0.1"
	h.ServeHTTP(w, r)
	if w.Code != http.StatusUnauthorized {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}

// TestDefaultDeny: what has no line is not there, in whatever spelling.
func TestDefaultDeny(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	c, op := d.http(), d.http(d.identity(keys.Operator{Name: "root", Roles: keys.AllRoles()}).Certificate)
	for _, x := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/", 404, protocol.NotFound},
		{"GET", "/v1", 404, protocol.NotFound},
		{"GET", "/v1/nodes/", 404, protocol.NotFound},
		{"GET", "/v1/nodes/x/y", 404, protocol.NotFound},
		{"GET", "/v1/nodes/%2e%2e", 404, protocol.NotFound},
		{"GET", "/v1/nodes/a%2fstatus", 404, protocol.NotFound},
		{"DELETE", "/v1/join-tokens/a/b", 404, protocol.NotFound},
		{"GET", "/v1/nodes/%00", 404, protocol.NotFound},
		{"GET", "//v1/nodes", 404, protocol.NotFound},
		{"GET", "/log/tile/../checkpoint", 404, protocol.NotFound},
		{"GET", "/log/tile/0/000.p/01", 404, protocol.NotFound},
		{"GET", "/log/tile/%65ntries/000.p/1", 404, protocol.NotFound},
		{"GET", "/log/proof/01", 404, protocol.NotFound},
		{"GET", "/log/proof/-1", 404, protocol.NotFound},
		{"PUT", "/v1/nodes", 405, codeMethod},
		{"OPTIONS", "/v1/nodes", 405, codeMethod},
		{"TRACE", "/v1/nodes", 405, codeMethod},
		{"POST", "/.well-known/jwks.json", 405, codeMethod},
		{"GET", "/v1/nodes?limits=3", 400, codeMalformed},
		{"GET", "/v1/nodes?limit=-3", 400, codeMalformed},
		{"GET", "/v1/audit?from=9&to=3", 400, codeMalformed},
		{"GET", "/v1/nodes/0123456789abcdef0123456789abcdef", 404, protocol.NotFound},
		{"GET", "/v1/nodes/0123456789abcdef0123456789abcdef/bundle", 404, protocol.NotFound},
	} {
		who := op
		if strings.HasPrefix(x.path, "/log/tile") {
			who = c // a stranger's spelling must not reach the entries
		}
		got := d.ask(who, x.method, x.path, "", nil)
		if got.status != x.status || got.code(t) != x.code {
			t.Errorf("%s %s: %d %s, want %d %s", x.method, x.path, got.status, got.body, x.status, x.code)
		}
	}
}

// TestBadBodies: what is not in form is refused before anything looks at it.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	c := d.http()
	good := `{"node":"x"}`
	for _, x := range []struct {
		name, path, media, body string
		status                  int
		code                    string
	}{
		{"no content type", "/v1/challenges", "", good, 415, codeMediaType},
		{"form", "/v1/challenges", "application/x-www-form-urlencoded", good, 415, codeMediaType},
		{"charset", "/v1/challenges", "application/json; charset=utf-7", good, 415, codeMediaType},
		{"evidence as JSON", "/v1/attestations", "application/json", "{}", 415, codeMediaType},
		{"another collection", "/v1/attestations", `application/cmw+json; cmwc_t="tag:other,2026:x"`, "{}", 415, codeMediaType},
		{"another parameter", "/v1/attestations", `application/cmw+json; q=1`, "{}", 415, codeMediaType},
		{"no evidence", "/v1/attestations", "application/cmw+json", "{}", 400, protocol.EvidenceMalformed},
		{"truncated evidence", "/v1/attestations", "application/cmw+json", `{"__cmwc_t":"tag:writ,2026:tpm-evi`, 400, protocol.EvidenceMalformed},
		{"truncated", "/v1/challenges", "application/json", `{"node":"x"`, 400, codeMalformed},
		{"empty", "/v1/challenges", "application/json", "", 400, codeMalformed},
		{"unknown member", "/v1/challenges", "application/json", `{"node":"x","admin":true}`, 400, codeMalformed},
		{"member twice", "/v1/challenges", "application/json", `{"node":"x","node":"y"}`, 400, codeMalformed},
		{"member twice in another case", "/v1/challenges", "application/json", `{"node":"x","NODE":"y"}`, 400, codeMalformed},
		{"trailing value", "/v1/challenges", "application/json", good + `{}`, 400, codeMalformed},
		{"trailing bytes", "/v1/challenges", "application/json", good + `x`, 400, codeMalformed},
		{"deep", "/v1/challenges", "application/json", `{"node":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, 400, codeMalformed},
		{"not UTF-8", "/v1/challenges", "application/json", "{\"node\":\"\xff\"}", 400, codeMalformed},
		{"an array", "/v1/challenges", "application/json", `[]`, 400, codeMalformed},
		{"unknown node", "/v1/challenges", "application/json; charset=UTF-8", good, 403, protocol.NotEnrolled},
		{"foreign join token", "/v1/enrollments", "application/json", `{"join_token":"writ-join-1.x.y.z","eks":[],"ak":"","generation":1}`, 403, protocol.JoinTokenRefused},
		{"too large", "/v1/challenges", "application/json", strings.Repeat(" ", maxMessage+1), 413, codeTooLarge},
	} {
		got := d.ask(c, http.MethodPost, x.path, x.media, []byte(x.body))
		if got.status != x.status || got.code(t) != x.code {
			t.Errorf("%s: %d %s, want %d %s", x.name, got.status, got.body, x.status, x.code)
		}
	}
}

// TestOversize: neither a length that is said nor one that is not makes the
// verifier read more than it takes.
func TestOversize(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	c := d.http()
	got, err := d.try(c, http.MethodPost, "/v1/attestations", mediaEvidence, make([]byte, 17<<20))
	if err == nil && (got.status != http.StatusRequestEntityTooLarge || got.code(t) != codeTooLarge) {
		t.Errorf("17 MiB: %d %s", got.status, got.body)
	}
	hide := func(r *http.Request) { r.ContentLength = -1 }
	if got := d.ask(c, http.MethodPost, "/v1/challenges", mediaJSON, bytes.Repeat([]byte(" "), maxMessage+1), hide); got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("chunked: %d %s", got.status, got.body)
	}
	if got := d.ask(c, http.MethodGet, "/v1/domain", "", []byte("body")); got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body where none is taken: %d %s", got.status, got.body)
	}
}

// TestRequestForAnotherHost: a name the verifier is not known by gets nothing,
// or a proof made for another verifier could be passed on to this one.
func TestRequestForAnotherHost(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	for host, status := range map[string]int{
		"localhost" + d.url[strings.LastIndexByte(d.url, ':'):]: http.StatusOK,
		"localhost:1":       http.StatusMisdirectedRequest,
		"localhost":         http.StatusMisdirectedRequest,
		"other.example:443": http.StatusMisdirectedRequest,
		"":                  http.StatusOK, // as dialled
	} {
		got := d.ask(d.http(), http.MethodGet, "/v1/domain", "", nil, func(r *http.Request) { r.Host = host })
		if got.status != status {
			t.Errorf("Host %q: %d, want %d", host, got.status, status)
		}
	}
}

// TestPanicIsAnswered: a bug of ours costs one request.
func TestPanicIsAnswered(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	h := d.srv.watch(d.srv.router([]route{{method: http.MethodGet, path: "/x", auth: local, handle: func(*call) error { panic("secret") }}}))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/x", nil))
	got := reply{w.Code, w.Header(), w.Body.Bytes()}
	if got.status != http.StatusInternalServerError || got.code(t) != codeInternal || strings.Contains(string(got.body), "secret") {
		t.Errorf("answered %d %s", got.status, got.body)
	}
	if m := d.ask(http.DefaultClient, http.MethodGet, d.admin+"/metrics", "", nil); !strings.Contains(string(m.body), "\nwrit_panics_total 1\n") {
		t.Error("the panic was not counted")
	}
}

// TestOpenAPIDescribesTheTable: each route is in it, and every reference leads
// somewhere.
func TestOpenAPIDescribesTheTable(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			ID        string                     `json:"operationId"`
			Responses map[string]json.RawMessage `json:"responses"`
		} `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	raw := d.ask(http.DefaultClient, http.MethodGet, d.admin+"/openapi.json", "", nil).body
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("openapi %q", doc.OpenAPI)
	}
	ids := 0
	for _, r := range append(d.srv.publicRoutes(), d.srv.adminRoutes()...) {
		path := strings.NewReplacer(":id", "{id}", ":index", "{index}", "*", "{path}").Replace(r.path)
		op := doc.Paths[path][strings.ToLower(r.method)]
		if op.ID != r.name || op.Responses["default"] == nil {
			t.Errorf("%s %s is described as %+v", r.method, path, op)
		}
		ids++
	}
	for _, ops := range doc.Paths {
		ids -= len(ops)
	}
	if ids != 0 {
		t.Errorf("%d operations too few are described", ids)
	}
	for _, part := range strings.Split(string(raw), `"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if s := doc.Components.Schemas[name]; len(s) == 0 || s[0] != '{' {
			t.Errorf("schema %s is missing", name)
		}
	}
}

// TestProblemsSayNothingOfUs: what is not a refusal is answered without its text.
func TestProblemsSayNothingOfUs(t *testing.T) {
	t.Parallel()
	for code := range refusals {
		if p := problemOf(protocol.Refuse(code, "x")); p.Type != code || p.Status < 400 || p.Title == "" {
			t.Errorf("%s: %+v", code, p)
		}
	}
	for _, x := range []struct {
		err    error
		status int
		code   string
	}{
		{fmt.Errorf("secret: %w", ledger.ErrUnknown), 503, codeOutcomeUnknown},
		{fmt.Errorf("secret: %w", ledger.ErrClock), 503, protocol.ClockUnsound},
		{fmt.Errorf("secret: %w", ledger.ErrRolledBack), 503, protocol.DomainFrozen},
		{fmt.Errorf("secret: %w", ledger.ErrClosed), 503, codeUnavailable},
		{fmt.Errorf("secret: %w", context.Canceled), 503, codeUnavailable},
		{fmt.Errorf("secret: %w", ledger.ErrNotFound), 404, protocol.NotFound},
		{fmt.Errorf("secret: %w", ledger.ErrPruned), 410, protocol.Pruned},
		{fmt.Errorf("secret: %w", ledger.ErrCorrupt), 500, codeInternal},
	} {
		p := problemOf(x.err)
		if p.Status != x.status || p.Type != x.code || strings.Contains(p.Detail+p.Title, "secret") || (p.Status == 503 && p.retry == 0) {
			t.Errorf("%v: %+v", x.err, p)
		}
	}
	for _, err := range []error{echo.NewHTTPError(418, "secret"), errPanic, protocol.Refuse("no-such-code", "secret")} {
		if p := problemOf(err); p.Status != http.StatusInternalServerError || p.Detail != "" {
			t.Errorf("%v: %+v", err, p)
		}
	}
}
