package oidc

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	zitadel "github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/writ-attestation/writ/internal/interop/domain"
)

// TestClients: what others' clients make of a real domain. Each must take a good
// token, and none for another audience or with a changed byte.
func TestClients(t *testing.T) {
	d := domain.Start(t)
	forged := func(tok string) string {
		i := strings.LastIndexByte(tok, '.') + 10
		c := byte('A')
		if tok[i] == c {
			c = 'B'
		}
		return tok[:i] + string(c) + tok[i+1:]
	}
	for name, verify := range map[string]func(t *testing.T, tok, audience string) (subject string, err error){
		"coreos-go-oidc": func(t *testing.T, tok, audience string) (string, error) {
			ctx := oidc.ClientContext(t.Context(), d.Client())
			p, err := oidc.NewProvider(ctx, d.Issuer)
			if err != nil {
				t.Fatal(err)
			}
			id, err := p.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, tok)
			if err != nil {
				return "", err
			}
			var claims struct {
				Writ struct{ State string }
			}
			if err := id.Claims(&claims); err != nil || claims.Writ.State != "synchronized" {
				t.Errorf("state %q, %v", claims.Writ.State, err)
			}
			return id.Subject, nil
		},
		"zitadel-oidc": func(t *testing.T, tok, audience string) (string, error) {
			party, err := rp.NewRelyingPartyOIDC(t.Context(), d.Issuer, audience, "", "https://localhost/none", nil,
				rp.WithHTTPClient(d.Client()), rp.WithVerifierOpts(rp.WithSupportedSigningAlgorithms("ES256")))
			if err != nil {
				t.Fatal(err)
			}
			c, err := rp.VerifyIDToken[*zitadel.IDTokenClaims](t.Context(), tok, party.IDTokenVerifier())
			if err != nil {
				return "", err
			}
			return c.Subject, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			tok := d.Token(t)
			subject, err := verify(t, tok, d.Audience)
			if err != nil || !strings.HasPrefix(subject, "spiffe://dev.invalid/node/") {
				t.Errorf("a good token: %q, %v", subject, err)
			}
			if _, err := verify(t, tok, "https://other.example"); err == nil {
				t.Error("a token for another audience is accepted")
			}
			if _, err := verify(t, forged(tok), d.Audience); err == nil {
				t.Error("a token with a changed signature is accepted")
			}
		})
	}
	t.Run("metadata", func(t *testing.T) { metadata(t, d) })
}

// metadata: RFC 8414 and OpenID Connect discovery name the same issuer and keys, and
// the keys may be cached for a while.
func metadata(t *testing.T, d *domain.Domain) {
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		res, err := d.Client().Get(d.Issuer + path)
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		err = json.NewDecoder(res.Body).Decode(&m)
		res.Body.Close()
		if err != nil || m.Issuer != d.Issuer {
			t.Errorf("%s: %+v, %v", path, m, err)
		}
		req, _ := d.Client().Get(m.JWKS)
		if req == nil || req.StatusCode != 200 || !strings.Contains(req.Header.Get("Cache-Control"), "max-age=") {
			t.Errorf("%s: the keys cannot be had or cached: %+v", path, req)
		}
		if req != nil {
			req.Body.Close()
		}
	}
}
