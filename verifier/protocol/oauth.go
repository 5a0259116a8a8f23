package protocol

// TokenForm is a form that names a token: POST /oauth2/introspect and
// /oauth2/revoke.
type TokenForm struct {
	Token string `json:"token"`
	Hint  string `json:"token_type_hint,omitempty"` // not looked at
}

// Introspection says whether a token counts now (RFC 7662 section 2.2): POST
// /oauth2/introspect. Of one that does not it says nothing but that.
type Introspection struct {
	Active    bool          `json:"active"`
	TokenType string        `json:"token_type,omitempty"` // DPoP: it is worth nothing without a proof by the key of cnf
	Issuer    string        `json:"iss,omitempty"`
	Subject   string        `json:"sub,omitempty"`
	Audience  string        `json:"aud,omitempty"`
	IssuedAt  int64         `json:"iat,omitempty"`
	NotBefore int64         `json:"nbf,omitempty"`
	Expires   int64         `json:"exp,omitempty"`
	ID        string        `json:"jti,omitempty"`
	Confirm   *Confirmation `json:"cnf,omitempty"`
}

// Confirmation names the key that a token is bound to.
type Confirmation struct {
	JKT string `json:"jkt"` // RFC 7638 thumbprint
}

// StatusLists names every status list of the issuer: GET /v1/status-lists.
type StatusLists struct {
	StatusLists []string `json:"status_lists"`
}
