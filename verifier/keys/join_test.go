package keys_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/keys"
)

func TestJoinToken(t *testing.T) {
	made, err := keys.NewJoinToken(rand.Reader, keys.Pin{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	read, err := keys.ParseJoinToken(made.String() + "\n")
	if err != nil || read != made || read.Hash() != made.Hash() {
		t.Errorf("%s is read as %s (%v)", made, read, err)
	}
	other, err := keys.NewJoinToken(rand.Reader, made.CA)
	if err != nil || other.ID == made.ID || other.Hash() == made.Hash() {
		t.Errorf("two join tokens are alike: %s, %s (%v)", made, other, err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("made", "join_token", made)
	if secret := made.String()[strings.LastIndex(made.String(), ".")+1:]; strings.Contains(log.String(), secret) {
		t.Errorf("the secret %s is logged: %s", secret, &log)
	}
}

func TestForgedJoinToken(t *testing.T) {
	made, err := keys.NewJoinToken(rand.Reader, keys.Pin{})
	if err != nil {
		t.Fatal(err)
	}
	s := made.String()
	for _, bad := range []string{"", "writ-join-1", "writ-join-2" + s[11:], s[:len(s)-1], s + "A", s + ".", strings.ToUpper(s), strings.Replace(s, ".", "..", 1), s[:40] + "\n" + s[40:]} {
		if got, err := keys.ParseJoinToken(bad); err == nil {
			t.Errorf("%q is read as %s", bad, got)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(fmt.Sprintf("writ-join-1.%064x.%016x.%043d", 1, 2, 0))
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := keys.ParseJoinToken(s); err == nil && got.String() != strings.TrimSpace(s) {
			t.Errorf("%q is read as %q", s, got)
		}
	})
}
