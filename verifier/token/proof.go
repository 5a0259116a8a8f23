package token

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ProofWindow is how far the iat of a proof may lie from the reader's clock,
// either way. Who accepts proofs remembers their ids for twice as long.
const ProofWindow = 60 * time.Second

const proofType = "dpop+jwt" // RFC 9449 section 4.2

// Call is the one HTTP request that a proof is made for and good for.
type Call struct {
	Method string
	URL    string // query and fragment do not count
	Token  string // the access token sent beside the proof, if any
	Nonce  string // the server's DPoP-Nonce, if it gave one
	Body   []byte // bound by its digest, if there is one; the standard binds none
}

// Holder is who made a proof.
type Holder struct {
	JKT string // thumbprint of the key
	ID  string // jti: refuse it the second time
}

type proofClaims struct {
	ID       string `json:"jti"`
	Method   string `json:"htm"`
	URL      string `json:"htu"`
	IssuedAt int64  `json:"iat"`
	Token    string `json:"ath,omitempty"`
	Nonce    string `json:"nonce,omitempty"`
	Body     string `json:"bd,omitempty"` // ours: base64url SHA-256 of the body
}

// NewProof signs a DPoP proof (RFC 9449) for a call with a P-256 key.
func NewProof(call Call, key crypto.Signer, at time.Time, rand io.Reader) (string, error) {
	jwk, err := MarshalJWK(key.Public())
	if err != nil {
		return "", fmt.Errorf("making a proof: %w", err)
	}
	want, err := call.claims()
	if err != nil {
		return "", fmt.Errorf("making a proof: %w", err)
	}
	var id [16]byte
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return "", fmt.Errorf("making a proof: %w", err)
	}
	want.ID, want.IssuedAt = encoding.EncodeToString(id[:]), at.Unix()
	payload, err := json.Marshal(want)
	if err != nil {
		panic("token: a proof of plain values does not marshal: " + err.Error())
	}
	return Sign(rand, selfInput(proofType, jwk, payload), key)
}

// CheckProof checks a proof for a call and returns who made it (RFC 9449 section
// 4.3). That the key is the one the token is bound to, and that the proof was not
// seen before, is for the caller to check. The error is an *Error.
func CheckProof(proof string, call Call, at time.Time) (Holder, error) {
	want, err := call.claims()
	if err != nil {
		return Holder{}, refuse(BadProof, "the call has no usable URL")
	}
	if len(proof) > MaxSize {
		return Holder{}, refuse(Oversize, "%d bytes, expected at most %d", len(proof), MaxSize)
	}
	jkt, payload, err := openSelf(proof, proofType)
	if err != nil {
		return Holder{}, err
	}
	got, err := parseProof(payload)
	if err != nil {
		return Holder{}, err
	}
	htu, err := target(got.URL)
	switch {
	case err != nil || got.Method != want.Method || htu != want.URL:
		return Holder{}, refuse(BadProof, "it is for %.20q %.100q, expected %q %q", got.Method, got.URL, want.Method, want.URL)
	case len(got.ID) < 16 || len(got.ID) > 128: // at least 96 bits
		return Holder{}, refuse(BadProof, "jti has %d characters, expected 16 to 128", len(got.ID))
	case at.Sub(time.Unix(got.IssuedAt, 0)).Abs() > ProofWindow:
		return Holder{}, refuse(BadProof, "iat is %d, it is %d; check the clocks", got.IssuedAt, at.Unix())
	case !equal(got.Token, want.Token):
		return Holder{}, refuse(BadProof, "ath is not the digest of the token sent with it")
	case !equal(got.Nonce, want.Nonce):
		return Holder{}, refuse(BadProof, "nonce is not the one asked for")
	case !equal(got.Body, want.Body):
		return Holder{}, refuse(BadProof, "bd is not the digest of the body sent with it")
	}
	return Holder{JKT: jkt, ID: got.ID}, nil
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// openSelf checks the signature of a JWS with the key it brings along. Being
// able to sign for that key is all a proof shows.
func openSelf(proof, want string) (jkt, payload string, err error) {
	jws, err := jose.ParseSignedCompact(proof, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return "", "", refuse(BadProof, "it is not a JWS with alg ES256")
	}
	h := jws.Signatures[0].Protected
	if typ, _ := h.ExtraHeaders[jose.HeaderType].(string); typ != want {
		return "", "", refuse(BadProof, "typ is %.40q, expected %q", typ, want)
	}
	if h.JSONWebKey == nil || h.KeyID != "" {
		return "", "", refuse(BadProof, "the header has no jwk, or a kid beside it")
	}
	if jkt, err = Thumbprint(h.JSONWebKey.Key); err != nil {
		return "", "", refuse(BadProof, "jwk is not a P-256 public key")
	}
	b, err := jws.Verify(h.JSONWebKey.Key)
	if err != nil {
		return "", "", refuse(BadProof, "the signature is not by the key in the header")
	}
	return jkt, string(b), nil
}

func parseProof(s string) (*proofClaims, error) {
	r := &reader{s: s}
	c := new(proofClaims)
	r.object(func(name string) {
		switch name {
		case "jti":
			c.ID = r.string()
		case "htm":
			c.Method = r.string()
		case "htu":
			c.URL = r.string()
		case "iat":
			c.IssuedAt = r.int(64)
		case "ath":
			c.Token = r.string()
		case "nonce":
			c.Nonce = r.string()
		case "bd":
			c.Body = r.string()
		default:
			r.skip()
		}
	})
	return c, r.end()
}

// claims is what a proof for the call must say, but for jti and iat.
func (c Call) claims() (proofClaims, error) {
	u, err := target(c.URL)
	if err != nil || c.Method == "" {
		return proofClaims{}, fmt.Errorf("reading the call: %q %.100q is no method and absolute URL", c.Method, c.URL)
	}
	p := proofClaims{Method: c.Method, URL: u, Nonce: c.Nonce}
	if c.Token != "" {
		sum := sha256.Sum256([]byte(c.Token))
		p.Token = encoding.EncodeToString(sum[:])
	}
	if len(c.Body) > 0 {
		sum := sha256.Sum256(c.Body)
		p.Body = encoding.EncodeToString(sum[:])
	}
	return p, nil
}

// target brings a URL into the form in which two are compared (RFC 9449 section
// 4.3, RFC 3986 section 6.2): no query, no fragment, no default port.
func target(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return "", fmt.Errorf("reading %.100q: not an absolute URL", s)
	}
	scheme, host, path := strings.ToLower(u.Scheme), strings.ToLower(u.Host), u.EscapedPath()
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + path, nil
}
