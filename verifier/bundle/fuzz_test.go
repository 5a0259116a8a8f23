package bundle_test

import (
	"bytes"
	"testing"

	"github.com/writ-attestation/writ/verifier/bundle"
)

func FuzzParseTrust(f *testing.F) {
	f.Add(file(f, vectors+"trust.json"))
	f.Add([]byte(`{"v":1,"domain":"d","log":[],"token_keys":{"keys":[]},"reference_keys":[],"ek_roots":[],"witness_policy":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := bundle.ParseTrust(b)
		if err != nil {
			return
		}
		again, err := bundle.ParseTrust(tr.Marshal())
		if err != nil || !bytes.Equal(again.Marshal(), tr.Marshal()) {
			t.Errorf("%s\nis read as\n%s\nand then %v", b, tr.Marshal(), err)
		}
	})
}

func FuzzParseCertificatePEM(f *testing.F) {
	for _, root := range trust(f).EKRoots {
		f.Add(root)
	}
	f.Fuzz(func(t *testing.T, text string) {
		der, err := bundle.ParseCertificatePEM(text)
		if err != nil {
			return
		}
		if again, err := bundle.ParseCertificatePEM(bundle.CertificatePEM(der)); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%q comes back as another certificate: %v", text, err)
		}
	})
}

func FuzzParsePolicy(f *testing.F) {
	f.Add("")
	f.Add("# comment\nlog example.org/log+0+AAAA\nwitness w1 w.example+00000000+AAAA https://w.example\ngroup g any w1\nquorum g\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := bundle.ParsePolicy(text)
		if err != nil {
			return
		}
		if _, met := p.Cosigned(nil); met && p.Demands() {
			t.Errorf("%q is met by nobody", text)
		}
	})
}
