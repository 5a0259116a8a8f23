package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/protocol"
)

func get(path string, query url.Values) call {
	return call{method: http.MethodGet, path: path, query: query}
}

// act is a call that changes something: it is not repeated behind the caller's
// back.
func act(method, path string) call { return call{method: method, path: path, once: true} }

func nodePath(id string) string { return "/v1/nodes/" + url.PathEscape(id) }

// Nodes lists nodes by id, starting after one; limit 0 leaves it to the
// verifier.
func (c *Client) Nodes(ctx context.Context, after string, limit int) (*protocol.Nodes, error) {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return exchange[protocol.Nodes](ctx, c, get("/v1/nodes", q), nil)
}

// Node returns one node.
func (c *Client) Node(ctx context.Context, id string) (*protocol.Node, error) {
	return exchange[protocol.Node](ctx, c, get(nodePath(id), nil), nil)
}

// SetStatus approves, suspends, revokes or retires a node.
func (c *Client) SetStatus(ctx context.Context, id string, change protocol.StatusChange) (*protocol.Node, error) {
	return exchange[protocol.Node](ctx, c, act(http.MethodPost, nodePath(id)+"/status"), change)
}

// Bundle returns the bytes of a decision's bundle; index < 0 is the latest.
func (c *Client) Bundle(ctx context.Context, node string, index int64) ([]byte, error) {
	r := get(nodePath(node)+"/bundle", nil)
	if index >= 0 {
		r.query = url.Values{"index": {strconv.FormatInt(index, 10)}}
	}
	r.limit = bundle.MaxSize
	return c.do(ctx, r)
}

// Publish submits a signed reference set (a DSSE envelope), which is also this
// operator's agreement to it.
func (c *Client) Publish(ctx context.Context, envelope []byte) (*protocol.Published, error) {
	r := act(http.MethodPost, "/v1/references")
	r.media, r.body = "application/json", envelope
	return exchange[protocol.Published](ctx, c, r, nil)
}

// References lists the reference sets in force.
func (c *Client) References(ctx context.Context) ([]protocol.Published, error) {
	out, err := exchange[protocol.References](ctx, c, get("/v1/references", nil), nil)
	if err != nil {
		return nil, err
	}
	return out.References, nil
}

// MintJoinToken makes a join token; the answer shows it this one time.
func (c *Client) MintJoinToken(ctx context.Context, req protocol.NewJoinToken) (*protocol.JoinToken, error) {
	return exchange[protocol.JoinToken](ctx, c, act(http.MethodPost, "/v1/join-tokens"), req)
}

// JoinTokens lists join tokens.
func (c *Client) JoinTokens(ctx context.Context) ([]protocol.JoinToken, error) {
	out, err := exchange[protocol.JoinTokens](ctx, c, get("/v1/join-tokens", nil), nil)
	if err != nil {
		return nil, err
	}
	return out.JoinTokens, nil
}

// RevokeJoinToken ends a join token.
func (c *Client) RevokeJoinToken(ctx context.Context, id string) error {
	_, err := c.do(ctx, act(http.MethodDelete, "/v1/join-tokens/"+url.PathEscape(id)))
	return err
}

// Governance says whether the domain is frozen.
func (c *Client) Governance(ctx context.Context) (*protocol.Governance, error) {
	return exchange[protocol.Governance](ctx, c, get("/v1/freeze", nil), nil)
}

// Freeze freezes the domain, or agrees to lifting the freeze.
func (c *Client) Freeze(ctx context.Context, change protocol.GovernanceChange) (*protocol.Governance, error) {
	return exchange[protocol.Governance](ctx, c, act(http.MethodPost, "/v1/freeze"), change)
}

// Admit is this operator's agreement to a further verifier.
func (c *Client) Admit(ctx context.Context, v protocol.NewVerifier) (*protocol.Admission, error) {
	return exchange[protocol.Admission](ctx, c, act(http.MethodPost, "/v1/verifiers"), v)
}

