// Package hostile makes tokens and proofs of possession that must be refused, and
// shows them to every entrance where one can be presented. Only tests import it.
//
// An entrance that refuses everything would pass: each run begins with a token that
// must be let in.
package hostile

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	mrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

// Mutations is how many changes of a good token are tried at every entrance.
const Mutations = 10_000

// World is what an entrance believes. Claims are those of a token that it lets in,
// at At, with its holder's key.
type World struct {
	Issuer crypto.Signer // P-256
	Holder crypto.Signer // P-256, the key of Claims' cnf
	Claims token.Claims
	At     time.Time

	// What an entrance cannot know. Who tries a token against a verifier's state, or
	// against what it has seen before, leaves these false.
	Timeless bool // the domain's epoch and the node's boot: a token is looked at by itself
	Slow     bool // the time: its clock is not believed that a token is early
	Anyone   bool // whom a token is for
}

// Token is one that must be refused.
type Token struct{ Name, Token string }

var b64 = base64.RawURLEncoding

// Good is a token that must be let in.
func (w *World) Good(t testing.TB) string { return w.issue(t, w.Issuer, nil) }

func (w *World) issue(t testing.TB, key crypto.Signer, change func(*token.Claims)) string {
	t.Helper()
	c := w.Claims
	if change != nil {
		change(&c)
	}
	tok, err := token.Issue(c, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// Tokens are the bad ones, each with one thing wrong.
func (w *World) Tokens(t testing.TB) []Token {
	t.Helper()
	good := w.Good(t)
	parts := strings.Split(good, ".")
	out := []Token{
		{"empty", ""},
		{"truncated", good[:len(good)/2]},
		{"without a signature", parts[0] + "." + parts[1] + "."},
		{"oversize", parts[0] + "." + strings.Repeat("A", token.MaxSize) + "." + parts[2]},
		{"key of another domain", w.issue(t, newKey(t), nil)},
		{"forged signature", parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2]))},
		{"signature of another token", parts[0] + "." + parts[1] + "." + strings.Split(w.issue(t, w.Issuer, func(c *token.Claims) { c.ID += "x" }), ".")[2]},
	}
	out = append(out, w.confusions(t)...)
	out = append(out, w.claims(t)...)
	return append(out, w.payloads(t)...)
}

// claims are tokens that the issuer signed for something else.
func (w *World) claims(t testing.TB) (out []Token) {
	t.Helper()
	now := w.At.Unix()
	life := w.Claims.Expires - w.Claims.IssuedAt
	changes := map[string]func(*token.Claims){
		"expired":                func(c *token.Claims) { c.IssuedAt, c.NotBefore, c.Expires = now-life, now-life, now },
		"not yet valid":          func(c *token.Claims) { c.NotBefore = now + 30 },
		"issued in the future":   func(c *token.Claims) { c.IssuedAt, c.NotBefore, c.Expires = now+30, now+30, now+30+life },
		"wrong audience":         func(c *token.Claims) { c.Audience = "https://elsewhere.example" },
		"wrong issuer":           func(c *token.Claims) { c.Issuer += ".evil.example" },
		"node of another domain": func(c *token.Claims) { c.Subject = "spiffe://evil.example/node/00" },
		"no node":                func(c *token.Claims) { c.Subject = strings.Replace(c.Subject, "/node/", "/operator/", 1) },
	}
	if w.Slow {
		delete(changes, "not yet valid")
		delete(changes, "issued in the future")
	}
	if w.Anyone {
		delete(changes, "wrong audience")
	}
	if !w.Timeless {
		changes["stale epoch"] = func(c *token.Claims) {
			if c.Writ.Epoch--; c.Writ.Epoch > w.Claims.Writ.Epoch {
				c.Writ.Epoch = 1 // there is none before the first; another will do where the very one is known
			}
		}
		changes["token of another boot"] = func(c *token.Claims) { c.BootCount-- }
	}
	for name, change := range changes {
		out = append(out, Token{name, w.issue(t, w.Issuer, change)})
	}
	return out
}

// payloads are tokens that the issuer signed and would never write.
func (w *World) payloads(t testing.TB) (out []Token) {
	t.Helper()
	payload := w.part(t, 1)
	for name, edit := range map[string]func(map[string]any){
		"stripped cnf":   func(m map[string]any) { delete(m, "cnf") },
		"empty cnf":      func(m map[string]any) { m["cnf"] = map[string]any{} },
		"no exp":         func(m map[string]any) { delete(m, "exp") },
		"no nbf":         func(m map[string]any) { delete(m, "nbf") },
		"no iat":         func(m map[string]any) { delete(m, "iat") },
		"no jti":         func(m map[string]any) { delete(m, "jti") },
		"no writ":        func(m map[string]any) { delete(m, "writ") },
		"no profile":     func(m map[string]any) { delete(m, "eat_profile") },
		"two audiences":  func(m map[string]any) { m["aud"] = []any{m["aud"], "https://elsewhere.example"} },
		"lives too long": func(m map[string]any) { m["exp"] = w.Claims.IssuedAt + 301 },
		"exp as text":    func(m map[string]any) { m["exp"] = "9999999999" },
		"status without a place": func(m map[string]any) {
			m["status"] = map[string]any{"status_list": map[string]any{"uri": "https://test.invalid/v1/status-lists/0"}}
		},
		"not affirming": func(m map[string]any) { m["ear_status"] = "warning" },
	} {
		var m map[string]any
		if err := json.Unmarshal([]byte(payload), &m); err != nil {
			t.Fatal(err)
		}
		edit(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Token{name, w.sign(t, w.Issuer, w.part(t, 0), string(b))})
	}
	twice := strings.Replace(payload, `"exp":`, `"exp":9999999999,"exp":`, 1)
	return append(out, Token{"exp twice", w.sign(t, w.Issuer, w.part(t, 0), twice)})
}

