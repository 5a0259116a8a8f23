package token_test

import (
	"testing"

	"github.com/writ-attestation/writ/internal/hostile"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestHostileTokens: the table that every entrance is shown, at the function they
// all rest on; each refusal has a code.
func TestHostileTokens(t *testing.T) {
	key, holder := newKey(t), newKey(t)
	keys, c := keysOf(t, key), good()
	var err error
	if c.Confirm.JKT, err = token.Thumbprint(holder.Public()); err != nil {
		t.Fatal(err)
	}
	for _, c.Profile = range []string{token.Profile2026, token.Profile2023} {
		hostile.Refused(t, &hostile.World{Issuer: key, Holder: holder, Claims: c, At: at}, hostile.Mutations, func(tok string) error {
			_, err := token.Verify(tok, keys, want, at)
			if err != nil && token.Code(err) == "" {
				t.Errorf("refused without a code: %v", err)
			}
			return err
		})
	}
}
