package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/client"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/rotation"
)

// dialPeer reaches a verifier of another domain, which must show a certificate of that
// domain's own authority.
func dialPeer(url string, ca []byte, domain string) (*verifier.PeerLink, error) {
	c, err := client.New(client.Config{URL: url, CA: ca, Domain: domain})
	if err != nil {
		return nil, fmt.Errorf("reaching %s: %w", domain, err)
	}
	return &verifier.PeerLink{
		Log: func(ctx context.Context, path string) ([]byte, error) {
			if path == "checkpoint" {
				return c.Checkpoint(ctx)
			}
			b, err := c.Tile(ctx, path)
			if r := (*protocol.Refusal)(nil); errors.As(err, &r) && r.Code == protocol.NotFound {
				return nil, ledger.ErrNotFound
			}
			return b, err
		},
		Keys: func(ctx context.Context) ([]rotation.Entry, error) {
			keys, err := c.TokenKeys(ctx)
			if err != nil {
				return nil, err
			}
			return keys.Proven, nil
		},
		StatusList: func(ctx context.Context, n uint64) (string, error) {
			return c.StatusList(ctx, "/v1/status-lists/"+strconv.FormatUint(n, 10))
		},
		Close: c.Close,
	}, nil
}
