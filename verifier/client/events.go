package client

import (
	"bufio"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// Limits of an event stream.
const (
	maxLine = 256 << 10        // bytes: an event is one signed line; what proves the token keys has more
	silence = 20 * time.Second // four heartbeats missed: nobody is there
)

// errSilent ends a stream that says nothing any more.
var errSilent = errors.New("nothing was heard for 20s")

// Events calls f with each signed event for a node (kind "revocation") and with what
// the log proves of new token keys (kind "keys", []rotation.Entry) until the stream
// ends, which it does when the token expires or is revoked. Connecting again is for
// the caller.
func (c *Client) Events(ctx context.Context, base string, key crypto.Signer, node string, f func(kind, data string)) error {
	r := call{method: http.MethodGet, path: "/v1/nodes/" + url.PathEscape(node) + "/events", base: base, key: key}
	return c.follow(ctx, r, func() {}, f)
}

// TokenKeys gets the domain's token keys and what proves them.
func (c *Client) TokenKeys(ctx context.Context) (*protocol.TokenKeys, error) {
	return exchange[protocol.TokenKeys](ctx, c, call{method: http.MethodGet, path: "/v1/public/keys"}, nil)
}

// StatusList gets the signed status list (Token Status List) at a path of the verifier.
func (c *Client) StatusList(ctx context.Context, path string) (string, error) {
	raw, err := c.do(ctx, call{method: http.MethodGet, path: path})
	return string(raw), err
}

// Introspect asks whether a token counts now (RFC 7662), of whichever domain it is.
func (c *Client) Introspect(ctx context.Context, tok string) (*protocol.Introspection, error) {
	form := url.Values{"token": {tok}}
	return exchange[protocol.Introspection](ctx, c, call{method: http.MethodPost, path: "/oauth2/introspect", media: "application/x-www-form-urlencoded", body: []byte(form.Encode())}, nil)
}

// Feed tells f of the events about all nodes, kind "revocation", first those said
// before; then, once, kind "since": the Unix second since when there were no
// others; and, first and when it changes, of what the log proves of the token keys,
// kind "keys". heard is called at each sign of life. It ends with the stream.
func (c *Client) Feed(ctx context.Context, heard func(), f func(kind, data string)) error {
	return c.follow(ctx, call{method: http.MethodGet, path: "/v1/events"}, heard, f)
}

func (c *Client) follow(ctx context.Context, r call, heard func(), f func(kind, data string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer alive.Stop()
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		_, err := c.read(resp, maxAnswer)
		return err
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != "text/event-stream" {
		return &Unreachable{URL: c.url, Status: resp.StatusCode, Err: fmt.Errorf("GET %s: expected text/event-stream, found %.80q", r.path, resp.Header.Get("Content-Type"))}
	}
	err = readEvents(resp.Body, func() { alive.Reset(silence); heard() }, f)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return &Unreachable{URL: c.url, Status: resp.StatusCode, Err: fmt.Errorf("GET %s: %w", r.path, err)}
	}
	return nil
}

// readEvents parses server-sent events (WHATWG HTML 9.2.6) and hands on the
// type and data of each. heard is called at every line.
func readEvents(body io.Reader, heard func(), f func(kind, data string)) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	var kind string
	var data []string
	size := 0
	for lines.Scan() {
		heard()
		line := lines.Text()
		if line == "" {
			if kind != "" && len(data) > 0 {
				f(kind, strings.Join(data, "\n"))
			}
			kind, data, size = "", nil, 0
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			kind = value
		case "data":
			if size += len(value) + 1; size > maxLine {
				return fmt.Errorf("an event has more than %d bytes", maxLine)
			}
			data = append(data, value)
		}
	}
	return lines.Err()
}
