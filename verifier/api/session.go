package api

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// How long what a browser holds is good.
const (
	codeLife    = time.Minute
	sessionLife = 8 * time.Hour
	actLife     = 15 * time.Minute // of a session's right to act; then the operator signs in once more
	mostCodes   = 64
	mostOpen    = 256
)

const (
	sessionCookie = "__Host-writ-session" // a browser takes it from https only, for this host alone
	csrfHeader    = "X-Writ-CSRF"
)

const (
	codeSession = "session-ended"
	codeStepUp  = "sign-in-again"
	codeOrigin  = "cross-site"
)

// sessions are the operators who are signed in with a browser. They are here alone:
// another verifier of the domain knows nothing of them, and they end with the process.
// Secrets are looked up by their SHA-256, so that no time tells anything of them.
type sessions struct {
	now func() time.Time

	mu    sync.Mutex
	codes map[[sha256.Size]byte]*session
	open  map[[sha256.Size]byte]*session
}

// session is one operator in one browser.
type session struct {
	operator keys.Operator
	from     time.Time // since when its certificate is good
	csrf     string
	acts     time.Time // until then it may act
	ends     time.Time
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, codes: map[[sha256.Size]byte]*session{}, open: map[[sha256.Size]byte]*session{}}
}

// secret is 32 random bytes as text.
func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b)
}

// invite makes a code for an operator whose certificate is good from one time until
// another.
func (s *sessions) invite(o keys.Operator, from, until time.Time) (code string, expires time.Time) {
	code, expires = secret(), s.now().Add(codeLife)
	s.mu.Lock()
	defer s.mu.Unlock()
	keep(s.codes, mostCodes, s.now())
	// Until it is used, ends is when the code ends, and acts when the certificate does.
	s.codes[sha256.Sum256([]byte(code))] = &session{operator: o, from: from, ends: expires, acts: until}
	return code, expires
}

// begin spends a code, right or late, and opens a session.
func (s *sessions) begin(code string) (cookie string, out session, ok bool) {
	now, sum := s.now(), sha256.Sum256([]byte(code))
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.codes[sum]
	delete(s.codes, sum)
	if c == nil || !now.Before(c.ends) || !now.Before(c.acts) {
		return "", session{}, false
	}
	keep(s.open, mostOpen, now)
	cookie = secret()
	n := &session{operator: c.operator, from: c.from, csrf: secret(), acts: earlier(now.Add(actLife), c.acts), ends: earlier(now.Add(sessionLife), c.acts)}
	s.open[sha256.Sum256([]byte(cookie))] = n
	return cookie, *n, true
}

// of is the session of a cookie.
func (s *sessions) of(cookie string) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.open[sha256.Sum256([]byte(cookie))]
	if n == nil || !s.now().Before(n.ends) {
		return session{}, false
	}
	return *n, true
}

func (s *sessions) end(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(cookie)))
}

// keep makes room for one more: it forgets those that have ended, or else the one that
// ends first.
func keep(m map[[sha256.Size]byte]*session, most int, now time.Time) {
	var first [sha256.Size]byte
	var found *session
	for k, v := range m {
		if !now.Before(v.ends) {
			delete(m, k)
		} else if found == nil || v.ends.Before(found.ends) {
			first, found = k, v
		}
	}
	if len(m) >= most {
		delete(m, first)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (n *session) shown() *protocol.ConsoleSession {
	out := &protocol.ConsoleSession{Operator: n.operator.Name, Roles: []string{}, CSRF: n.csrf, Acts: n.acts.Unix(), Ends: n.ends.Unix()}
	for _, r := range n.operator.Roles {
		out.Roles = append(out.Roles, string(r))
	}
	return out
}

// browsing checks the session that a browser shows, where the route takes one. A
// session that is shown and has ended is not as good as none, and its cookie is taken
// back. What changes something needs the session's CSRF token beside it, a right to
// act that is still fresh, and a page of this verifier that asks.
func (s *Server) browsing(q *call, certified bool) error {
	r := q.Request()
	cookies := r.CookiesNamed(sessionCookie)
	if !q.route.browser || len(cookies) == 0 {
		return nil
	}
	if certified {
		return unauthenticated(operator, "a client certificate and a session are two credentials; show one")
	}
	if err := sameSite(r); err != nil {
		return err
	}
	n, ok := session{}, false
	if len(cookies) == 1 {
		n, ok = s.sessions.of(cookies[0].Value)
	}
	if !ok {
		http.SetCookie(q.Response(), cookie("", -1))
		return &httpError{status: http.StatusUnauthorized, code: codeSession, detail: "the session has ended; sign in again: writ sign-in", scheme: "Session"}
	}
	q.session, q.from = &n, n.from
	if err := s.standing(q, n.operator); err != nil {
		return s.dismiss(q, cookies[0].Value, err)
	}
	if q.auth != operator {
		return nil
	}
	if r.Method != http.MethodGet {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get(csrfHeader)), []byte(n.csrf)) != 1 {
			return &httpError{status: http.StatusForbidden, code: codeOrigin, detail: "the request lacks the session's " + csrfHeader}
		}
		if !q.route.leaves && !s.cfg.Now().Before(n.acts) {
			return &httpError{status: http.StatusForbidden, code: codeStepUp, detail: "acting needs a sign-in of the last " + actLife.String() + "; sign in again: writ sign-in"}
		}
	}
	return s.role(q, n.operator)
}