// confusions are tokens whose header lies.
func (w *World) confusions(t testing.TB) (out []Token) {
	t.Helper()
	head, payload := w.part(t, 0), w.part(t, 1)
	for name, h := range map[string]string{
		"typ JWT":       strings.Replace(head, "eat+jwt", "JWT", 1),
		"typ of events": strings.Replace(head, "eat+jwt", "secevent+jwt", 1),
		"typ of proofs": strings.Replace(head, "eat+jwt", "dpop+jwt", 1),
		"jku":           strings.Replace(head, `{`, `{"jku":"https://evil.example/jwks",`, 1),
		"crit":          strings.Replace(head, `{`, `{"crit":["b64"],"b64":false,`, 1),
		"alg ES384":     strings.Replace(head, "ES256", "ES384", 1),
	} {
		out = append(out, Token{name, w.sign(t, w.Issuer, h, payload)})
	}
	input := func(alg string) string {
		return b64.EncodeToString([]byte(strings.Replace(head, "ES256", alg, 1))) + "." + b64.EncodeToString([]byte(payload))
	}
	keys, err := token.NewKeys(w.Issuer.Public())
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, keys.MarshalJWKS()) // what everybody has, as a secret
	mac.Write([]byte(input("HS256")))
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(input("RS256")))
	sig, err := rsa.SignPKCS1v15(rand.Reader, other, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return append(out, Token{"alg none", input("none") + "."}, Token{"alg none, signed", input("none") + "." + strings.Split(w.Good(t), ".")[2]},
		Token{"alg HS256", input("HS256") + "." + b64.EncodeToString(mac.Sum(nil))}, Token{"alg RS256", input("RS256") + "." + b64.EncodeToString(sig)})
}

// part is the header or payload of a good token.
func (w *World) part(t testing.TB, i int) string {
	t.Helper()
	b, err := b64.DecodeString(strings.Split(w.Good(t), ".")[i])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *World) sign(t testing.TB, key crypto.Signer, header, payload string) string {
	t.Helper()
	tok, err := token.Sign(rand.Reader, b64.EncodeToString([]byte(header))+"."+b64.EncodeToString([]byte(payload)), key)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Mutate calls f with [Mutations] changes of a token, always the same ones, each
// another.
func Mutate(good string, f func(bad string)) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	rnd := mrand.New(mrand.NewPCG(9, 449))
	tried := map[string]bool{good: true}
	for len(tried) <= Mutations {
		b := []byte(good)
		i, c := rnd.IntN(len(b)), alphabet[rnd.IntN(len(alphabet))]
		switch rnd.IntN(5) {
		case 0, 1:
			b[i] = c
		case 2:
			b = append(b[:i], b[i+1:]...)
		case 3:
			b = append(b[:i], append([]byte{c}, b[i:]...)...)
		case 4:
			j := rnd.IntN(len(b))
			b[i], b[j] = b[j], b[i]
		}
		if !tried[string(b)] {
			tried[string(b)] = true
			f(string(b))
		}
	}
}

// Refused shows an entrance that takes a token alone every bad one and [Mutations]
// of a good one. present returns nil for what it lets in.
func Refused(t *testing.T, w *World, present func(tok string) error) {
	t.Helper()
	if err := present(w.Good(t)); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	w.refused(t, present)
}

// Never shows every token, the good one too, to an entrance that takes none.
func Never(t *testing.T, w *World, present func(tok string) error) {
	t.Helper()
	if present(w.Good(t)) == nil {
		t.Error("the good token: let in where no token is to be")
	}
	w.refused(t, present)
}

func (w *World) refused(t *testing.T, present func(tok string) error) {
	t.Helper()
	bad := w.Tokens(t)
	for _, b := range bad {
		if present(b.Token) == nil {
			t.Errorf("%s: let in", b.Name)
		}
	}
	tried, good := 0, w.Good(t)
	Mutate(good, func(tok string) {
		tried++
		if present(tok) == nil {
			t.Errorf("a mutation was let in: %s", tok)
		}
	})
	if !t.Failed() {
		t.Logf("%d bad tokens and %d mutations, none let in", len(bad), tried)
	}
}
