// Package client talks to a verifier over HTTPS: the part of nodes, of those
// who provision them, and of operators.
//
// It believes one certificate authority, the domain's own, and only a leaf that
// names a verifier of that domain: a certificate that the same authority made
// for anything else is not a verifier. It follows no redirect, uses no proxy and
// reads no more than an answer may have.
//
// What a verifier refuses is a *[protocol.Refusal]. Every other error is an
// *[Unreachable]: no answer that counts was had, and another verifier may be
// asked.
package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/token"
)

// Limits of one call.
const (
	dialTime    = 5 * time.Second
	callTime    = 20 * time.Second // bulk and commits included
	maxAnswer   = 4 << 20          // bytes; bundles may have more
	maxHeaders  = 64 << 10
	idleStreams = 32
)

// Config says which verifier is called, and as whom.
type Config struct {
	Address  string           // https://host[:port]
	Pin      keys.Pin         // of the domain's TLS authority
	Domain   string           // whose verifier it must be; empty only in provisioning, before it is known
	Operator *tls.Certificate // nil: no operator
}

// Client calls one verifier. It is safe for concurrent use.
type Client struct {
	address string
	http    *http.Client
}

// Unreachable is a verifier that gave no answer that counts: it could not be
// reached, is not who it must be, is overloaded, or failed.
type Unreachable struct {
	Address string
	Status  int           // of the HTTP answer; 0: none
	Code    string        // problem type, if the answer had one
	After   time.Duration // when to try again; 0: not said
	Err     error
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("the verifier at %s gave no answer: %v", e.Address, e.Err)
}

func (e *Unreachable) Unwrap() error { return e.Err }

// New checks the configuration. Nothing is sent.
func New(cfg Config) (*Client, error) {
	u, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	if cfg.Pin == (keys.Pin{}) {
		return nil, fmt.Errorf("calling %s: no authority is pinned; it is in the join token, and in the operator's file", cfg.Address)
	}
	var client []tls.Certificate
	if cfg.Operator != nil {
		client = append(client, *cfg.Operator)
	}
	return &Client{address: u, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{ // the zero Proxy: none, whatever the environment says
			DialContext:            (&net.Dialer{Timeout: dialTime}).DialContext,
			TLSClientConfig:        keys.ClientTLS(cfg.Pin, cfg.Domain, time.Now, client...),
			TLSHandshakeTimeout:    dialTime,
			IdleConnTimeout:        90 * time.Second,
			MaxIdleConnsPerHost:    idleStreams,
			MaxResponseHeaderBytes: maxHeaders,
			DisableCompression:     true,
		},
	}}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Address is the verifier's, as it was given.
func (c *Client) Address() string { return c.address }

func parseAddress(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("reading verifier address %.200q: expected https://host[:port]", s)
	}
	return "https://" + u.Host, nil
}

// do sends one call and returns the body of an answer that is a yes.
func (c *Client) do(ctx context.Context, r call) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if r.seen != nil {
		*r.seen = *resp.TLS
	}
	return c.read(resp, max(r.limit, maxAnswer))
}

// call is one request.
type call struct {
	method, path string
	query        url.Values
	media        string // of body
	body         []byte
	limit        int64  // of the answer, if more than usual
	once         bool   // must not be sent twice by the transport
	base         string // token to prove possession for, "" for none
	key          crypto.Signer
	seen         *tls.ConnectionState // set to who answered
}

func (c *Client) send(ctx context.Context, r call) (*http.Response, error) {
	target := c.address + r.path
	full := target
	if len(r.query) > 0 {
		full += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, full, bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("calling %s: %w", full, err)
	}
	if r.media != "" {
		req.Header.Set("Content-Type", r.media)
	}
	if r.base != "" {
		proof, err := token.NewProof(token.Call{Method: r.method, URL: target, Token: r.base, Body: r.body}, r.key, time.Now(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("calling %s: %w", target, err)
		}
		req.Header.Set("Authorization", "DPoP "+r.base)
		req.Header.Set("DPoP", proof)
	} else if !r.once {
		req.Header["Idempotency-Key"] = nil // lets the transport repeat it on a fresh connection; not sent
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // its text would name the URL a second time
		}
		return nil, &Unreachable{Address: c.address, Err: fmt.Errorf("%s %s: %w", r.method, r.path, err)}
	}
	return resp, nil
}

// read returns the body of a yes, and everything else as an error.
func (c *Client) read(resp *http.Response, limit int64) ([]byte, error) {
	where := fmt.Sprintf("%s %s", resp.Request.Method, resp.Request.URL.Path)
	lost := &Unreachable{Address: c.address, Status: resp.StatusCode}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	if err != nil {
		lost.Err = fmt.Errorf("%s: reading the answer: %w", where, err)
		return nil, lost
	}
	if resp.StatusCode/100 == 2 {
		return body, nil
	}
	if refusal := lost.problem(resp, body); refusal != nil {
		return nil, refusal
	}
	lost.Err = fmt.Errorf("%s: %w", where, lost.Err)
	return nil, lost
}

// problem is RFC 9457 problem details as verifiers answer them.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	protocol.Outcome
}

// problem reads an answer that is a no. It returns the refusal, or completes e
// when the verifier did not decide.
func (e *Unreachable) problem(resp *http.Response, body []byte) *protocol.Refusal {
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 && s < 3600 {
		e.After = time.Duration(s) * time.Second
	}
	var p problem
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || media != "application/problem+json" || json.Unmarshal(body, &p) != nil || p.Type == "" {
		e.Err = fmt.Errorf("answered %s without saying why; is it a verifier?", resp.Status)
		return nil
	}
	e.Code = p.Type[strings.LastIndexByte(p.Type, '/')+1:]
	undecided := resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
	if undecided && e.Code != protocol.DomainFrozen { // a freeze is the domain's word, not this verifier's trouble
		e.Err = fmt.Errorf("answered %d %s: %s", resp.StatusCode, e.Code, p.Detail)
		return nil
	}
	r := &protocol.Refusal{Code: e.Code, Detail: p.Detail}
	if e.Code == protocol.PolicyDenied {
		r.Denied = &p.Outcome
	}
	return r
}

// exchange sends v as JSON, or nothing when it is nil, and decodes the answer
// into T.
func exchange[T any](ctx context.Context, c *Client, r call, v any) (*T, error) {
	if v != nil {
		body, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("calling %s%s: %w", c.address, r.path, err)
		}
		r.body, r.media = body, "application/json"
	}
	raw, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, &Unreachable{Address: c.address, Status: http.StatusOK, Err: fmt.Errorf("%s %s: reading the answer: %w", r.method, r.path, err)}
	}
	return out, nil
}