// Recognize asks for another domain to be recognised, which is also this operator's
// agreement to it.
func (c *Client) Recognize(ctx context.Context, p protocol.NewPeer) (*protocol.PeerChange, error) {
	return exchange[protocol.PeerChange](ctx, c, act(http.MethodPost, "/v1/peers"), p)
}

// Forget ends the recognition of a domain.
func (c *Client) Forget(ctx context.Context, domain string) error {
	_, err := c.do(ctx, act(http.MethodDelete, "/v1/peers/"+url.PathEscape(domain)))
	return err
}

// PeerDomains lists the recognised domains.
func (c *Client) PeerDomains(ctx context.Context) ([]protocol.PeerDomain, error) {
	out, err := exchange[protocol.PeerDomains](ctx, c, get("/v1/peers", nil), nil)
	if err != nil {
		return nil, err
	}
	return out.Peers, nil
}

// ChangeKeys agrees to another token key, or withdraws one.
func (c *Client) ChangeKeys(ctx context.Context, change protocol.KeyAct) (*protocol.KeyChange, error) {
	return exchange[protocol.KeyChange](ctx, c, act(http.MethodPost, "/v1/keys"), change)
}

// Alive lists the executions of a node that have a token now, of all nodes for "".
func (c *Client) Alive(ctx context.Context, node string) (*protocol.Alive, error) {
	q := url.Values{}
	if node != "" {
		q.Set("node", node)
	}
	return exchange[protocol.Alive](ctx, c, get("/v1/executions", q), nil)
}

// RevokeOperator agrees to revoke an operator's certificates, or revokes one's own.
func (c *Client) RevokeOperator(ctx context.Context, r protocol.OperatorRevocation) (*protocol.OperatorChange, error) {
	return exchange[protocol.OperatorChange](ctx, c, act(http.MethodPost, "/v1/operators"), r)
}

// RevokedOperators lists the operators whose certificates are revoked.
func (c *Client) RevokedOperators(ctx context.Context) ([]protocol.RevokedOperator, error) {
	out, err := exchange[protocol.RevokedOperators](ctx, c, get("/v1/operators", nil), nil)
	if err != nil {
		return nil, err
	}
	return out.Operators, nil
}

// Audit returns leaves of the log from index from up to, not including, to.
func (c *Client) Audit(ctx context.Context, from, to uint64) (*protocol.Audit, error) {
	return exchange[protocol.Audit](ctx, c, get("/v1/audit", url.Values{
		"from": {strconv.FormatUint(from, 10)}, "to": {strconv.FormatUint(to, 10)}}), nil)
}

// Checkpoint returns the log's signed checkpoint.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	return c.do(ctx, get("/log/checkpoint", nil))
}

// Proof returns the proof (c2sp.org/tlog-proof@v1) of the entry at an index.
func (c *Client) Proof(ctx context.Context, index uint64) (string, error) {
	b, err := c.do(ctx, get("/log/proof/"+strconv.FormatUint(index, 10), nil))
	return string(b), err
}

// Tile returns a resource of the log below its prefix, such as
// "tile/0/x001/234" (c2sp.org/tlog-tiles).
func (c *Client) Tile(ctx context.Context, path string) ([]byte, error) {
	r := get("/log/"+path, nil)
	r.limit = 256 * (2 + 65535) // the largest bundle of entries
	return c.do(ctx, r)
}

// SignIn makes a code that signs one browser in to the console, once.
func (c *Client) SignIn(ctx context.Context) (*protocol.SignIn, error) {
	return exchange[protocol.SignIn](ctx, c, act(http.MethodPost, "/v1/sign-in-codes"), protocol.SignInRequest{})
}

// Poll asks for notices of a stream (RFC 8936), and says which have arrived.
func (c *Client) Poll(ctx context.Context, stream string, req protocol.PollRequest) (*protocol.Polled, error) {
	return exchange[protocol.Polled](ctx, c, call{method: http.MethodPost, path: "/ssf/poll/" + url.PathEscape(stream)}, req)
}
