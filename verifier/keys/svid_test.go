package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestSVIDAsVerifier: with an X509-SVID, also one that says it is a verifier's, nobody
// passes for a verifier, and none is an operator's certificate.
func TestSVIDAsVerifier(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	k, err := Open(dir, "prod.example.org", true, now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := k.SVIDs.Root()
	ca, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"spiffe://prod.example.org/node/00", "spiffe://prod.example.org/verifier/1"} {
		der, err := k.SVIDs.Issue(id, key.Public(), now.Add(-time.Second), now.Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != id || leaf.NotAfter.Unix() != now.Add(time.Minute).Unix() || leaf.Subject.String() != "" {
			t.Errorf("%+v", leaf)
		}
		for _, chain := range [][]*x509.Certificate{{leaf, ca}, {leaf, k.tls.cert}} {
			if err := checkVerifier(chain, k.Pin(), "prod.example.org", now); !errors.Is(err, ErrNotAVerifier) {
				t.Errorf("%s as a verifier: %v", id, err)
			}
		}
		if k.checkClient([]*x509.Certificate{leaf}, now) == nil {
			t.Errorf("%s as an operator", id)
		}
	}
	if _, err := k.SVIDs.Issue("https://prod.example.org/x", key.Public(), now, now.Add(time.Minute)); err == nil {
		t.Error("an SVID for what is no SPIFFE ID")
	}
	if k.IDs()["svid-ca"] == "" {
		t.Error("the authority's id is not recorded")
	}
	if err := os.Remove(filepath.Join(dir, directory, svidFile)); err != nil { // a domain of before
		t.Fatal(err)
	}
	if old, err := Open(dir, "prod.example.org", false, now); err != nil || old.SVIDs != nil || old.IDs()["svid-ca"] != "" {
		t.Errorf("a domain without the authority: %v", err)
	}
}
