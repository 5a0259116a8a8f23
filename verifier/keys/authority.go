package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	backdated     = time.Hour // so that a clock that is a little slow accepts a new certificate
)

// authority is a certificate authority with one purpose. The trust domain is its
// URI name, so that keys of another domain show.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// newAuthority makes an authority and returns its file: key, then certificate.
func newAuthority(domain, use string, at time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"Writ"}, CommonName: domain + " " + use + " CA"}, URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
		NotBefore: at.Add(-backdated), NotAfter: at.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	self := authority{key: key, cert: tmpl}
	cert, err := self.sign(tmpl, key.Public())
	if err != nil {
		return nil, err
	}
	file, err := marshalKey(key)
	return append(file, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: cert})...), err
}

func (a *authority) parse(b *pem.Block, rest []byte, domain string) error {
	if err := parseKey(b, &a.key); err != nil {
		return err
	}
	cert, err := parseCertificate(rest)
	if err != nil {
		return err
	}
	if !a.key.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return errors.New("the certificate is not that of the key")
	}
	if want := "spiffe://" + domain; len(cert.URIs) != 1 || cert.URIs[0].String() != want {
		return fmt.Errorf("the certificate is for %v, expected %s; is this the data directory of another domain?", cert.URIs, want)
	}
	a.cert = cert
	return nil
}

// sign completes a template with a random serial number and signs it.
func (a *authority) sign(tmpl *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	serial[0] &= 0x7f // RFC 5280 4.1.2.2: positive
	tmpl.SerialNumber = new(big.Int).SetBytes(serial)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return der, nil
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: a.cert.Raw})
}
