package keys

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// SVIDs is the authority that signs the X509-SVIDs (SPIFFE) of workloads. It is another
// than that of verifiers' certificates, which are known by its pin: with an SVID nobody
// passes for a verifier (security rule 11).
type SVIDs struct{ authority }

// loadSVIDs returns nil where there is no such authority.
func loadSVIDs(dir, domain string) (*SVIDs, error) {
	path := filepath.Join(dir, svidFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	b, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("reading %s: it is not PEM", svidFile)
	}
	s := new(SVIDs)
	if err := s.parse(block, rest, domain); err != nil {
		return nil, fmt.Errorf("reading %s: %w", svidFile, err)
	}
	return s, nil
}

// Root is the authority's own certificate (DER) and its key.
func (s *SVIDs) Root() ([]byte, crypto.PublicKey) { return s.cert.Raw, s.key.Public() }

// Issue signs an X509-SVID for a SPIFFE ID and a key, and returns it in DER.
func (s *SVIDs) Issue(id string, public crypto.PublicKey, from, until time.Time) ([]byte, error) {
	uri, err := url.Parse(id)
	if err != nil || uri.Scheme != "spiffe" || uri.Host == "" || uri.Path == "" {
		return nil, fmt.Errorf("issuing an X509-SVID: %.200q is no SPIFFE ID", id)
	}
	return s.sign(&x509.Certificate{
		URIs: []*url.URL{uri}, NotBefore: from, NotAfter: until, BasicConstraintsValid: true, // not a CA
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, public)
}