// dismiss ends the session of an operator who is one no more.
func (s *Server) dismiss(q *call, value string, why error) error {
	s.sessions.end(value)
	http.SetCookie(q.Response(), cookie("", -1))
	var no *httpError
	if errors.As(why, &no) {
		return &httpError{status: http.StatusUnauthorized, code: codeSession, detail: "the session has ended: " + no.detail, scheme: "Session"}
	}
	return why
}

// sameSite refuses requests that another site made a browser send. SameSite=Strict
// keeps the cookie from most of them already; a browser says the rest itself.
func sameSite(r *http.Request) error {
	if !ownPage(r) || r.Method != http.MethodGet && r.Header.Get("Origin") == "" {
		return &httpError{status: http.StatusForbidden, code: codeOrigin, detail: "a session is for pages of this verifier alone"}
	}
	return nil
}

// ownPage reports whether a page of this verifier asks, or something that is no browser:
// browsers say of each request which site it is from, and let no page lie about it. The
// host itself was checked before.
func ownPage(r *http.Request) bool {
	switch site := r.Header.Values("Sec-Fetch-Site"); {
	case len(site) == 0, len(site) == 1 && site[0] == "same-origin":
	case len(site) == 1 && site[0] == "none" && r.Method == http.MethodGet: // typed in
	default:
		return false
	}
	origin := r.Header.Values("Origin")
	return len(origin) == 0 || len(origin) == 1 && origin[0] == "https://"+r.Host
}

func cookie(value string, age int) *http.Cookie {
	return &http.Cookie{Name: sessionCookie, Value: value, Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

// invite gives an operator a code for a browser.
func (s *Server) invite(q *call) error {
	if err := q.decode(&protocol.SignInRequest{}); err != nil {
		return err
	}
	code, expires := s.sessions.invite(q.may, q.from, q.Request().TLS.PeerCertificates[0].NotAfter)
	s.cfg.Log.InfoContext(q.Request().Context(), "sign-in code made", "actor", q.actor)
	return q.answer(protocol.SignIn{Code: code, Expires: expires.Unix()})
}

// signIn opens a session for a code. It costs the sender's address a try.
func (s *Server) signIn(q *call) error {
	if err := sameSite(q.Request()); err != nil {
		return err
	}
	if err := s.queue.signIn(q.peer); err != nil {
		return err
	}
	var in protocol.SignInCode
	if err := q.decode(&in); err != nil {
		return err
	}
	value, n, ok := s.sessions.begin(in.Code)
	if !ok {
		return &httpError{status: http.StatusUnauthorized, code: codeSession, detail: "the sign-in code is not known, was used, or is older than " + codeLife.String() + "; make another one: writ sign-in", scheme: "Session"}
	}
	q.from = n.from
	if err := s.standing(q, n.operator); err != nil { // since the code was made
		return s.dismiss(q, value, err)
	}
	http.SetCookie(q.Response(), cookie(value, int(n.ends.Sub(s.cfg.Now()).Seconds())))
	s.cfg.Log.InfoContext(q.Request().Context(), "operator signed in", "actor", "operator/"+n.operator.Name)
	return q.answer(n.shown())
}

// signOut ends the session that asks for it.
func (s *Server) signOut(q *call) error {
	for _, c := range q.Request().CookiesNamed(sessionCookie) {
		s.sessions.end(c.Value)
	}
	http.SetCookie(q.Response(), cookie("", -1))
	return q.NoContent(http.StatusNoContent)
}
