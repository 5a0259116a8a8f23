package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/tpm/ekroots"
)

// TestVendorRootsAndMore: ek_roots takes the bundle and files beside it, and
// without the word nothing of the bundle.
func TestVendorRootsAndMore(t *testing.T) {
	bundle, err := ekroots.Roots()
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := os.ReadFile("../../testdata/boots/c-grub-sb/ca/swtpm-localca-rootca-cert.pem")
	if err != nil {
		t.Fatal(err)
	}
	extra := filepath.Join(t.TempDir(), "extra.pem")
	if err := os.WriteFile(extra, issuer, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		roots   []string
		want    int
		version string
	}{{nil, 0, ""}, {[]string{extra}, 1, ""}, {[]string{"vendors"}, len(bundle), ekroots.Version}, {[]string{"vendors", extra}, len(bundle) + 1, ekroots.Version}} {
		cfg := config{EKRoots: c.roots}
		got, err := cfg.ekRoots()
		version, intermediates := cfg.ekBundle()
		if err != nil || len(got) != c.want || version != c.version || (len(intermediates) > 0) != (version != "") {
			t.Errorf("%q: %d roots, bundle %q with %d intermediates, %v", c.roots, len(got), version, len(intermediates), err)
		}
	}
}

func TestEKRootsListed(t *testing.T) {
	cmd := newEKRoots()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(nil)
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bundle " + ekroots.Version, "IFX", "cfeb02fecd55ad7a73c6e1d11985d4c47dee248ab63dcb66091a2489660443c3", "pki.infineon.com", "no root of:", " NTZ"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the list lacks %q", want)
		}
	}
}
