package token

import (
	"crypto"
	"encoding/json"
	"fmt"
	"io"
)

// Bearer is a token that whoever has it may use: no key is bound to it. It is a
// JWT-SVID (SPIFFE) and what clouds take as an OIDC token, of typ JWT, so that it can
// never pass for a legitimacy token. Times are Unix seconds.
type Bearer struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"` // spiffe://<domain>/node/<id>
	Audience  string `json:"aud"` // exactly one
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
	ID        string `json:"jti"`
	Status    string `json:"ear_status"`
}

// IssueBearer signs a bearer token with a P-256 key of the issuer.
func IssueBearer(b Bearer, key crypto.Signer, rand io.Reader) (string, error) {
	if b.Issuer == "" || b.Subject == "" || b.Audience == "" || b.ID == "" || b.IssuedAt <= 0 || b.Expires <= b.IssuedAt {
		return "", fmt.Errorf("issuing a bearer token: %w", refuse(Incomplete, "iss, sub, aud, jti, iat and a later exp are required"))
	}
	kid, err := Thumbprint(key.Public())
	if err != nil {
		return "", fmt.Errorf("issuing a bearer token: %w", err)
	}
	payload, err := json.Marshal(&b)
	if err != nil {
		panic("token: a bearer token of plain values does not marshal: " + err.Error())
	}
	return sign(rand, signingInput("JWT", kid, payload), key)
}

// Authority signs X509-SVIDs: a P-256 key and its own certificate in DER.
type Authority struct {
	Key         crypto.PublicKey
	Certificate []byte
}

// MarshalBundle writes the set as a SPIFFE bundle whose keys sign JWT-SVIDs, with
// authorities of X509-SVIDs. sequence is greater for a newer bundle; hint is after
// how many seconds to look for one.
func (k Keys) MarshalBundle(sequence uint64, hint int, authorities ...Authority) []byte {
	type entry struct {
		Kty string   `json:"kty"`
		Crv string   `json:"crv"`
		X   string   `json:"x"`
		Y   string   `json:"y"`
		Kid string   `json:"kid,omitempty"`
		Use string   `json:"use"`
		X5c [][]byte `json:"x5c,omitempty"` // encoding/json gives the base64 that RFC 7517 section 4.7 wants
	}
	set := struct {
		Keys     []entry `json:"keys"`
		Sequence uint64  `json:"spiffe_sequence"`
		Hint     int     `json:"spiffe_refresh_hint"`
	}{[]entry{}, sequence, hint}
	for _, a := range authorities {
		x, y, err := point(a.Key)
		if err != nil {
			panic("token: an authority's key is not P-256: " + err.Error())
		}
		set.Keys = append(set.Keys, entry{Kty: "EC", Crv: "P-256", X: x, Y: y, Use: "x509-svid", X5c: [][]byte{a.Certificate}})
	}
	for _, id := range k.ids {
		x, y, err := point(k.byID[id])
		if err != nil {
			panic("token: a key of a key set has no point: " + err.Error())
		}
		set.Keys = append(set.Keys, entry{Kty: "EC", Crv: "P-256", X: x, Y: y, Kid: id, Use: "jwt-svid"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic("token: a bundle of strings does not marshal: " + err.Error())
	}
	return b
}
