package corim_test

import (
	"testing"

	"github.com/writ-attestation/writ/verifier/corim"
	"github.com/writ-attestation/writ/verifier/reference"
)

func FuzzImport(f *testing.F) {
	s, _ := learnt(f)
	b, _, err := corim.Export(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := corim.Import("lab", b, nil)
		if err != nil {
			return
		}
		if _, err := reference.Parse(s.Marshal()); err != nil {
			t.Errorf("%x becomes a set that is none: %v", b, err)
		}
	})
}
