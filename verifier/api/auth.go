package api

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/writ-attestation/writ/internal/replay"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// credential is what a route asks of who calls it. The zero credential is one
// that nobody has.
type credential int

const (
	nobody     credential = iota
	public                // none
	joinToken             // a join token, or the enrolment begun with one: in the body
	evidential            // evidence signed by the node's attestation key, or the wish to make some
	nodeKey               // a live token of the node and a proof by its key
	endedKey              // as nodeKey, also when the token was ended before its time
	operator              // a client certificate of the domain's operator CA, with one of the route's roles
	holder                // as operator with a client certificate, as endedKey without
	local                 // the admin listener
)

func (c credential) String() string {
	return [...]string{"nobody", "public", "join token", "evidence", "node key", "node key, also ended", "operator", "operator, or node key, also ended", "local"}[c]
}

// stranger reports whether anybody may try, at our expense.
func (c credential) stranger() bool {
	return c == joinToken || c == evidential || c == nodeKey || c == endedKey
}

// call is one request on its way to a handler.
type call struct {
	echo.Context
	route   *route
	auth    credential // the route's; of holder, the one that is shown
	peer    *peer
	body    []byte
	actor   string        // operator: as the history names it
	may     keys.Operator // operator: with its roles
	from    time.Time     // operator: since when the certificate is good
	session *session      // the one that a browser shows; nil: none
	claims  *token.Claims // nodeKey, endedKey: of the token presented
	kid     string        // of the key that signed it
	x5t     string        // of the client certificate that a token is to be bound to
}

// guard lets a request through to its handler if it is for us, in form, and has
// the credential of the route.
func (s *Server) guard(r route) echo.HandlerFunc {
	return func(c echo.Context) error {
		q := &call{Context: c, route: &r, auth: r.auth, peer: peerOf(c.Request().Context())}
		if r.auth != local {
			if err := s.addressed(c.Request()); err != nil {
				return err
			}
		}
		if r.page != "" && !s.pages.Open(r.page) {
			return protocol.Refuse(protocol.NotFound, "the page %s is not open here: public.pages does not name it", r.page)
		}
		if err := q.shape(); err != nil {
			return err
		}
		if err := s.identify(q); err != nil {
			return err
		}
		give, err := s.readBody(q)
		if err != nil {
			return s.judged(q, err)
		}
		defer give()
		leave, err := s.admit(q)
		if err != nil {
			return s.judged(q, err)
		}
		if r.stream { // it takes no place while it only listens
			leave()
		} else {
			defer leave()
		}
		return s.judged(q, r.handle(q))
	}
}

// addressed refuses requests that are not for this verifier: a proof of
// possession names the host, and is worth nothing if any host will do.
func (s *Server) addressed(r *http.Request) error {
	name, port, err := net.SplitHostPort(strings.ToLower(r.Host))
	if err != nil {
		name, port = strings.Trim(strings.ToLower(r.Host), "[]"), "443"
	}
	if s.hosts[net.JoinHostPort(name, port)] {
		return nil
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if _, own, err := net.SplitHostPort(a.String()); err == nil && own == port && s.hosts[name] {
			return nil
		}
	}
	return &httpError{status: http.StatusMisdirectedRequest, code: codeMisdirected, detail: fmt.Sprintf("this verifier is not known as %.100q; add it to addresses", r.Host)}
}

