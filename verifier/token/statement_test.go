package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"
)

func TestForgedStatement(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := SignStatement([]byte(`{"cause":"deadline"}`), key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if jkt, payload, err := OpenStatement(s); err != nil || jkt != want || string(payload) != `{"cause":"deadline"}` {
		t.Errorf("%s says %q: %v", jkt, payload, err)
	}
	part := strings.Split(s, ".")
	proof, err := NewProof(Call{Method: "POST", URL: "https://a/b"}, key, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, forged := range map[string]string{
		"another payload": part[0] + "." + encoding.EncodeToString([]byte(`{"cause":"exited"}`)) + "." + part[2],
		"no signature":    part[0] + "." + part[1] + ".",
		"a proof":         proof,
		"nothing":         "",
		"too long":        s + strings.Repeat("A", MaxSize),
	} {
		if _, payload, err := OpenStatement(forged); err == nil {
			t.Errorf("%s: opened, says %q", name, payload)
		}
	}
}

func FuzzOpenStatement(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	s, err := SignStatement([]byte(`{}`), key, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Fuzz(func(t *testing.T, s string) {
		if jkt, _, err := OpenStatement(s); err == nil && len(jkt) != 43 {
			t.Errorf("opened with the key %q", jkt)
		}
	})
}
