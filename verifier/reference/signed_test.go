package reference_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/reference"
)

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(keys ...ed25519.PrivateKey) (out []ed25519.PublicKey) {
	for _, k := range keys {
		out = append(out, k.Public().(ed25519.PublicKey))
	}
	return out
}

func sign(t testing.TB, keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	env, err := reference.Sign(good(), keys...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// envelope edits a DSSE envelope and writes it as Sign does.
func envelope(t testing.TB, b []byte, edit func(payload *[]byte, typ *string, sigs *[]sig)) []byte {
	t.Helper()
	var e struct {
		Payload     []byte `json:"payload"`
		PayloadType string `json:"payloadType"`
		Signatures  []sig  `json:"signatures"`
	}
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatal(err)
	}
	edit(&e.Payload, &e.PayloadType, &e.Signatures)
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type sig struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// TestReferenceOfUnknownSigner: a set counts for the configured keys that signed
// it, never for a key it names itself or the same key again (security rule 20).
func TestReferenceOfUnknownSigner(t *testing.T) {
	a, b, c := key(1), key(2), key(3)
	twice := envelope(t, sign(t, a), func(_ *[]byte, _ *string, s *[]sig) { *s = append(*s, (*s)[0]) })
	claimed := envelope(t, sign(t, c), func(_ *[]byte, _ *string, s *[]sig) { (*s)[0].KeyID = reference.KeyID(public(a)[0]) })
	short := envelope(t, sign(t, a), func(_ *[]byte, _ *string, s *[]sig) { (*s)[0].Sig = (*s)[0].Sig[:63] })
	none := envelope(t, sign(t, a), func(_ *[]byte, _ *string, s *[]sig) { *s = nil })
	for name, tc := range map[string]struct {
		env       []byte
		keys      []ed25519.PublicKey
		threshold int
		ok        bool
	}{
		"the one that is needed":            {sign(t, a), public(a, b), 1, true},
		"both that are needed":              {sign(t, a, b), public(a, b), 2, true},
		"two of three, in another order":    {sign(t, c, a), public(a, b, c), 2, true},
		"an unknown one besides":            {sign(t, c, a), public(a), 1, true},
		"unknown alone":                     {sign(t, c), public(a, b), 1, false},
		"one of two":                        {sign(t, a), public(a, b), 2, false},
		"one and an unknown one":            {sign(t, a, c), public(a, b), 2, false},
		"the same key twice":                {sign(t, a, a), public(a, b), 2, false},
		"the same signature twice":          {twice, public(a, b), 2, false},
		"the same key configured twice":     {sign(t, a), public(a, a), 2, false},
		"under the name of a known key":     {claimed, public(a), 1, false},
		"a signature that is cut":           {short, public(a), 1, false},
		"no signature":                      {none, public(a), 1, false},
		"no key is configured":              {sign(t, a), nil, 1, false},
		"a threshold of zero":               {sign(t, a), public(a), 0, false},
		"nobody, under a threshold of zero": {none, nil, 0, false},
	} {
		s, err := reference.Read(tc.env)
		if err != nil {
			t.Errorf("%s: reading: %v", name, err)
			continue
		}
		if err := s.Verify(tc.keys, tc.threshold); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSignedBytes: what was signed is the payload and its type, byte for byte.
func TestSignedBytes(t *testing.T) {
	env := sign(t, key(1))
	other := good()
	other.Generation = 2
	swapped := envelope(t, env, func(p *[]byte, _ *string, _ *[]sig) { *p = other.Marshal() })
	s, err := reference.Read(swapped)
	if err != nil {
		t.Fatal(err)
	}
	if s.Verify(public(key(1)), 1) == nil {
		t.Error("a signature counts for another payload")
	}
	raw := ed25519.Sign(key(1), good().Marshal()) // over the payload without DSSE's encoding
	bare, err := reference.Read(envelope(t, env, func(_ *[]byte, _ *string, s *[]sig) { (*s)[0].Sig = raw }))
	if err != nil {
		t.Fatal(err)
	}
	if bare.Verify(public(key(1)), 1) == nil {
		t.Error("a signature over the bare payload counts")
	}
}

func TestEnvelopeNotCanonical(t *testing.T) {
	env := string(sign(t, key(1)))
	typed := envelope(t, []byte(env), func(_ *[]byte, typ *string, _ *[]sig) { *typ = "application/json" })
	payload := envelope(t, []byte(env), func(p *[]byte, _ *string, _ *[]sig) { *p = append(*p, '\n') })
	for name, b := range map[string]string{
		"nothing":                  "",
		"null":                     "null",
		"a bare set":               string(good().Marshal()),
		"truncated":                env[:len(env)-1],
		"trailing line break":      env + "\n",
		"two envelopes":            env + env,
		"unknown member":           strings.Replace(env, "{", `{"key":"x",`, 1),
		"member twice":             strings.Replace(env, "{", `{"payload":"",`, 1),
		"another type":             string(typed),
		"payload not canonical":    string(payload),
		"payload in other base64":  strings.Replace(env, `"payload":"ey`, `"payload":"e\ny`, 1),
		"payload is an empty name": strings.Replace(env, `"payload":"`, `"Payload":"`, 1),
	} {
		if _, err := reference.Read([]byte(b)); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
	var s reference.Signed // as a bundle carries it
	for _, b := range []string{`""`, `null`, `{}`, `"!"`, `"` + base64.StdEncoding.EncodeToString([]byte("{}")) + `"`} {
		if err := json.Unmarshal([]byte(b), &s); err == nil {
			t.Errorf("a bundle may carry %s", b)
		}
	}
	in, err := json.Marshal(&s)
	if err != nil || s.Set != nil {
		t.Errorf("after refusals there is a set: %s, %v", in, err)
	}
}

func TestSignedRoundTrip(t *testing.T) {
	env := sign(t, key(1), key(2))
	s, err := reference.Read(env)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back reference.Signed
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Envelope, env) || back.Digest() != good().Digest() || back.Verify(public(key(1), key(2)), 2) != nil {
		t.Error("does not come back from JSON as it went")
	}
	broken := good()
	broken.Required = nil
	if _, err := reference.Sign(broken, key(1)); err == nil {
		t.Error("signed a set that cannot be read")
	}
}

func TestKeyRoundTrip(t *testing.T) {
	text := reference.FormatKey(public(key(1))[0])
	k, err := reference.ParseKey(text)
	if err != nil || !k.Equal(public(key(1))[0]) {
		t.Fatalf("%v, %v", k, err)
	}
	for name, s := range map[string]string{
		"nothing":     "",
		"two keys":    text + text,
		"a type":      strings.ReplaceAll(text, "PUBLIC", "PRIVATE"),
		"not base64":  "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n",
		"no key":      "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"a P-256 key": "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMKBCTNIcKUSDii11ySs3526iDZ8A\niTo7Tu6KPAqv7D7gS2XpJFbZiItSs3m9+9Ue6GnvHw/GW2ZZaVtszggXIw==\n-----END PUBLIC KEY-----\n",
	} {
		if _, err := reference.ParseKey(s); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sign(f, key(1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := reference.Read(b); err == nil && s.Verify(public(key(9)), 1) == nil {
			t.Fatal("verified by a key that never signed")
		}
	})
}
