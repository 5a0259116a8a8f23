// Package token makes and checks the legitimacy token: the signed word of one
// issuer that one node is legitimate for one audience until the token expires.
//
// Verify says yes only to what it was told to expect. It never asks a clock: the
// caller passes the time, and a keeper passes one that cannot be turned back.
// There is no leeway on exp; go-jose's own validation would add a minute and
// skip every claim that is absent, so it is not used.
//
// A token is bound to a key (cnf). Verify returns the binding; whoever takes a
// token over a network also asks for a proof by that key, CheckProof.
package token

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Bounds that hold for every token.
const (
	MaxSize = 16 << 10          // bytes
	MaxLife = 300 * time.Second // exp - iat

	skew = 2 * time.Second // how far in the future iat and nbf may lie
)

// The codes of refusals, stable across releases.
const (
	NoExpectation  = "token/no-expectation" // the caller did not say what it expects
	Oversize       = "token/oversize"
	Malformed      = "token/malformed"
	WrongType      = "token/type"
	WrongAlgorithm = "token/algorithm"
	UnknownKey     = "token/key"
	BadSignature   = "token/signature"
	DuplicateName  = "token/duplicate-name"
	WrongIssuer    = "token/issuer"
	WrongAudience  = "token/audience"
	WrongSubject   = "token/subject"
	WrongProfile   = "token/profile"
	Incomplete     = "token/incomplete" // a required claim is absent
	LifeTooLong    = "token/life"
	Expired        = "token/expired"
	NotYetValid    = "token/not-yet-valid"
	WrongNonce     = "token/nonce"
	WrongKey       = "token/confirmation"   // bound to another key
	NotLegitimate  = "token/not-legitimate" // a result that permits no work
	BadProof       = "token/proof"
	StaleEpoch     = "token/epoch" // of before an act that ended every token of the domain
	OtherBoot      = "token/boot"  // of a boot that is over
)

// An Error is a token refused. Code is one of those above.
type Error struct {
	Code   string
	Detail string
}

func (e *Error) Error() string { return e.Code + ": " + e.Detail }

