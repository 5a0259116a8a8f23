package ekroots_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm/ekroots"
)

// TestBundleIsTheCollectedOne holds every shipped certificate against the
// collection's own list, fingerprint by fingerprint.
func TestBundleIsTheCollectedOne(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile("../../testdata/ek-roots/tpm-roots.yaml")
	if err != nil {
		t.Fatal(err)
	}
	roots, err := ekroots.Roots()
	if err != nil {
		t.Fatal(err)
	}
	recorded := regexp.MustCompile(`sha(?:256|1): "([0-9A-F:]+)"`).FindAllStringSubmatch(string(list), -1)
	if len(roots) != len(recorded) || len(roots) < 20 {
		t.Fatalf("%d roots, the collection lists %d", len(roots), len(recorded))
	}
	for _, r := range roots {
		s256, s1 := sha256.Sum256(r.DER), sha1.Sum(r.DER)
		if r.SHA256 != hex.EncodeToString(s256[:]) {
			t.Errorf("%s: fingerprint %s", r.Name, r.SHA256)
		}
		if !slices.ContainsFunc(recorded, func(m []string) bool {
			fp := strings.ToLower(strings.ReplaceAll(m[1], ":", ""))
			return fp == hex.EncodeToString(s256[:]) || fp == hex.EncodeToString(s1[:])
		}) {
			t.Errorf("%s: not in the collection", r.Name)
		}
	}
}

// TestEveryRootIsUsable: crypto/x509 reads each root and intermediate with a
// key it can verify by. None has a serial number it would refuse.
func TestEveryRootIsUsable(t *testing.T) {
	t.Parallel()
	roots, err := ekroots.Roots()
	if err != nil {
		t.Fatal(err)
	}
	all := ekroots.Intermediates()
	for _, r := range roots {
		all = append(all, r.DER)
	}
	kinds := map[string]int{}
	for _, der := range all {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			sum := sha256.Sum256(der)
			t.Errorf("%x: %v", sum, err)
			continue
		}
		switch k := c.PublicKey.(type) {
		case *rsa.PublicKey:
			kinds["RSA"]++
		case *ecdsa.PublicKey:
			kinds[k.Params().Name]++
		default:
			t.Errorf("%s: key of type %T", c.Subject, k)
		}
	}
	for _, want := range []string{"RSA", "P-256", "P-384"} {
		if kinds[want] == 0 {
			t.Errorf("no %s among %v", want, kinds)
		}
	}
	t.Logf("%d certificates, keys %v", len(all), kinds)
}

// TestIntermediatesReachRoots: most shipped intermediates chain to a shipped
// root of their maker, as real EK chains do.
func TestIntermediatesReachRoots(t *testing.T) {
	t.Parallel()
	roots, err := ekroots.Roots()
	if err != nil {
		t.Fatal(err)
	}
	anchors, others := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		if c, err := x509.ParseCertificate(r.DER); err == nil {
			anchors.AddCert(c)
		}
	}
	var list []*x509.Certificate
	for _, der := range ekroots.Intermediates() {
		if c, err := x509.ParseCertificate(der); err == nil {
			others.AddCert(c)
			list = append(list, c)
		}
	}
	reach := 0
	for _, c := range list {
		_, err := c.Verify(x509.VerifyOptions{Roots: anchors, Intermediates: others, CurrentTime: c.NotBefore.AddDate(0, 0, 1), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err == nil {
			reach++
		} else {
			t.Logf("%s by %s: %v", c.Subject, c.Issuer, err)
		}
	}
	if reach*10 < len(list)*9 {
		t.Errorf("%d of %d intermediates reach a root", reach, len(list))
	}
}

func TestMissingVendorsAreNamed(t *testing.T) {
	t.Parallel()
	missing := ekroots.Missing()
	for _, id := range []string{"NTZ", "QCOM", "GOOG"} {
		if !slices.Contains(missing, id) {
			t.Errorf("%s is not listed as missing", id)
		}
	}
	for _, id := range []string{"IFX", "STM", "NTC", "INTC", "AMD"} {
		if slices.Contains(missing, id) {
			t.Errorf("%s is listed as missing", id)
		}
	}
}
