package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// mediaEvidence is the type of evidence with the type of its collection
// (RFC 9999).
const mediaEvidence = evidence.MediaType + `; cmwc_t="` + evidence.CollectionType + `"`

// Enroll asks to enrol a TPM.
func (c *Client) Enroll(ctx context.Context, req protocol.EnrollRequest) (*protocol.EnrollChallenge, error) {
	return exchange[protocol.EnrollChallenge](ctx, c, call{method: http.MethodPost, path: "/v1/enrollments"}, req)
}

// Activate answers an enrolment's challenge. It is good for one try.
func (c *Client) Activate(ctx context.Context, id string, a protocol.Activation) (*protocol.Enrolled, error) {
	return exchange[protocol.Enrolled](ctx, c, call{method: http.MethodPost, path: "/v1/enrollments/" + url.PathEscape(id) + "/activation", once: true}, a)
}

// Challenge asks for a nonce.
func (c *Client) Challenge(ctx context.Context, req protocol.ChallengeRequest) (*protocol.Challenge, error) {
	return exchange[protocol.Challenge](ctx, c, call{method: http.MethodPost, path: "/v1/challenges"}, req)
}

// Attest sends evidence. A denial is a *protocol.Refusal with its Outcome.
func (c *Client) Attest(ctx context.Context, evidence []byte) (*protocol.Outcome, error) {
	return exchange[protocol.Outcome](ctx, c, call{method: http.MethodPost, path: "/v1/attestations", media: mediaEvidence, body: evidence}, nil)
}

// Token asks for a further token on the strength of a base token and its key.
func (c *Client) Token(ctx context.Context, base string, key crypto.Signer, req evidence.Request) (*protocol.Grant, error) {
	return exchange[protocol.Grant](ctx, c, call{method: http.MethodPost, path: "/v1/tokens", media: "application/json", body: req.Marshal(), base: base, key: key}, nil)
}

// Bound is Token over a connection of its own, with a client certificate that the token
// is bound to.
func (c *Client) Bound(ctx context.Context, base string, key crypto.Signer, req evidence.Request, cert tls.Certificate) (*protocol.Grant, error) {
	pin, err := keys.PinOf(c.ca)
	if err != nil {
		return nil, fmt.Errorf("calling %s: %w", c.url, err)
	}
	conf := keys.ClientTLS(pin, c.domain, time.Now)
	// Shown whatever authorities the verifier asks for: its own issuer is the certificate.
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	shown := &Client{url: c.url, domain: c.domain, http: &http.Client{CheckRedirect: c.http.CheckRedirect, Transport: transport(conf)}}
	defer shown.Close()
	return shown.Token(ctx, base, key, req)
}

// SVID asks for an X509-SVID.
func (c *Client) SVID(ctx context.Context, base string, key crypto.Signer, req protocol.SVIDRequest) (*protocol.SVID, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("asking for an X509-SVID: %w", err)
	}
	return exchange[protocol.SVID](ctx, c, call{method: http.MethodPost, path: "/v1/svids", media: "application/json", body: body, base: base, key: key}, nil)
}

// SPIFFEBundle gets the SPIFFE bundle of the domain.
func (c *Client) SPIFFEBundle(ctx context.Context) ([]byte, error) {
	return c.do(ctx, call{method: http.MethodGet, path: "/spiffe/bundle.json"})
}

// Exchange asks for a bearer token for an audience (RFC 8693), of a workload that the
// node may vouch for, or "" for itself.
func (c *Client) Exchange(ctx context.Context, base string, key crypto.Signer, audience, workload string) (*protocol.Exchanged, error) {
	form := url.Values{"grant_type": {protocol.GrantExchange}, "subject_token": {base}, "subject_token_type": {protocol.TypeJWT}, "audience": {audience}}
	if workload != "" {
		form.Set("workload", workload)
	}
	return exchange[protocol.Exchanged](ctx, c, call{method: http.MethodPost, path: "/oauth2/token", media: "application/x-www-form-urlencoded", body: []byte(form.Encode()), base: base, key: key}, nil)
}

// Stopped reports the end of an execution.
func (c *Client) Stopped(ctx context.Context, base string, key crypto.Signer, stop bundle.Stop) (*protocol.Stopped, error) {
	return exchange[protocol.Stopped](ctx, c, call{method: http.MethodPost, path: "/v1/stops", base: base, key: key}, stop)
}

// Domain gets the domain's trust file, on the word of the pinned verifier.
func (c *Client) Domain(ctx context.Context) (*bundle.Trust, error) {
	raw, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/domain"})
	if err != nil {
		return nil, err
	}
	t, err := bundle.ParseTrust(raw)
	if err == nil && t.Domain != c.domain {
		err = fmt.Errorf("a verifier of %s answers for %s", c.domain, t.Domain)
	}
	if err != nil {
		return nil, &Unreachable{URL: c.url, Status: http.StatusOK, Err: fmt.Errorf("GET /v1/domain: %w", err)}
	}
	return t, nil
}
