package keys_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/writ-attestation/writ/verifier/keys"
)

func FuzzParseIdentity(f *testing.F) {
	data := f.TempDir()
	if _, err := keys.Open(data, "lab.invalid", true, at); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(data, keys.OperatorFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := keys.ParseIdentity(b); err == nil && (id.Domain == "" || id.Certificate.PrivateKey == nil) {
			t.Errorf("%q is an operator of no domain or without a key", b)
		}
	})
}

func FuzzParseInvitation(f *testing.F) {
	data := f.TempDir()
	if _, err := keys.Open(data, "lab.invalid", true, at); err != nil {
		f.Fatal(err)
	}
	b, err := keys.Invite(data, "lab.invalid", []string{"log"}, []byte("checkpoint"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := keys.ParseInvitation(b, "lab.invalid")
		if err != nil {
			return
		}
		dir := t.TempDir()
		if _, err := in.Join(dir); err != nil { // then it has left nothing
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%s: %v, and %v stays", b, err, left)
			}
		}
	})
}
