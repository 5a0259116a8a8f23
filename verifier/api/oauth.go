package api

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// mediaForm is how OAuth clients send their requests.
const mediaForm = "application/x-www-form-urlencoded"

// oauthPath begins the paths of OAuth requests, whose refusals have an OAuth error
// code too.
const oauthPath = "/oauth2/"

// form reads the body as the parameters of an OAuth request (RFC 6749 section
// 3.2): those not known are ignored, one given twice is refused.
func (q *call) form(required ...string) (url.Values, error) {
	v, err := url.ParseQuery(string(q.body))
	if err != nil || !utf8.Valid(q.body) {
		return nil, malformed("reading the form: it is not form-urlencoded UTF-8")
	}
	for name, values := range v {
		if len(values) > 1 {
			return nil, malformed("reading the form: parameter %.40q is given twice", name)
		}
	}
	for _, name := range required {
		if v.Get(name) == "" {
			return nil, malformed("reading the form: parameter %s is missing", name)
		}
	}
	return v, nil
}

// introspect is RFC 7662.
func (s *Server) introspect(q *call) error {
	f, err := q.form("token")
	if err != nil {
		return err
	}
	c, err := s.svc.Live(q.Request().Context(), f.Get("token"))
	if err == nil && c == nil {
		c, err = s.svc.Recognized(q.Request().Context(), f.Get("token"))
	}
	if err != nil {
		return err
	}
	if c == nil {
		return q.answer(protocol.Introspection{})
	}
	kind := "DPoP"
	if c.Confirm.X5T != "" {
		kind = "Bearer" // RFC 8705 section 3: with the certificate of cnf
	}
	return q.answer(protocol.Introspection{Active: true, TokenType: kind, Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience,
		IssuedAt: c.IssuedAt, NotBefore: c.NotBefore, Expires: c.Expires, ID: c.ID, Confirm: &protocol.Confirmation{JKT: c.Confirm.JKT, X5T: c.Confirm.X5T}})
}

// revoke is RFC 7009. A token that nobody here issued, or that has expired, is as
// good as ended.
func (s *Server) revoke(q *call) error {
	f, err := q.form("token")
	if err != nil {
		return err
	}
	ctx := q.Request().Context()
	if q.claims != nil {
		err = s.svc.GiveUp(ctx, q.claims, f.Get("token"))
	} else {
		err = s.svc.Revoke(ctx, q.actor, f.Get("token"))
	}
	if err != nil {
		return err
	}
	return q.answer(struct{}{})
}

// exchange is RFC 8693, of the token that the request is authenticated with. The
// domain lists the audiences; none, and there is no exchange.
func (s *Server) exchange(q *call) error {
	f, err := q.form("grant_type", "subject_token", "subject_token_type", "audience")
	if err != nil {
		return err
	}
	refuse := func(oauth, detail string) error {
		return &httpError{status: http.StatusBadRequest, code: codeMalformed, detail: detail, oauth: oauth}
	}
	_, shown, _ := strings.Cut(q.Request().Header.Get("Authorization"), " ")
	switch kind, want := f.Get("subject_token_type"), f.Get("requested_token_type"); {
	case f.Get("grant_type") != protocol.GrantExchange:
		return refuse("unsupported_grant_type", "expected grant_type "+protocol.GrantExchange)
	case token.Digest(f.Get("subject_token")) != token.Digest(shown):
		return refuse("invalid_request", "subject_token is not the token of the Authorization header")
	case kind != protocol.TypeJWT && kind != protocol.TypeAccess || want != "" && want != protocol.TypeJWT:
		return refuse("invalid_request", "expected requested_token_type "+protocol.TypeJWT)
	case f.Has("actor_token") || f.Has("resource") || f.Has("scope"):
		return refuse("invalid_request", "actor_token, resource and scope are not known here")
	case !s.svc.Exchanges(f.Get("audience")):
		return refuse("invalid_target", "no token is exchanged for this audience; an operator may add it to exchange_audiences")
	}
	tok, b, err := s.svc.Exchange(q.Request().Context(), q.claims, f.Get("audience"), f.Get("workload"))
	if err != nil {
		return err
	}
	s.metrics.issued.WithLabelValues("federation").Inc()
	return q.answer(protocol.Exchanged{Token: tok, Issued: protocol.TypeJWT, Type: "Bearer", ExpiresIn: b.Expires - b.IssuedAt})
}

// svid gives an X509-SVID for the token that the request is authenticated with.
func (s *Server) svid(q *call) error {
	var req protocol.SVIDRequest
	if err := q.decode(&req); err != nil {
		return err
	}
	out, err := s.svc.SVID(q.Request().Context(), q.claims, req)
	if err != nil {
		return err
	}
	s.metrics.issued.WithLabelValues("x509-svid").Inc()
	return q.answer(out)
}

// oauthError is the error code (RFC 6749 section 5.2) of a refusal of an OAuth
// request that has none of its own.
func oauthError(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "invalid_client"
	case status == http.StatusForbidden:
		return "unauthorized_client"
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return "temporarily_unavailable"
	case status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "invalid_request"
}
