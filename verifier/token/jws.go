package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
)

const (
	algorithm     = "ES256" // the one alg: Kubernetes, SPIFFE and the clouds refuse EdDSA
	signatureSize = 86      // of 64 bytes in base64url
	maxHeader     = 1 << 10 // bytes that KeyID looks at
)

// Digest names a token by the SHA-256 of its JWS signing input; it takes the
// token or the signing input. A hash of the whole token would not do: ECDSA has
// many signatures for one message, and the ledger must name a token before it is
// signed.
func Digest(token string) [sha256.Size]byte {
	if strings.Count(token, ".") == 2 {
		token = token[:strings.LastIndexByte(token, '.')]
	}
	return sha256.Sum256([]byte(token))
}

// signingInput joins header and payload (RFC 7515 section 5.1), with room for
// the signature.
func signingInput(typ, kid string, payload []byte) []byte {
	header := `{"typ":"` + typ + `","alg":"` + algorithm + `","kid":"` + kid + `"}`
	b := make([]byte, 0, encoding.EncodedLen(len(header))+1+encoding.EncodedLen(len(payload))+1+signatureSize)
	b = encoding.AppendEncode(b, []byte(header))
	b = append(b, '.')
	return encoding.AppendEncode(b, payload)
}

// Sign completes a signing input with the P-256 key that its header names.
func Sign(rand io.Reader, input string, key crypto.Signer) (string, error) {
	return sign(rand, []byte(input), key)
}

func sign(rand io.Reader, input []byte, key crypto.Signer) (string, error) {
	sum := sha256.Sum256(input)
	der, err := key.Sign(rand, sum[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return "", errors.New("signing a token: the key gave no P-256 signature")
	}
	var raw [64]byte // RFC 7518 section 3.4: R and S, 32 bytes each
	sig.R.FillBytes(raw[:32])
	sig.S.FillBytes(raw[32:])
	return string(encoding.AppendEncode(append(input, '.'), raw[:])), nil
}

// open checks everything about a JWS but its claims and returns the payload.
// The order is RFC 8725's: nothing of the payload is read before the signature.
func open(tok, typ string, keys Keys) (payload string, err error) {
	return openUpTo(MaxSize, tok, typ, keys)
}

func openUpTo(size int, tok, typ string, keys Keys) (payload string, err error) {
	if len(tok) > size {
		return "", refuse(Oversize, "%d bytes, expected at most %d", len(tok), size)
	}
	parts := strings.Split(tok, ".")
	if len(parts) != 3 {
		return "", refuse(Malformed, "%d parts, expected 3", len(parts))
	}
	header, err := encoding.DecodeString(parts[0])
	if err != nil {
		return "", refuse(Malformed, "the header is not base64url")
	}
	kid, err := readHeader(string(header), typ)
	if err != nil {
		return "", err
	}
	key := keys.byID[kid]
	if key == nil {
		return "", refuse(UnknownKey, "key %.60q is none of this issuer's", kid)
	}
	if !verify(key, parts[0]+"."+parts[1], parts[2]) {
		return "", refuse(BadSignature, "the signature is not by key %s over this token", kid)
	}
	b, err := encoding.DecodeString(parts[1])
	if err != nil {
		return "", refuse(Malformed, "the payload is not base64url")
	}
	return string(b), nil
}

// Peek returns the claims of a token whose signature is not checked. They say whom to
// ask about it, and count for nothing before that.
func Peek(tok string) (*Claims, error) {
	parts := strings.Split(tok, ".")
	if len(tok) > MaxSize || len(parts) != 3 {
		return nil, refuse(Malformed, "%d bytes in %d parts, expected 3 of at most %d together", len(tok), len(parts), MaxSize)
	}
	b, err := encoding.DecodeString(parts[1])
	if err != nil {
		return nil, refuse(Malformed, "the payload is not base64url")
	}
	return parseClaims(string(b))
}

// KeyID is the kid that a token or an event names, "" if it has none. It is not
// verified: it says which key to ask for, nothing more.
func KeyID(tok string) string {
	header, _, _ := strings.Cut(tok, ".")
	b, err := encoding.DecodeString(header)
	if err != nil || len(b) > maxHeader {
		return ""
	}
	var h struct {
		KID string `json:"kid"`
	}
	if json.Unmarshal(b, &h) != nil {
		return ""
	}
	return h.KID
}

// readHeader reads a header of exactly typ, alg and kid. A header that says
// more asks for something, such as a key of its own (jwk, jku, x5c) or another
// reading of the payload (crit, b64, zip), and gets it from nobody here.
func readHeader(s, typ string) (kid string, err error) {
	var h struct{ typ, alg string }
	r := &reader{s: s}
	r.object(func(name string) {
		switch name {
		case "typ":
			h.typ = r.string()
		case "alg":
			h.alg = r.string()
		case "kid":
			kid = r.string()
		default:
			r.fail(Malformed, "the header has %.40q, expected only typ, alg and kid", name)
		}
	})
	switch err := r.end(); {
	case err != nil:
		return "", err
	case h.typ != typ:
		return "", refuse(WrongType, "typ is %.40q, expected %q", h.typ, typ)
	case h.alg != algorithm:
		return "", refuse(WrongAlgorithm, "alg is %.40q, expected %q", h.alg, algorithm)
	}
	return kid, nil
}

// verify checks an ES256 signature (RFC 7518 section 3.4).
func verify(key *ecdsa.PublicKey, input, signature string) bool {
	if len(signature) != signatureSize {
		return false
	}
	raw, err := encoding.DecodeString(signature)
	if err != nil || len(raw) != 64 {
		return false
	}
	sum := sha256.Sum256([]byte(input))
	return ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:]))
}
