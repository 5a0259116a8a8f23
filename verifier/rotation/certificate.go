package rotation

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/writ-attestation/writ/verifier/token"
)

// certificate is what the root key says of a token key.
type certificate struct {
	Domain string `json:"domain"`
	KID    string `json:"token_key"` // RFC 7638 thumbprint
	Until  int64  `json:"until"`     // Unix second from which it counts no more
}

// Certify signs with the root key of a domain, P-256, that kid is one of its token
// keys until then.
func Certify(root crypto.Signer, rand io.Reader, domain, kid string, until int64) (string, error) {
	payload, err := json.Marshal(certificate{domain, kid, until})
	if err != nil {
		panic("rotation: a certificate of plain values does not marshal: " + err.Error())
	}
	s, err := token.SignStatement(payload, root, rand)
	if err != nil {
		return "", fmt.Errorf("certifying token key %s: %w", kid, err)
	}
	return s, nil
}

// certified returns until when an introduced key counts by its certificate, 0 where no
// root is pinned.
func (b *Book) certified(in Introduction) (until int64, err error) {
	if b.root == "" {
		return 0, nil
	}
	if in.Certificate == "" {
		return 0, fmt.Errorf("the key %s has no certificate by the domain's root key", in.KID)
	}
	by, payload, err := token.OpenStatement(in.Certificate)
	if err != nil {
		return 0, fmt.Errorf("reading the certificate of key %s: %w", in.KID, err)
	}
	if by != b.root {
		return 0, fmt.Errorf("the key %s is certified by %s, expected the domain's root key %s; get the trust file anew if the root was replaced", in.KID, by, b.root)
	}
	var c certificate
	if err := strict(payload, &c); err != nil {
		return 0, err
	}
	if c.Domain+"/log" != b.origin || c.KID != in.KID || c.Until <= 0 {
		return 0, errors.New("the certificate is for another key or domain")
	}
	return c.Until, nil
}
