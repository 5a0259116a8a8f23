package token

import (
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	eventType      = "secevent+jwt" // RFC 8417 section 2.3
	sessionRevoked = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
)

// Event ends a node's legitimacy: every token of Subject whose seq is at most
// Seq is dead from the moment the event is seen, also one that is seen later.
// It is a security event token (RFC 8417) with the session-revoked event of CAEP.
// It has no sub and no exp, so that it can never pass for a token.
type Event struct {
	Issuer   string
	Subject  string // spiffe://<domain>/node/<id>, or spiffe://<domain> for all of them
	Audience string
	ID       string // jti
	IssuedAt int64  // Unix seconds
	Seq      uint64
	Epoch    uint64
	Cause    string // stable code of what ended it
	Reason   string // for people
}

// Ends reports whether the event ends the token with these claims: about a node,
// its tokens up to a sequence number; about a domain, all of an earlier epoch.
func (e *Event) Ends(c *Claims) bool {
	switch {
	case c.Issuer != e.Issuer:
		return false
	case c.Subject == e.Subject:
		return c.Writ.Seq <= e.Seq
	}
	return strings.HasPrefix(c.Subject, e.Subject+"/node/") && c.Writ.Epoch < e.Epoch
}

// eventClaims is an Event as it is written.
type eventClaims struct {
	Issuer   string `json:"iss"`
	ID       string `json:"jti"`
	IssuedAt int64  `json:"iat"`
	Audience string `json:"aud"`
	Subject  struct {
		Format string `json:"format"` // RFC 9493 3.2.7
		URI    string `json:"uri"`
	} `json:"sub_id"`
	Events struct {
		Revoked revocation `json:"https://schemas.openid.net/secevent/caep/event-type/session-revoked"`
	} `json:"events"`
}

type revocation struct {
	Timestamp int64 `json:"event_timestamp"`
	Reason    struct {
		English string `json:"en"`
	} `json:"reason_admin"`
	Writ struct {
		Seq   uint64 `json:"seq"`
		Epoch uint64 `json:"epoch"`
		Cause string `json:"cause"`
	} `json:"writ"`
}

// IssueEvent signs an event with a P-256 key of the issuer.
func IssueEvent(e Event, key crypto.Signer, rand io.Reader) (string, error) {
	if err := e.check(); err != nil {
		return "", fmt.Errorf("issuing an event: %w", err)
	}
	kid, err := Thumbprint(key.Public())
	if err != nil {
		return "", fmt.Errorf("issuing an event: %w", err)
	}
	c := eventClaims{Issuer: e.Issuer, ID: e.ID, IssuedAt: e.IssuedAt, Audience: e.Audience}
	c.Subject.Format, c.Subject.URI = "uri", e.Subject
	r := &c.Events.Revoked
	r.Timestamp, r.Reason.English = e.IssuedAt, e.Reason
	r.Writ.Seq, r.Writ.Epoch, r.Writ.Cause = e.Seq, e.Epoch, e.Cause
	payload, err := json.Marshal(&c)
	if err != nil {
		panic("token: an event of plain values does not marshal: " + err.Error())
	}
	return sign(rand, signingInput(eventType, kid, payload), key)
}

func (e *Event) check() error {
	if e.Issuer == "" || e.Subject == "" || e.Audience == "" || e.ID == "" || e.IssuedAt <= 0 || e.Cause == "" {
		return refuse(Incomplete, "iss, sub_id, aud, jti, iat and cause are required")
	}
	return nil
}

// VerifyEvent returns an event that the issuer of keys signed and that says what
// is wanted. An old event is as good as a new one: it can only end work. The
// error is an *Error.
func VerifyEvent(set string, keys Keys, want Expect, at time.Time) (*Event, error) {
	if want.Issuer == "" || want.Domain == "" || want.Audience == "" {
		return nil, refuse(NoExpectation, "issuer, domain and audience must be expected")
	}
	payload, err := open(set, eventType, keys)
	if err != nil {
		return nil, err
	}
	e, err := parseEvent(payload)
	if err != nil {
		return nil, err
	}
	subject := e.Subject
	if subject == "spiffe://"+want.Domain {
		subject += "/node/all"
	}
	if err := want.names(e.Issuer, e.Audience, subject); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	if at.Add(skew).Unix() < e.IssuedAt {
		return nil, refuse(NotYetValid, "it was issued at %d, it is %d; check the clocks", e.IssuedAt, at.Unix())
	}
	return e, nil
}

func parseEvent(s string) (*Event, error) {
	r := &reader{s: s}
	e := new(Event)
	var format string
	revoked := false
	r.object(func(name string) {
		switch name {
		case "iss":
			e.Issuer = r.string()
		case "jti":
			e.ID = r.string()
		case "iat":
			e.IssuedAt = r.int(64)
		case "aud":
			e.Audience = r.string()
		case "sub_id":
			r.object(func(name string) {
				switch name {
				case "format":
					format = r.string()
				case "uri":
					e.Subject = r.string()
				default:
					r.skip()
				}
			})
		case "events":
			r.object(func(name string) {
				if name != sessionRevoked {
					r.skip()
					return
				}
				revoked = true
				e.readRevocation(r)
			})
		case "sub", "exp": // RFC 8417 2.2: or it could pass for a token
			r.fail(Malformed, "an event has %s", name)
		default:
			r.skip()
		}
	})
	if err := r.end(); err != nil {
		return nil, err
	}
	if format != "uri" || !revoked {
		return nil, refuse(Incomplete, "expected a session-revoked event with a sub_id of format uri")
	}
	return e, nil
}

func (e *Event) readRevocation(r *reader) {
	r.object(func(name string) {
		switch name {
		case "reason_admin":
			r.object(func(language string) {
				if language == "en" {
					e.Reason = r.string()
					return
				}
				r.skip()
			})
		case "writ":
			r.object(func(name string) {
				switch name {
				case "seq":
					e.Seq = r.uint(64)
				case "epoch":
					e.Epoch = r.uint(64)
				case "cause":
					e.Cause = r.string()
				default:
					r.skip()
				}
			})
		default:
			r.skip()
		}
	})
}