func refuse(code, format string, args ...any) error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Code returns the code of a refusal, "" for any other error.
func Code(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// Expect is what a token must say. Issuer, Domain and Audience are required:
// the zero Expect accepts nothing.
type Expect struct {
	Issuer   string
	Domain   string // trust domain of the subject
	Audience string
	Nonce    string // eat_nonce; not checked if empty
	JKT      string // thumbprint of the key the token must be bound to; not checked if empty

	Epoch uint64  // the oldest that counts
	Boot  *uint32 // bootcount; not checked if nil
}

// Prepare returns the JWS signing input of a token that the key kid will sign.
// It refuses claims that Verify would, so an issuer learns it before it commits
// to them. The same claims give the same input: a retry signs the same token.
func Prepare(c Claims, kid string) (string, error) {
	input, err := prepare(c, kid)
	return string(input), err
}

func prepare(c Claims, kid string) ([]byte, error) {
	if c.Profile == "" {
		c.Profile = Profile2026
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("preparing a token: %w", err)
	}
	payload, err := c.marshal()
	if err != nil {
		panic("token: claims of plain values do not marshal: " + err.Error())
	}
	input := signingInput(tokenType, kid, payload)
	if n := len(input) + 1 + signatureSize; n > MaxSize {
		return nil, fmt.Errorf("preparing a token: %w", refuse(Oversize, "%d bytes, expected at most %d", n, MaxSize))
	}
	return input, nil
}

// Issue prepares and signs a token with a P-256 key.
func Issue(c Claims, key crypto.Signer, rand io.Reader) (string, error) {
	kid, err := Thumbprint(key.Public())
	if err != nil {
		return "", fmt.Errorf("issuing a token: %w", err)
	}
	input, err := prepare(c, kid)
	if err != nil {
		return "", err
	}
	return sign(rand, input, key)
}

// Verify returns the claims of a token that the issuer of keys signed, that says
// what is wanted, and that is valid at the given time. The error is an *Error.
func Verify(tok string, keys Keys, want Expect, at time.Time) (*Claims, error) {
	if want.Issuer == "" || want.Domain == "" || want.Audience == "" {
		return nil, refuse(NoExpectation, "issuer, domain and audience must be expected")
	}
	payload, err := open(tok, tokenType, keys)
	if err != nil {
		return nil, err
	}
	c, err := parseClaims(payload)
	if err != nil {
		return nil, err
	}
	if err := want.names(c.Issuer, c.Audience, c.Subject); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	switch now := at.Unix(); {
	case now >= c.Expires: // RFC 7519 4.1.4: on or after
		return nil, refuse(Expired, "it expired at %d, it is %d; ask for a new one", c.Expires, now)
	case at.Add(skew).Unix() < max(c.IssuedAt, c.NotBefore):
		return nil, refuse(NotYetValid, "it is valid from %d, it is %d; check the clocks", max(c.IssuedAt, c.NotBefore), now)
	case want.Nonce != "" && c.Nonce != want.Nonce:
		return nil, refuse(WrongNonce, "eat_nonce is not the one of this request")
	case want.JKT != "" && c.Confirm.JKT != want.JKT:
		return nil, refuse(WrongKey, "it is bound to key %.60q, expected %s", c.Confirm.JKT, want.JKT)
	case c.Writ.Epoch < want.Epoch:
		return nil, refuse(StaleEpoch, "it is of epoch %d, the domain is at %d; attest anew", c.Writ.Epoch, want.Epoch)
	case want.Boot != nil && c.BootCount != *want.Boot:
		return nil, refuse(OtherBoot, "it is of boot %d, the node is in boot %d; attest anew", c.BootCount, *want.Boot)
	}
	return c, nil
}

// names checks who speaks of whom to whom.
func (want *Expect) names(iss, aud, sub string) error {
	id, ok := strings.CutPrefix(sub, "spiffe://"+want.Domain+"/node/")
	switch {
	case iss != want.Issuer:
		return refuse(WrongIssuer, "iss is %.100q, expected %q", iss, want.Issuer)
	case aud != want.Audience:
		return refuse(WrongAudience, "aud is %.100q, expected %q", aud, want.Audience)
	case !ok || id == "" || strings.Contains(id, "/"):
		return refuse(WrongSubject, "sub is %.100q, expected a node of %s", sub, want.Domain)
	}
	return nil
}

// check holds for every token, whoever reads it and when.
func (c *Claims) check() error {
	w := &c.Writ
	switch {
	case c.Profile != Profile2026 && c.Profile != Profile2023:
		return refuse(WrongProfile, "eat_profile is %.100q, expected %q or %q", c.Profile, Profile2026, Profile2023)
	case c.Issuer == "" || c.Subject == "" || c.Audience == "" || c.ID == "":
		return refuse(Incomplete, "iss, sub, aud and jti are required")
	case c.IssuedAt <= 0 || c.NotBefore <= 0 || c.Expires <= 0:
		return refuse(Incomplete, "iat, nbf and exp are required")
	case c.Expires <= c.IssuedAt || c.Expires-c.IssuedAt > int64(MaxLife/time.Second):
		return refuse(LifeTooLong, "exp is %d s after iat, expected 1 to %d", c.Expires-c.IssuedAt, int64(MaxLife/time.Second))
	case len(c.Confirm.JKT)+len(c.Confirm.X5T) != 43 || len(c.Confirm.JKT) != 0 && len(c.Confirm.X5T) != 0:
		return refuse(Incomplete, "cnf with jkt or x5t#S256 is required: a token is bound to one key")
	case len(c.Nonce) != 43:
		return refuse(Incomplete, "eat_nonce of 32 bytes is required")
	case w.V != 1 || w.Seq == 0 || w.Log.Origin == "" || w.Level == "" || w.Key == "":
		return refuse(Incomplete, "writ with v 1, seq, level, key and log is required")
	case c.Verifier.Developer == "" || c.Verifier.Build == "" || len(c.Submods) == 0:
		return refuse(Incomplete, "ear_verifier_id and submods are required")
	case c.Status != affirming || (w.State != "synchronized" && w.State != "elevated-assurance"):
		return refuse(NotLegitimate, "ear_status is %.40q in state %.40q: no work may run", c.Status, w.State)
	}
	for label, s := range c.Submods {
		if s.Status == "" || len(s.Policies) == 0 {
			return refuse(Incomplete, "submod %.40q lacks ear_status or ear_appraisal_policy_ids", label)
		}
		if c.Profile == Profile2023 && len(s.Policies) > 1 {
			return refuse(WrongProfile, "submod %.40q has %d policies, this profile has room for one", label, len(s.Policies))
		}
	}
	return nil
}
