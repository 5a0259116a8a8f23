package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// problemBase begins the type of every problem; its last part is the code.
const problemBase = "https://github.com/writ-attestation/writ/problems/"

// Codes of what is refused before the service is asked, or when it failed.
const (
	codeMalformed       = "request-malformed"
	codeTooLarge        = "request-too-large"
	codeMediaType       = "media-type-unsupported"
	codeMethod          = "method-not-allowed"
	codeMisdirected     = "misdirected"
	codeUnauthenticated = "credential-required"
	codeRole            = "role-required"
	codeRateLimited     = "rate-limited"
	codeBusy            = "busy"
	codeOutcomeUnknown  = "outcome-unknown"
	codeUnavailable     = "unavailable"
	codeInternal        = "internal"
)

var errPanic = errors.New("a handler panicked")

// httpError is a refusal by this package.
type httpError struct {
	status int
	code   string
	detail string
	scheme string // of WWW-Authenticate
	retry  int    // seconds
	oauth  string // error code of OAuth, if it has one of its own
}

func (e *httpError) Error() string { return e.code + ": " + e.detail }

// refusals are the answers for the codes of the service.
var refusals = map[string]struct {
	status int
	title  string
	retry  int // seconds
}{
	protocol.NotEnrolled:        {status: http.StatusForbidden, title: "The node is not enrolled"},
	protocol.NodeNotActive:      {status: http.StatusForbidden, title: "The node is not active"},
	protocol.NonceExpired:       {status: http.StatusConflict, title: "The challenge is unknown or has expired"},
	protocol.EvidenceMalformed:  {status: http.StatusBadRequest, title: "The evidence cannot be read"},
	protocol.EvidenceUnverified: {status: http.StatusUnprocessableEntity, title: "The evidence is not authentic"},
	protocol.LogNotHeld:         {status: http.StatusConflict, title: "A log that is only named is not held"},
	protocol.PolicyDenied:       {status: http.StatusForbidden, title: "The evidence was denied"},
	protocol.RequestRefused:     {status: http.StatusForbidden, title: "The request is not permitted"},
	protocol.RequestReused:      {status: http.StatusConflict, title: "The request id was used for something else"},
	protocol.JoinTokenRefused:   {status: http.StatusForbidden, title: "The join token is refused"},
	protocol.EnrollmentRefused:  {status: http.StatusForbidden, title: "The enrolment is refused"},
	protocol.ReferenceRefused:   {status: http.StatusUnprocessableEntity, title: "The reference set is refused"},
	protocol.NotFound:           {status: http.StatusNotFound, title: "There is no such thing"},
	protocol.Pruned:             {status: http.StatusGone, title: "Retention gave it up"},
	protocol.IllegalAct:         {status: http.StatusConflict, title: "The act is not possible now"},
	protocol.DomainFrozen:       {status: http.StatusServiceUnavailable, title: "The domain is frozen", retry: 30},
	protocol.ClockUnsound:       {status: http.StatusServiceUnavailable, title: "The verifier's clock is in doubt", retry: 30},
	protocol.Unwitnessed:        {status: http.StatusServiceUnavailable, title: "The witnesses' quorum is missing", retry: 5},
	protocol.TokenRevoked:       {status: http.StatusUnauthorized, title: "The token was ended"},
}

var titles = map[string]string{
	codeMalformed:       "The request cannot be read",
	codeTooLarge:        "The request is too large",
	codeMediaType:       "The media type is not supported",
	codeMethod:          "The method is not allowed",
	codeMisdirected:     "This is not the server the request is for",
	codeUnauthenticated: "A credential is required",
	codeRole:            "Another role is required",
	codeRateLimited:     "Too many requests",
	codeBusy:            "The verifier is busy",
	codeOutcomeUnknown:  "The outcome is not known",
	codeUnavailable:     "The verifier cannot answer now",
	codeSession:         "The session has ended",
	codeStepUp:          "Signing in again is required",
	codeOrigin:          "The request does not come from a page of this verifier",
	codeInternal:        "The verifier failed",
}

