package keys

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// JoinToken lets one node enrol, and tells it by which CA to know the verifier:
//
//	writ-join-1.<SHA-256 of the CA, hexadecimal>.<id, 16 hexadecimal digits>.<secret, 43 characters>
type JoinToken struct {
	CA Pin
	ID string // public

	secret [32]byte
}

const joinPrefix = "writ-join-1"

var secretEncoding = base64.RawURLEncoding.Strict()

// NewJoinToken draws a join token.
func NewJoinToken(rand io.Reader, ca Pin) (JoinToken, error) {
	t := JoinToken{CA: ca}
	var id [8]byte
	for _, b := range [][]byte{id[:], t.secret[:]} {
		if _, err := io.ReadFull(rand, b); err != nil {
			return JoinToken{}, fmt.Errorf("drawing a join token: %w", err)
		}
	}
	t.ID = hex.EncodeToString(id[:])
	return t, nil
}

// ParseJoinToken reads a join token, with white space around it as files have.
func ParseJoinToken(s string) (JoinToken, error) {
	malformed := errors.New("reading the join token: expected " + joinPrefix + ".<CA>.<id>.<secret>; was it copied whole?")
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) != 4 || parts[0] != joinPrefix {
		return JoinToken{}, malformed
	}
	ca, errCA := hex.DecodeString(parts[1])
	id, errID := hex.DecodeString(parts[2])
	secret, err := secretEncoding.DecodeString(parts[3])
	if errCA != nil || errID != nil || err != nil || len(ca) != 32 || len(id) != 8 || len(secret) != 32 {
		return JoinToken{}, malformed
	}
	t := JoinToken{CA: Pin(ca), ID: parts[2], secret: [32]byte(secret)}
	if t.String() != strings.TrimSpace(s) {
		return JoinToken{}, malformed
	}
	return t, nil
}

// String is the token with its secret: to be shown once, to whom it is for.
func (t JoinToken) String() string {
	return strings.Join([]string{joinPrefix, hex.EncodeToString(t.CA[:]), t.ID, secretEncoding.EncodeToString(t.secret[:])}, ".")
}

// Hash is what the verifier keeps. The secret has 256 random bits, so there is
// nothing to guess and no salt is needed.
func (t JoinToken) Hash() [sha256.Size]byte {
	return sha256.Sum256([]byte(joinPrefix + "." + t.ID + "." + string(t.secret[:])))
}

// LogValue keeps the secret out of logs.
func (t JoinToken) LogValue() slog.Value { return slog.StringValue("join-token/" + t.ID) }
