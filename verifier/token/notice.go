package token

import (
	"crypto"
	"encoding/json"
	"fmt"
	"io"
)

// Types of the events of a [Notice]: CAEP 1.0 and the verification event of SSF 1.0.
const (
	SessionRevoked   = sessionRevoked
	ComplianceChange = "https://schemas.openid.net/secevent/caep/event-type/device-compliance-change"
	Verification     = "https://schemas.openid.net/secevent/ssf/event-type/verification"
)

// Notice is a security event token (RFC 8417) for a party outside of the domain, with
// one event. Unlike an [Event] it ends nothing here: it has another audience.
type Notice struct {
	Issuer   string
	Audience string
	ID       string // jti
	IssuedAt int64  // Unix seconds
	Subject  string // URI of whom it is about; of a verification, the stream's id
	Type     string
	At       int64  // when it happened
	By       string // admin, user, policy or system
	Reason   string // for administrators
	Seq      uint64 // session-revoked: tokens of the subject up to this one are over
	Epoch    uint64 // and of the whole domain, those of an earlier epoch
	Cause    string

	Compliant bool   // device-compliance-change: now; before, the other
	State     string // verification: what was asked for
}

// IssueNotice signs a notice with a P-256 key of the issuer.
func IssueNotice(n Notice, key crypto.Signer, rand io.Reader) (string, error) {
	if n.Issuer == "" || n.Audience == "" || n.ID == "" || n.IssuedAt <= 0 || n.Subject == "" || n.Type == "" {
		return "", fmt.Errorf("issuing a notice: %w", refuse(Incomplete, "iss, aud, jti, iat, sub_id and events are required"))
	}
	kid, err := Thumbprint(key.Public())
	if err != nil {
		return "", fmt.Errorf("issuing a notice: %w", err)
	}
	payload, err := json.Marshal(map[string]any{
		"iss": n.Issuer, "aud": n.Audience, "jti": n.ID, "iat": n.IssuedAt, "sub_id": n.subject(), "events": map[string]any{n.Type: n.event()},
	})
	if err != nil {
		panic("token: a notice of plain values does not marshal: " + err.Error())
	}
	return sign(rand, signingInput(eventType, kid, payload), key)
}

func (n *Notice) subject() map[string]string {
	if n.Type == Verification {
		return map[string]string{"format": "opaque", "id": n.Subject} // SSF 1.0 section 8.1.4
	}
	return map[string]string{"format": "uri", "uri": n.Subject}
}

// event is the payload of the event, in the words of its specification.
func (n *Notice) event() map[string]any {
	if n.Type == Verification {
		if n.State == "" {
			return map[string]any{}
		}
		return map[string]any{"state": n.State}
	}
	e := map[string]any{"event_timestamp": n.At, "initiating_entity": n.By, "reason_admin": map[string]string{"en": n.Reason}}
	switch n.Type {
	case ComplianceChange:
		e["previous_status"], e["current_status"] = "compliant", "not-compliant"
		if n.Compliant {
			e["previous_status"], e["current_status"] = "not-compliant", "compliant"
		}
	case SessionRevoked:
		e["writ"] = map[string]any{"seq": n.Seq, "epoch": n.Epoch, "cause": n.Cause}
	}
	return e
}