// problem is RFC 9457 problem details. A denial has the members of its outcome
// beside them, a refused OAuth request those of RFC 6749 section 5.2.
type problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance"` // the request's id
	*protocol.Outcome
	OAuth       string `json:"error,omitempty"`
	Description string `json:"error_description,omitempty"`

	scheme string
	retry  int
}

// problemOf is the one mapping from errors to answers. Errors that are not a
// refusal say nothing of their text.
func problemOf(err error) problem {
	var refusal *protocol.Refusal
	var own *httpError
	var routing *echo.HTTPError
	switch {
	case errors.As(err, &refusal):
		if k, ok := refusals[refusal.Code]; ok {
			p := problem{Type: refusal.Code, Title: k.title, Status: k.status, Detail: refusal.Detail, Outcome: refusal.Denied, retry: k.retry}
			if refusal.Code == protocol.TokenRevoked {
				p.scheme = `DPoP error="invalid_token"`
			}
			return p
		}
	case errors.As(err, &own):
		return problem{Type: own.code, Title: titles[own.code], Status: own.status, Detail: own.detail, scheme: own.scheme, retry: own.retry, OAuth: own.oauth}
	case errors.As(err, &routing) && routing.Code == http.StatusNotFound:
		return problem{Type: protocol.NotFound, Title: refusals[protocol.NotFound].title, Status: http.StatusNotFound, Detail: "no such path"}
	case errors.As(err, &routing) && routing.Code == http.StatusMethodNotAllowed:
		return problem{Type: codeMethod, Title: titles[codeMethod], Status: http.StatusMethodNotAllowed}
	case errors.Is(err, ledger.ErrNotFound):
		return problem{Type: protocol.NotFound, Title: refusals[protocol.NotFound].title, Status: http.StatusNotFound}
	case errors.Is(err, ledger.ErrPruned):
		return problem{Type: protocol.Pruned, Title: refusals[protocol.Pruned].title, Status: http.StatusGone,
			Detail: "the bytes of the entry were given up; its hash and its proof remain"}
	case errors.Is(err, ledger.ErrUnknown):
		return problem{Type: codeOutcomeUnknown, Title: titles[codeOutcomeUnknown], Status: http.StatusServiceUnavailable, retry: 1,
			Detail: "it may have been recorded or not; repeat the same request under the same request id"}
	case errors.Is(err, ledger.ErrClock):
		return problem{Type: protocol.ClockUnsound, Title: refusals[protocol.ClockUnsound].title, Status: http.StatusServiceUnavailable, retry: 30}
	case errors.Is(err, ledger.ErrRolledBack):
		return problem{Type: protocol.DomainFrozen, Title: refusals[protocol.DomainFrozen].title, Status: http.StatusServiceUnavailable, retry: 30,
			Detail: "the history was rolled back; operators must decide"}
	case errors.Is(err, ledger.ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return problem{Type: codeUnavailable, Title: titles[codeUnavailable], Status: http.StatusServiceUnavailable, retry: 2}
	}
	return problem{Type: codeInternal, Title: titles[codeInternal], Status: http.StatusInternalServerError}
}

// fail answers an error, counts it, and logs what is not sent.
func (s *Server) fail(err error, c echo.Context) {
	r := c.Request()
	ctx, id := r.Context(), requestID(r.Context())
	p := problemOf(err)
	s.metrics.refused(c.Path(), p)
	level := s.cfg.Log.DebugContext
	if p.Status >= http.StatusInternalServerError {
		level = s.cfg.Log.WarnContext
	}
	level(ctx, "request failed", "request", id, "method", r.Method, "path", r.URL.Path, "status", p.Status, "problem", p.Type, "error", err, "remote", r.RemoteAddr)
	if c.Response().Committed {
		return
	}
	p.Type, p.Instance = problemBase+p.Type, id
	if strings.HasPrefix(c.Path(), oauthPath) {
		p.OAuth, p.Description = cmp.Or(p.OAuth, oauthError(p.Status)), cmp.Or(p.Detail, p.Title)
	}
	h := c.Response().Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.scheme != "" {
		h.Set("WWW-Authenticate", p.scheme)
	}
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry))
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic("api: a problem does not marshal: " + err.Error())
	}
	c.Response().WriteHeader(p.Status)
	_, _ = c.Response().Write(body) // a client that left needs no answer
}
