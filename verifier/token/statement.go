package token

import (
	"crypto"
	"fmt"
	"io"
)

const statementType = "writ-statement+jws"

// SignStatement signs a payload with a P-256 key that the JWS brings along. What
// it says is worth what is known of that key: a keeper's is named, by its
// thumbprint, in the log entry of every token the keeper asked for.
func SignStatement(payload []byte, key crypto.Signer, rand io.Reader) (string, error) {
	jwk, err := MarshalJWK(key.Public())
	if err != nil {
		return "", fmt.Errorf("signing a statement: %w", err)
	}
	return Sign(rand, selfInput(statementType, jwk, payload), key)
}

// OpenStatement returns what a statement says and the thumbprint of the key it
// is signed with. The error is an *Error.
func OpenStatement(statement string) (jkt string, payload []byte, err error) {
	if len(statement) > MaxSize {
		return "", nil, refuse(Oversize, "%d bytes, expected at most %d", len(statement), MaxSize)
	}
	jkt, text, err := openSelf(statement, statementType)
	return jkt, []byte(text), err
}

// selfInput is the signing input of a JWS that brings its key along.
func selfInput(typ string, jwk, payload []byte) string {
	header := `{"typ":"` + typ + `","alg":"` + algorithm + `","jwk":` + string(jwk) + `}`
	return encoding.EncodeToString([]byte(header)) + "." + encoding.EncodeToString(payload)
}
