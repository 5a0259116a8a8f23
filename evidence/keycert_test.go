package evidence_test

import (
	"bytes"
	"testing"

	"github.com/writ-attestation/writ/evidence"
)

// FuzzParseKeyCertificate: what is read is what would be written.
func FuzzParseKeyCertificate(f *testing.F) {
	f.Add((&evidence.KeyCertificate{Public: []byte{0, 0x23}, Attest: []byte{0xff, 'T', 'C', 'G'}, Signature: []byte{0, 0x18}}).Marshal())
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"public":"","attest":null,"signature":"AA=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := evidence.ParseKeyCertificate(b)
		if err == nil && !bytes.Equal(k.Marshal(), b) {
			t.Errorf("%q is read as %q", b, k.Marshal())
		}
	})
}
