package gate

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/writ-attestation/writ/verifier/token"
)

// clientCertHeader is RFC 9440's; nginx has no variable of that form, so that it gives
// $ssl_client_escaped_cert in escapedCertHeader.
const (
	clientCertHeader  = "Client-Cert"
	escapedCertHeader = "X-Client-Cert"
)

// decideCertified lets a request pass whose token is bound to the client certificate of
// its connection (RFC 8705 section 3).
func (g *Gate) decideCertified(ctx context.Context, h http.Header, tok string) (*pass, *refusal) {
	der, err := g.cfg.Proxy.certificate(h)
	if err != nil {
		return nil, unauthenticated("", "a token without a proof needs the client certificate it is bound to: "+err.Error())
	}
	p, no := g.admit(tok, g.now())
	if no != nil {
		return nil, no
	}
	if c := p.claims.Confirm; c.X5T == "" || c.X5T != token.CertificateThumbprint(der) {
		return nil, unauthenticated("invalid_token", (&token.Error{Code: token.WrongKey, Detail: "the client certificate is not the one the token is bound to"}).Error())
	}
	return g.stands(ctx, p)
}

// certificate is the client certificate of a request in DER, as the proxy tells it.
func (p Proxy) certificate(h http.Header) ([]byte, error) {
	if p == Nginx {
		text, err := url.PathUnescape(one(h, escapedCertHeader))
		block, rest := pem.Decode([]byte(text))
		if err != nil || block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
			return nil, errors.New("the proxy names none in " + escapedCertHeader)
		}
		return block.Bytes, nil
	}
	// A byte sequence of RFC 8941: base64 between colons.
	v, ok := strings.CutPrefix(one(h, clientCertHeader), ":")
	v, closed := strings.CutSuffix(v, ":")
	der, err := base64.StdEncoding.DecodeString(v)
	if !ok || !closed || err != nil || len(der) == 0 {
		return nil, errors.New("the proxy names none in " + clientCertHeader)
	}
	return der, nil
}
