package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// agent asks the node's agent on its socket.
type agent struct{ http *http.Client }

func newAgent(socket string) *agent {
	return &agent{&http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}}
}

func (a *agent) ask(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return json.Unmarshal(raw, out)
	}
	var p struct{ Title, Detail string }
	if err := json.Unmarshal(raw, &p); err != nil {
		return fmt.Errorf("asking the agent: %s", resp.Status)
	}
	if resp.StatusCode == http.StatusForbidden {
		return &protocol.Refusal{Code: p.Title, Detail: p.Detail}
	}
	return fmt.Errorf("asking the agent: %s: %s", p.Title, p.Detail)
}

// whoami is the domain and the id of the node.
func (a *agent) whoami(ctx context.Context) (domain, node string, err error) {
	var s struct{ Domain, Node string }
	err = a.ask(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s.Domain, s.Node, err
}

func (a *agent) Bearer(ctx context.Context, audience, workload string) (*protocol.Exchanged, error) {
	out := new(protocol.Exchanged)
	return out, a.ask(ctx, http.MethodGet, "/v1/bearer?"+url.Values{"audience": {audience}, "workload": {workload}}.Encode(), nil, out)
}

func (a *agent) SVID(ctx context.Context, req protocol.SVIDRequest) (*protocol.SVID, error) {
	out := new(protocol.SVID)
	return out, a.ask(ctx, http.MethodPost, "/v1/svid", req, out)
}

func (a *agent) SPIFFEBundle(ctx context.Context) ([]byte, error) {
	var out json.RawMessage
	err := a.ask(ctx, http.MethodGet, "/v1/spiffe-bundle", nil, &out)
	return out, err
}
