package gate

import (
	"encoding/json"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/enclave"
)

// Proxy is the way a proxy says which request it asks about. Only the headers of
// that one are read: those of another would be the client's own.
type Proxy string

// The proxies. The zero Proxy is none.
const (
	Nginx   Proxy = "nginx"   // auth_request: X-Original-Method, X-Original-URI, set by proxy_set_header
	Caddy   Proxy = "caddy"   // forward_auth: X-Forwarded-Method, X-Forwarded-Uri
	Traefik Proxy = "traefik" // ForwardAuth: as Caddy
	Envoy   Proxy = "envoy"   // ext_authz over HTTP, path_prefix /v1/authz: the request's own method and path
)

// Proxies names them, for messages.
func Proxies() string { return "nginx, caddy, traefik, envoy" }

func (p Proxy) known() bool { return p == Nginx || p == Caddy || p == Traefik || p == Envoy }

const authz = "/v1/authz"

// asked is the method and the escaped path of the request that a proxy asks about.
func (p Proxy) asked(r *http.Request) (method, path string, ok bool) {
	var uri string
	switch p {
	case Nginx:
		method, uri = one(r.Header, "X-Original-Method"), one(r.Header, "X-Original-URI")
	case Caddy, Traefik:
		method, uri = one(r.Header, "X-Forwarded-Method"), one(r.Header, "X-Forwarded-Uri")
	case Envoy:
		method, uri = r.Method, strings.TrimPrefix(r.URL.RequestURI(), authz)
	}
	u, err := url.ParseRequestURI(uri)
	if err != nil || method == "" || !strings.HasPrefix(u.EscapedPath(), "/") {
		return "", "", false
	}
	return method, u.EscapedPath(), true
}

// one is the header's value if it came exactly once.
func one(h http.Header, name string) string {
	if v := h.Values(name); len(v) == 1 {
		return v[0]
	}
	return ""
}

// Handler answers /v1/authz for a proxy: 204 with the time that the token has
// left, 401 with the challenge of RFC 9449, 503 where it cannot be told. With an
// upstream every other request is forwarded there, and cut off when its token ends.
func (g *Gate) Handler() http.Handler {
	mux := http.NewServeMux()
	if g.cfg.Proxy != "" {
		mux.HandleFunc(authz, g.authorize)
		mux.HandleFunc(authz+"/", g.authorize)
	}
	if g.cfg.Upstream != nil {
		mux.Handle("/", g.forward())
	}
	return mux
}

func (g *Gate) authorize(w http.ResponseWriter, r *http.Request) {
	method, path, ok := g.cfg.Proxy.asked(r)
	if !ok {
		g.refuse(w, r, &refusal{status: http.StatusForbidden, title: "request-unknown", detail: "the proxy does not say once which method and path it asks about"})
		return
	}
	p, no := g.decide(r.Context(), r.Header, method, path)
	if no != nil {
		g.refuse(w, r, no)
		return
	}
	p.announce(w.Header())
	w.WriteHeader(http.StatusNoContent)
}

// announce says who asks and for how long they may.
func (p *pass) announce(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Legitimacy-Expires-In-Ms", strconv.FormatInt(max(0, p.deadline.Sub(enclave.Now()).Milliseconds()), 10))
	p.name(h)
}

// name says who asks.
func (p *pass) name(h http.Header) {
	h.Set("Writ-Subject", p.claims.Subject)
	h.Set("Writ-State", p.claims.Writ.State)
	h.Set("Writ-Workload", p.claims.Writ.Workload)
}

// forward is the gate as a proxy of its own.
func (g *Gate) forward() http.Handler {
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1, // streams
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(g.cfg.Upstream)
			r.SetXForwarded()
			r.Out.Header.Del("Authorization") // not the upstream's to present elsewhere
			r.Out.Header.Del("DPoP")
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			g.cfg.Log.WarnContext(r.Context(), "forwarding a request", "error", err)
			answer(w, &refusal{status: http.StatusBadGateway, title: "upstream-unreachable", detail: "the service behind the gate does not answer"})
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, no := g.decide(r.Context(), r.Header, r.Method, r.URL.EscapedPath())
		if no != nil {
			g.refuse(w, r, no)
			return
		}
		lease, err := g.leased(p)
		if err != nil {
			g.refuse(w, r, &refusal{status: http.StatusServiceUnavailable, title: "unverifiable", detail: err.Error()})
			return
		}
		for name := range r.Header {
			if strings.HasPrefix(name, "Writ-") {
				r.Header.Del(name) // only the gate says these
			}
		}
		p.name(r.Header)
		lease.Middleware(proxy).ServeHTTP(w, r)
	})
}

// refusal is an answer that lets nothing through.
type refusal struct {
	status        int
	title, detail string
	challenge     string // of WWW-Authenticate
}

func unauthenticated(code, detail string) *refusal {
	challenge := `DPoP algs="ES256"`
	if code != "" {
		challenge = `DPoP error="` + code + `", algs="ES256"`
	}
	return &refusal{status: http.StatusUnauthorized, title: "unauthenticated", detail: detail, challenge: challenge}
}

// ended is the answer to a token that was good once: RFC 6750 section 3.1 has one
// error for all that is wrong with a token.
func ended(title, detail string) *refusal {
	r := unauthenticated("invalid_token", detail)
	r.title = title
	return r
}

func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, no *refusal) {
	g.cfg.Log.InfoContext(r.Context(), "refused", "title", no.title, "detail", no.detail)
	answer(w, no)
}

// answer writes a refusal as problem details (RFC 9457).
func answer(w http.ResponseWriter, no *refusal) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if no.challenge != "" {
		h.Set("WWW-Authenticate", no.challenge)
	}
	if no.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(int((silence / 4).Seconds())))
	}
	w.WriteHeader(no.status)
	_ = json.NewEncoder(w).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", no.title, no.status, no.detail}) // a client that left needs no answer
}

// Server returns an HTTP server for the gate with bounds that suit it.
func (g *Gate) Server() *http.Server {
	return &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    48 << 10, // a token and a proof have at most 16 KiB each
	}
}