// paramRE is what ids, and names of domains, are made of.
var paramRE = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}$`)

// shape checks what can be checked without reading the body.
func (q *call) shape() error {
	for i, name := range q.ParamNames() {
		if name != "*" && !paramRE.MatchString(q.ParamValues()[i]) {
			return echo.ErrNotFound
		}
	}
	for name := range q.QueryParams() {
		if q.route.query != "*" && !strings.Contains(" "+q.route.query+" ", " "+name+" ") {
			return &httpError{status: http.StatusBadRequest, code: codeMalformed, detail: fmt.Sprintf("unknown query parameter %.40q", name)}
		}
	}
	if q.route.in == "" {
		return nil
	}
	if err := mediaType(q.Request().Header.Values("Content-Type"), q.route.in); err != nil {
		return err
	}
	if q.Request().ContentLength > q.route.max {
		return tooLarge(q.route.max)
	}
	return nil
}

// identify checks the client certificate, if there is one, and that nothing else
// is shown beside it: of two credentials it would be unclear which one counts.
func (s *Server) identify(q *call) error {
	r := q.Request()
	certified := r.TLS != nil && len(r.TLS.PeerCertificates) > 0
	if q.auth == holder {
		q.auth = endedKey
		if certified {
			q.auth = operator
		}
	}
	header := len(r.Header.Values("Authorization"))+len(r.Header.Values("DPoP")) > 0
	if header && q.auth != nodeKey && q.auth != endedKey && q.auth != local {
		return unauthenticated(q.auth, "an Authorization or DPoP header is no credential here; send none")
	}
	if err := s.browsing(q, certified); err != nil {
		return err
	}
	if !certified {
		if q.auth == operator && q.session == nil {
			return unauthenticated(operator, "a client certificate of an operator of this domain is required")
		}
		return nil
	}
	// ServerTLS has verified it when the connection was made, which may be long ago.
	leaf := r.TLS.PeerCertificates[0]
	if now := s.cfg.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return unauthenticated(operator, "the client certificate has expired")
	}
	if keys.SelfIssued(leaf) {
		return q.binds(leaf)
	}
	o, err := keys.OperatorOf(leaf, s.svc.Domain())
	if err != nil {
		return unauthenticated(operator, "the client certificate is not an operator's")
	}
	q.from = leaf.NotBefore
	if err := s.standing(q, o); err != nil {
		return err
	}
	switch {
	case q.auth == public:
		return nil
	case q.auth != operator:
		return unauthenticated(q.auth, "a client certificate is no credential here; show none")
	}
	return s.role(q, o)
}

// binds takes a certificate that is nobody's credential where a token can be bound to it.
func (q *call) binds(leaf *x509.Certificate) error {
	switch {
	case q.auth == operator:
		return unauthenticated(operator, "the client certificate is not an operator's")
	case q.auth != public && !q.route.binds:
		return unauthenticated(q.auth, "a client certificate is no credential here; show none")
	case q.route.binds:
		q.x5t = token.CertificateThumbprint(leaf.Raw)
	}
	return nil
}

// standing refuses an operator whose certificate was revoked, also where it is shown
// for nothing.
func (s *Server) standing(q *call, o keys.Operator) error {
	revoked, err := s.svc.OperatorRevoked(q.Request().Context(), o.Name, q.from)
	if err == nil && revoked {
		err = unauthenticated(operator, "the certificate of operator "+o.Name+" is revoked; if that is wrong, another one is made beside the verifier: writd operator")
	}
	return err
}

// role lets an operator go on who has one of the route's roles.
func (s *Server) role(q *call, o keys.Operator) error {
	if !o.May(q.route.roles...) {
		return &httpError{status: http.StatusForbidden, code: codeRole, detail: fmt.Sprintf("operator %s has roles %v, one of %v is required", o.Name, o.Roles, q.route.roles)}
	}
	q.may, q.actor = o, "operator/"+o.Name
	return nil
}

// admit lets strangers in by turns and checks what they show beside the body.
// leave ends their turn.
func (s *Server) admit(q *call) (leave func(), err error) {
	switch {
	case q.auth == public:
		return func() {}, s.queue.read(q.peer, q.route.cost)
	case q.auth == operator && q.actor != "", q.auth == local:
		return func() {}, nil
	case !q.auth.stranger():
		return nil, unauthenticated(q.auth, "nobody may do this")
	}
	if leave, err = s.queue.enter(q.Request().Context(), q.peer); err != nil {
		return nil, err
	}
	if q.auth == nodeKey || q.auth == endedKey {
		if err := s.possession(q); err != nil {
			leave()
			return nil, err
		}
	}
	return leave, nil
}

// unauthentic are the refusals of what did not come from who it says.
var unauthentic = map[string]bool{
	protocol.EvidenceMalformed: true, protocol.EvidenceUnverified: true, protocol.NonceExpired: true, protocol.NotEnrolled: true,
	protocol.JoinTokenRefused: true, protocol.EnrollmentRefused: true, codeMalformed: true, codeUnauthenticated: true,
}

// judged notes what a stranger's request turned out to be.
func (s *Server) judged(q *call, err error) error {
	if !q.auth.stranger() {
		return err
	}
	switch code := problemOf(err).Type; {
	case err != nil && unauthentic[code]:
		s.queue.forged(q.peer)
	case q.route.proves && (err == nil || code == protocol.PolicyDenied || code == protocol.LogNotHeld):
		q.peer.genuine.Store(true)
	}
	return err
}

// possession checks a token and the proof that its holder sent it (RFC 9449
// section 7).
func (s *Server) possession(q *call) error {
	r := q.Request()
	auth, proof := r.Header.Values("Authorization"), r.Header.Values("DPoP")
	if len(auth) != 1 || len(proof) != 1 {
		return unauthenticated(nodeKey, "exactly one Authorization: DPoP header and one DPoP header are required")
	}
	scheme, tok, _ := strings.Cut(auth[0], " ")
	if !strings.EqualFold(scheme, "DPoP") {
		return unauthenticated(nodeKey, "the Authorization scheme must be DPoP")
	}
	now := s.cfg.Now()
	claims, err := token.Verify(tok, s.svc.TokenKeys(), token.Expect{Issuer: s.svc.Issuer(), Domain: s.svc.Domain(), Audience: s.svc.EnclaveAudience()}, now)
	if err != nil {
		return unproven("invalid_token", err)
	}
	holder, err := token.CheckProof(proof[0], token.Call{Method: r.Method, URL: "https://" + r.Host + r.URL.EscapedPath(), Token: tok, Body: q.body}, now)
	if err == nil && holder.JKT != claims.Confirm.JKT {
		err = &token.Error{Code: token.WrongKey, Detail: "the proof is by another key than the token is bound to"}
	}
	if err != nil {
		return unproven("invalid_dpop_proof", err)
	}
	switch err := s.proofs.First(holder, now); {
	case errors.Is(err, replay.ErrFull):
		return &httpError{status: http.StatusTooManyRequests, code: codeRateLimited, detail: err.Error(), retry: 30}
	case err != nil:
		return unproven("invalid_dpop_proof", &token.Error{Code: token.BadProof, Detail: err.Error()})
	}
	_, ended, err := s.svc.Ended(r.Context(), claims)
	if err != nil {
		return err
	}
	if ended && q.auth != endedKey {
		return protocol.Refuse(protocol.TokenRevoked, "the token was ended before it expired; attest anew")
	}
	q.claims, q.kid = claims, token.KeyID(tok)
	return nil
}

// unproven is the answer to a token or proof that fails. What token says of them
// names nothing but themselves.
func unproven(code string, err error) error {
	return &httpError{status: http.StatusUnauthorized, code: codeUnauthenticated, detail: err.Error(), scheme: `DPoP error="` + code + `", algs="ES256"`}
}

func unauthenticated(c credential, detail string) error {
	scheme := `DPoP algs="ES256"`
	if c == operator {
		scheme = "ClientCertificate"
	}
	return &httpError{status: http.StatusUnauthorized, code: codeUnauthenticated, detail: detail, scheme: scheme}
}
