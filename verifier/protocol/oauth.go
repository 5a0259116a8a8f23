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
	TokenType string        `json:"token_type,omitempty"` // DPoP: it is worth nothing without a proof by the key of cnf; Bearer: without the client certificate of cnf
	Issuer    string        `json:"iss,omitempty"`
	Subject   string        `json:"sub,omitempty"`
	Audience  string        `json:"aud,omitempty"`
	IssuedAt  int64         `json:"iat,omitempty"`
	NotBefore int64         `json:"nbf,omitempty"`
	Expires   int64         `json:"exp,omitempty"`
	ID        string        `json:"jti,omitempty"`
	Confirm   *Confirmation `json:"cnf,omitempty"`
}

// Confirmation names the key that a token is bound to, in one way or the other.
type Confirmation struct {
	JKT string `json:"jkt,omitempty"`      // RFC 7638 thumbprint
	X5T string `json:"x5t#S256,omitempty"` // SHA-256 of the client certificate (RFC 8705)
}

// ExchangeForm asks for a bearer token (RFC 8693): POST /oauth2/token.
type ExchangeForm struct {
	GrantType   string `json:"grant_type"`         // GrantExchange
	Subject     string `json:"subject_token"`      // the token in the Authorization header
	SubjectType string `json:"subject_token_type"` // TypeJWT or TypeAccess
	Audience    string `json:"audience"`
	Requested   string `json:"requested_token_type,omitempty"` // TypeJWT
	Workload    string `json:"workload,omitempty"`             // path of the SPIFFE ID wanted as subject; "": the node's
}

// SVIDRequest asks for an X509-SVID: POST /v1/svids.
type SVIDRequest struct {
	Workload string `json:"workload,omitempty"` // path of the SPIFFE ID; "": the node's
	Key      []byte `json:"key"`                // its public key, a SubjectPublicKeyInfo in DER
}

// SVID answers an SVIDRequest.
type SVID struct {
	ID          string `json:"id"`
	Certificate []byte `json:"certificate"` // DER
	Expires     int64  `json:"expires"`     // Unix seconds
}

// Names of RFC 8693.
const (
	GrantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	TypeJWT       = "urn:ietf:params:oauth:token-type:jwt"
	TypeAccess    = "urn:ietf:params:oauth:token-type:access_token"
)

// Exchanged answers an ExchangeForm.
type Exchanged struct {
	Token     string `json:"access_token"`
	Issued    string `json:"issued_token_type"`
	Type      string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"` // seconds
}

// StatusLists names every status list of the issuer: GET /v1/status-lists.
type StatusLists struct {
	StatusLists []string `json:"status_lists"`
}
