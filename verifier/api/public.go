package api

import (
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// cache says how long others may keep an answer.
func (q *call) cache(control string) { q.Response().Header().Set("Cache-Control", control) }

// discovery is OpenID Connect Discovery 1.0 section 3, less what does not exist
// here: nobody signs in.
func (s *Server) discovery(q *call) error {
	q.cache("public, max-age=300")
	doc := map[string]any{
		"issuer":                 s.svc.Issuer(),
		"jwks_uri":               s.svc.Issuer() + "/.well-known/jwks.json",
		"introspection_endpoint": s.svc.Issuer() + "/oauth2/introspect",
		"introspection_endpoint_auth_methods_supported": []string{"tls_client_auth"},
		"revocation_endpoint":                           s.svc.Issuer() + "/oauth2/revoke",
		"revocation_endpoint_auth_methods_supported":    []string{"tls_client_auth", "none"}, // none: by the token's own key
		"status_list_aggregation_endpoint":              s.svc.Issuer() + "/v1/status-lists",
		"grant_types_supported":                         []string{}, // absent, it would mean the code flow
		"response_types_supported":                      []string{"id_token"},
		"subject_types_supported":                       []string{"public"},
		"id_token_signing_alg_values_supported":         []string{"ES256"},
		"dpop_signing_alg_values_supported":             []string{"ES256"},
		"tls_client_certificate_bound_access_tokens":    true,
		"claims_supported":                              []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf", "eat_profile", "eat_nonce", "ear_status", "submods", "status", "writ"},
	}
	if s.svc.Exchanges("") {
		doc["token_endpoint"] = s.svc.Issuer() + "/oauth2/token"
		doc["token_endpoint_auth_methods_supported"] = []string{"none"} // by the token exchanged, and a proof by its key
		doc["grant_types_supported"] = []string{protocol.GrantExchange}
	}
	return q.answer(doc)
}

// spiffe is the bundle of the trust domain (SPIFFE Federation, profile https_web).
func (s *Server) spiffe(q *call) error {
	q.cache("public, max-age=60")
	return q.Blob(http.StatusOK, mediaJSON, s.svc.SPIFFEBundle(60))
}

// jwks is the key set of the issuer. A new key is in it for twice the time that
// others may keep it before it is used (verifier.KeyOverlap).
func (s *Server) jwks(q *call) error {
	q.cache("public, max-age=300")
	return q.Blob(http.StatusOK, mediaJSON, s.svc.TokenKeys().MarshalJWKS())
}

// statusList is a list of which tokens were ended (Token Status List section 8). Who
// keeps it longer than its ttl has old news; after its exp it is none.
func (s *Server) statusList(q *call) error {
	n, err := number(q.Param("index"))
	if err != nil {
		return echo.ErrNotFound
	}
	list, err := s.svc.StatusList(q.Request().Context(), n)
	if err != nil {
		return err
	}
	q.cache("public, max-age=10")
	return q.Blob(http.StatusOK, mediaStatusList, []byte(list))
}

func (s *Server) statusLists(q *call) error {
	out := protocol.StatusLists{StatusLists: make([]string, s.svc.StatusLists())}
	for n := range out.StatusLists {
		out.StatusLists[n] = s.svc.StatusListURI(uint64(n))
	}
	q.cache("public, max-age=300")
	return q.answer(out)
}

func (s *Server) publicKeys(q *call) error {
	q.cache("no-cache")
	return q.answer(s.svc.PublicKeys())
}

func (s *Server) domain(q *call) error {
	t, err := s.svc.Trust(s.svc.Log().VerifierKeys()...)
	if err != nil {
		return err
	}
	q.cache("public, max-age=60")
	return q.Blob(http.StatusOK, mediaJSON, t.Marshal())
}

func (s *Server) checkpoint(q *call) error {
	return q.Blob(http.StatusOK, mediaText, s.svc.Log().Checkpoint())
}

// tile serves hashes, and entries where its route admits to them.
func (s *Server) tile(q *call) error {
	p, err := ledger.ParseTilePath(q.Request().URL.Path[len("/log/"):])
	if err != nil {
		return echo.ErrNotFound
	}
	if (p.Level == ledger.Entries) != (q.route.name == "entries") {
		return echo.ErrNotFound // another spelling of a path must not come in by the wrong route
	}
	ctx := q.Request().Context()
	var b []byte
	if p.Level == ledger.Entries {
		b, err = s.svc.Log().EntryBundle(ctx, p.Index, p.Width)
	} else {
		b, err = s.svc.Log().Tile(ctx, p.Level, p.Index, p.Width)
	}
	if err != nil {
		return err
	}
	if q.route.auth == public {
		q.cache("public, max-age=31536000, immutable")
	}
	return q.Blob(http.StatusOK, mediaBytes, b)
}

func (s *Server) proof(q *call) error {
	index, err := number(q.Param("index"))
	if err != nil {
		return echo.ErrNotFound
	}
	p, err := s.svc.Log().Prove(q.Request().Context(), index)
	if err != nil {
		return err
	}
	return q.Blob(http.StatusOK, mediaText, []byte(p))
}

// number reads a decimal in the one way it is written.
func number(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return 0, malformed("%.40q is not a decimal number", text)
	}
	return n, nil
}
