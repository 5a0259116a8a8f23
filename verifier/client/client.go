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
	dialTime   = 5 * time.Second
	callTime   = 20 * time.Second // bulk and commits included
	maxAnswer  = 4 << 20          // bytes; bundles may have more
	maxHeaders = 64 << 10
	idleConns  = 64
)

// Config says which verifier is called, and as whom.
type Config struct {
	URL      string         // https://host[:port]
	CA       []byte         // PEM of the authority of the domain's verifiers
	Domain   string         // whose verifier it must be
	Operator *keys.Identity // instead of CA and Domain: call as this operator
}

// Client calls one verifier. It is safe for concurrent use.
type Client struct {
	url    string
	domain string
	ca     []byte
	http   *http.Client
}

// ErrUnreachable is what every [Unreachable] is.
var ErrUnreachable = errors.New("no answer from the verifier")

// Unreachable is a verifier that gave no answer that counts: it could not be
// reached, is not who it must be, is overloaded, or failed.
type Unreachable struct {
	URL    string
	Status int           // of the HTTP answer; 0: none
	Code   string        // problem type, if the answer had one
	After  time.Duration // when to try again; 0: not said
	Err    error
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("no answer from the verifier at %s: %v", e.URL, e.Err)
}

// Is makes errors.Is find ErrUnreachable.
func (e *Unreachable) Is(target error) bool { return target == ErrUnreachable }

func (e *Unreachable) Unwrap() error { return e.Err }

// New checks the configuration. Nothing is sent.
func New(cfg Config) (*Client, error) {
	if id := cfg.Operator; id != nil {
		return newClient(cfg.URL, id.Pin, id.Domain, id.Certificate)
	}
	pin, err := keys.PinOf(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("calling %s: %w", cfg.URL, err)
	}
	c, err := newClient(cfg.URL, pin, cfg.Domain)
	if err == nil {
		c.ca = cfg.CA
	}
	return c, err
}

// Join makes the client that a machine is provisioned with, which knows nothing
// but a join token: it connects once to see that the verifier answers with the
// authority the token pins, and learns authority and domain.
func Join(ctx context.Context, url, joinToken string) (*Client, error) {
	t, err := keys.ParseJoinToken(joinToken)
	if err != nil {
		return nil, err
	}
	target, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	host := target.Host
	if target.Port() == "" {
		host = net.JoinHostPort(target.Hostname(), "443")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*dialTime)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTime}, Config: keys.ClientTLS(t.CA, "", time.Now)}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, &Unreachable{URL: url, Err: err}
	}
	defer conn.Close()
	seen := conn.(*tls.Conn).ConnectionState()
	c, err := newClient(url, t.CA, seen.PeerCertificates[0].URIs[0].Host)
	if err == nil {
		c.ca = keys.PinnedCA(&seen)
	}
	return c, err
}

func newClient(url string, pin keys.Pin, domain string, as ...tls.Certificate) (*Client, error) {
	u, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if domain == "" {
		return nil, fmt.Errorf("calling %s: no domain is given whose verifier it must be", url)
	}
	return &Client{url: "https://" + u.Host, domain: domain, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     transport(keys.ClientTLS(pin, domain, time.Now, as...)),
	}}, nil
}

func transport(conf *tls.Config) *http.Transport {
	return &http.Transport{ // the zero Proxy: none, whatever the environment says
		DialContext:            (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    dialTime,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    idleConns,
		MaxResponseHeaderBytes: maxHeaders,
		DisableCompression:     true,
	}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// URL is the verifier's.
func (c *Client) URL() string { return c.url }

// CA is the pinned authority in PEM, nil for an operator's client.
func (c *Client) CA() []byte { return c.ca }

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("reading the verifier's URL %.200q: expected https://host[:port]", s)
	}
	return u, nil
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
}

func (c *Client) send(ctx context.Context, r call) (*http.Response, error) {
	target := c.url + r.path
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
		return nil, &Unreachable{URL: c.url, Err: fmt.Errorf("%s %s: %w", r.method, r.path, err)}
	}
	return resp, nil
}

// read returns the body of a yes, and everything else as an error.
func (c *Client) read(resp *http.Response, limit int64) ([]byte, error) {
	where := fmt.Sprintf("%s %s", resp.Request.Method, resp.Request.URL.Path)
	lost := &Unreachable{URL: c.url, Status: resp.StatusCode}
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
			return nil, fmt.Errorf("calling %s%s: %w", c.url, r.path, err)
		}
		r.body, r.media = body, "application/json"
	}
	raw, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, &Unreachable{URL: c.url, Status: http.StatusOK, Err: fmt.Errorf("%s %s: reading the answer: %w", r.method, r.path, err)}
	}
	return out, nil
}
