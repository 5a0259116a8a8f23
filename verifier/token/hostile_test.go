package token_test

import (
	"testing"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestHostileTokens: the table that every entrance is shown, at the function they
// all rest on; each refusal has a code. What it is not told, it cannot refuse.
func TestHostileTokens(t *testing.T) {
	key, holder := newKey(t), newKey(t)
	keys, c := keysOf(t, key), good()
	var err error
	if c.Confirm.JKT, err = token.Thumbprint(holder.Public()); err != nil {
		t.Fatal(err)
	}
	want := want
	want.Epoch, want.Boot = c.Writ.Epoch, &c.BootCount
	for _, c.Profile = range []string{token.Profile2026, token.Profile2023} {
		hostile.Refused(t, &hostile.World{Issuer: key, Holder: holder, Claims: c, At: at}, func(tok string) error {
			_, err := token.Verify(tok, keys, want, at)
			if err != nil && token.Code(err) == "" {
				t.Errorf("refused without a code: %v", err)
			}
			return err
		})
	}
}

// TestTokenAsAnotherKind: a token is no event, no status list, no proof and no
// statement, whoever signed it.
func TestTokenAsAnotherKind(t *testing.T) {
	key := newKey(t)
	keys, c := keysOf(t, key), good()
	w := &hostile.World{Issuer: key, Holder: key, Claims: c, At: at, Timeless: true}
	for name, open := range map[string]func(tok string) error{
		"event":       func(tok string) error { _, err := token.VerifyEvent(tok, keys, want, at); return err },
		"status list": func(tok string) error { _, err := token.ParseStatusList(tok, keys, c.Subject, at); return err },
		"proof": func(tok string) error {
			_, err := token.CheckProof(tok, token.Call{Method: "GET", URL: "https://api.example.org/"}, at)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hostile.Never(t, w, open)
		})
	}
}
