package keys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"sync"
	"time"
)

// serverLife is how long a verifier's own certificate lasts. Its key is never
// written down: a start, and two thirds of the life, make a new one.
const serverLife = 30 * 24 * time.Hour

// Pin is the SHA-256 of the certificate of the CA that verifiers of a domain
// answer with. Servers send that certificate along, so the pin is all a client
// needs.
type Pin [sha256.Size]byte

// Pin returns the pin of this verifier's CA.
func (k *Keys) Pin() Pin { return sha256.Sum256(k.tls.cert.Raw) }

// CA returns the certificate of the verifiers' CA in PEM.
func (k *Keys) CA() []byte { return k.tls.pem() }

// PinOf returns the pin of a CA given in PEM.
func PinOf(ca []byte) (Pin, error) {
	cert, err := parseCertificate(ca)
	if err != nil {
		return Pin{}, fmt.Errorf("reading the verifiers' CA: %w", err)
	}
	return sha256.Sum256(cert.Raw), nil
}

// server answers with a certificate that is replaced before it expires.
type server struct {
	keys  *Keys
	name  string
	hosts []string
	now   func() time.Time

	mu   sync.Mutex // guards cert
	cert *tls.Certificate
}

// ServerTLS is the configuration of the verifier called name, which answers under
// hosts (DNS names and IP addresses) and as spiffe://<domain>/verifier/<name>.
// A client need not show a certificate. One it does show must be an operator's, or a
// key's own ([SelfIssued]), which says nothing of who has it, or there is no
// connection: a credential that fails is not as good as none.
func (k *Keys) ServerTLS(name string, hosts []string, now func() time.Time) (*tls.Config, error) {
	if !operatorRE.MatchString(name) {
		return nil, fmt.Errorf("configuring TLS: %.80q is no name for a verifier; expected letters, digits, dots and dashes", name)
	}
	s := &server{keys: k, name: name, hosts: hosts, now: now}
	if _, err := s.certificate(nil); err != nil {
		return nil, fmt.Errorf("configuring TLS: %w", err)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: s.certificate,
		ClientAuth:     tls.RequestClientCert, // verified by checkClient, on resumption too
		ClientCAs:      k.operator.pool(),     // which clients ask to choose by
		VerifyConnection: func(c tls.ConnectionState) error {
			if err := k.checkClient(c.PeerCertificates, now()); err != nil {
				return fmt.Errorf("checking the client's certificate: %w", err)
			}
			return nil
		},
		NextProtos: []string{"h2", "http/1.1"},
		Time:       now,
	}, nil
}

// SelfIssued reports whether a client's certificate is a key's own: tokens can be bound
// to it (RFC 8705 2.2), and it is nobody's credential.
func SelfIssued(leaf *x509.Certificate) bool {
	return bytes.Equal(leaf.RawIssuer, leaf.RawSubject)
}

func (k *Keys) checkClient(chain []*x509.Certificate, at time.Time) error {
	if len(chain) == 0 {
		return nil
	}
	leaf := chain[0]
	if SelfIssued(leaf) {
		if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() || len(leaf.URIs) > 0 {
			return errors.New("one that is its own issuer has a P-256 key and no URI name")
		}
		return leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: k.operator.pool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func (s *server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.now()
	if c := s.cert; c != nil && at.After(c.Leaf.NotBefore) && at.Before(c.Leaf.NotAfter.Add(-serverLife/3)) {
		return c, nil
	}
	c, err := s.issue(at)
	if err != nil {
		return nil, fmt.Errorf("issuing the verifier's certificate: %w", err)
	}
	s.cert = c
	return c, nil
}

func (s *server) issue(at time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &s.keys.tls
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Writ"}, CommonName: "verifier " + s.name},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: s.keys.domain, Path: "/verifier/" + s.name}},
		NotBefore: at.Add(-backdated), NotAfter: at.Add(serverLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range s.hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
			continue
		}
		tmpl.DNSNames = append(tmpl.DNSNames, h)
	}
	der, err := ca.sign(tmpl, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// ErrNotAVerifier: whoever answered is none of the pinned domain's verifiers.
var ErrNotAVerifier = errors.New("the server is not a verifier of this domain")

var verifierRE = regexp.MustCompile(`^spiffe://([^/]+)/verifier/[^/]+$`)

// ClientTLS is the configuration for talking to a verifier. Who it is, is decided
// by the pinned CA and the verifier's URI name, not by the host name: verifiers
// move. domain is empty only in provisioning, before it is known; any domain of
// the pinned CA is then taken.
func ClientTLS(pin Pin, domain string, now func() time.Time, client ...tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       client,
		Time:               now,
		InsecureSkipVerify: true, // replaced by VerifyConnection, which runs on resumption too
		VerifyConnection: func(c tls.ConnectionState) error {
			if err := checkVerifier(c.PeerCertificates, pin, domain, now()); err != nil {
				return fmt.Errorf("checking the verifier's certificate: %w", err)
			}
			return nil
		},
	}
}

func checkVerifier(chain []*x509.Certificate, pin Pin, domain string, at time.Time) error {
	if len(chain) < 2 {
		return fmt.Errorf("%w: it sent %d certificates, expected its own and its CA's", ErrNotAVerifier, len(chain))
	}
	leaf, ca := chain[0], chain[len(chain)-1]
	if sha256.Sum256(ca.Raw) != pin {
		return fmt.Errorf("%w: its CA has SHA-256 %x, expected %x", ErrNotAVerifier, sha256.Sum256(ca.Raw), pin)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("%w: %w", ErrNotAVerifier, err)
	}
	if len(leaf.URIs) != 1 {
		return fmt.Errorf("%w: it has %d URI names, expected one", ErrNotAVerifier, len(leaf.URIs))
	}
	m := verifierRE.FindStringSubmatch(leaf.URIs[0].String())
	if m == nil || (domain != "" && m[1] != domain) {
		return fmt.Errorf("%w: it is %.100q, expected spiffe://%s/verifier/...", ErrNotAVerifier, leaf.URIs[0], domain)
	}
	return nil
}

// PinnedCA returns, in PEM, the CA by which a verifier of a connection made with
// ClientTLS was known, nil if there was none.
func PinnedCA(c *tls.ConnectionState) []byte {
	if c == nil || len(c.PeerCertificates) == 0 {
		return nil
	}
	return (&authority{cert: c.PeerCertificates[len(c.PeerCertificates)-1]}).pem()
}
