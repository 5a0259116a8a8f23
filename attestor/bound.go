package attestor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"time"

	"github.com/writ-attestation/writ/evidence"
	"github.com/writ-attestation/writ/verifier/protocol"
)

// certificateLife is far longer than a token: it is the token that ends.
const certificateLife = 24 * time.Hour

// Bound is a token that is used over mTLS (RFC 8705), with what to connect with.
type Bound struct {
	*protocol.Grant
	Certificate string `json:"certificate"` // PEM: a client certificate of its own key, and that key
}

// Bound gets a token for an audience that is bound to a client certificate made for it.
func (a *Agent) Bound(ctx context.Context, audience string) (*Bound, error) {
	cert, text, err := newCertificate(time.Now())
	if err != nil {
		return nil, fmt.Errorf("making a client certificate: %w", err)
	}
	req := evidence.Request{Audience: audience, Level: a.cfg.Level, R: random(32), ID: random(16)}
	g, err := further(ctx, a, func(v Verifier, base string) (*protocol.Grant, error) {
		key, _ := a.holder()
		return v.Bound(ctx, base, key, req, cert)
	})
	if err != nil {
		return nil, err
	}
	return &Bound{Grant: g, Certificate: text}, nil
}

func newCertificate(now time.Time) (cert tls.Certificate, text string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return cert, "", err
	}
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Writ client"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return cert, "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return cert, "", err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(b), nil
}

// serveBound gives a token with the client certificate that it is bound to.
func (a *Agent) serveBound(w http.ResponseWriter, r *http.Request) {
	out, err := a.Bound(r.Context(), r.URL.Query().Get("audience"))
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, out)
}
