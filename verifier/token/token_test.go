package token_test

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
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/writ-attestation/writ/verifier/token"
)

const issued = 1795437600

var (
	b64  = base64.RawURLEncoding
	want = token.Expect{Issuer: "https://verifier.prod.example.org", Domain: "prod.example.org", Audience: "spiffe://prod.example.org/enclave"}
	at   = time.Unix(issued+1, 0)
)

// good returns claims that Verify accepts at at.
func good() token.Claims {
	return token.Claims{
		Issuer: want.Issuer, Subject: "spiffe://prod.example.org/node/0b7c9f2e5d1a4c0e9a432f6d1f7b8e11", Audience: want.Audience,
		IssuedAt: issued, NotBefore: issued, Expires: issued + 60, ID: "01JD9Z0Q6S8M3T0V7K2N5P4R6W",
		Confirm: token.Confirm{JKT: text("jkt")}, Nonce: text("r"), BootCount: 7, Status: "affirming",
		Verifier: token.Verifier{Developer: "https://github.com/writ-attestation/writ", Build: "writ 0.1.0"},
		Submods: map[string]token.Submod{
			"platform":   {Status: "affirming", Vector: token.Vector{InstanceIdentity: 2, Configuration: 2, Executables: 3, Hardware: 2}, Policies: []string{"urn:sha256:" + text("policy")}},
			"os-runtime": {Status: "affirming", Vector: token.Vector{Executables: 2}, Policies: []string{"urn:sha256:" + text("policy")}},
		},
		Writ: token.Writ{V: 1, State: "synchronized", Seq: 18, Prev: text("prev"), Epoch: 4, Execution: "job-1", Workload: "sha256:" + strings.Repeat("ab", 32),
			Level: "E3", Key: "lease", Evidence: text("evidence"), References: text("references"), Verdict: text("verdict"), Log: token.Log{Origin: "prod.example.org/log", Index: 90211}},
	}
}

// text is 32 bytes in base64url.
func text(s string) string {
	sum := sha256.Sum256([]byte(s))
	return b64.EncodeToString(sum[:])
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keysOf(t testing.TB, signers ...*ecdsa.PrivateKey) token.Keys {
	t.Helper()
	var public []crypto.PublicKey
	for _, s := range signers {
		public = append(public, s.Public())
	}
	keys, err := token.NewKeys(public...)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func issue(t testing.TB, c token.Claims, key crypto.Signer) string {
	t.Helper()
	tok, err := token.Issue(c, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// forge signs whatever header and payload say.
func forge(t testing.TB, key crypto.Signer, header, payload string) string {
	t.Helper()
	tok, err := token.Sign(rand.Reader, b64.EncodeToString([]byte(header))+"."+b64.EncodeToString([]byte(payload)), key)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func header(t testing.TB, key crypto.Signer) string {
	t.Helper()
	kid, err := token.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return `{"typ":"eat+jwt","alg":"ES256","kid":"` + kid + `"}`
}

// payload is that of the good claims with one piece replaced.
func payload(t testing.TB, old, new string) string {
	t.Helper()
	c := good()
	c.Profile = "tag:ietf.org,2026:rats/ear#03"
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(b), old) != 1 {
		t.Fatalf("%s stands %d times in the payload, expected once", old, strings.Count(string(b), old))
	}
	return strings.Replace(string(b), old, new, 1)
}

// payload2023 is that of the good claims under EAR's names of 2023.
func payload2023(t testing.TB) string {
	t.Helper()
	c := good()
	c.Profile = token.Profile2023
	input, err := token.Prepare(c, "kid")
	if err != nil {
		t.Fatal(err)
	}
	b, err := b64.DecodeString(strings.Split(input, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// An attack is a token that must be refused with code, whoever it is shown to.
type attack struct {
	name, code string
	token      string
}

// attacks returns every bad token that can be made against the issuer of key.
func attacks(t testing.TB, key *ecdsa.PrivateKey) []attack {
	var all []attack
	add := func(name, code, tok string) { all = append(all, attack{name, code, tok}) }
	claims := func(name, code, old, new string) {
		add(name, code, forge(t, key, header(t, key), payload(t, old, new)))
	}
	head := func(name, code, old, new string) {
		h := header(t, key)
		if !strings.Contains(h, old) {
			t.Fatalf("no %s in the header", old)
		}
		add(name, code, forge(t, key, strings.Replace(h, old, new, 1), payload(t, "}}}", "}}}")))
	}
	tok := issue(t, good(), key)
	parts := strings.Split(tok, ".")

	add("Empty", token.Malformed, "")
	add("Truncated", token.Malformed, parts[0]+"."+parts[1])
	add("TruncatedSignature", token.BadSignature, tok[:len(tok)-1])
	add("FourParts", token.Malformed, tok+".")
	add("Oversize", token.Oversize, parts[0]+"."+strings.Repeat("A", token.MaxSize)+"."+parts[2])
	add("Padded", token.BadSignature, tok+"==")
	add("NewlineInSignature", token.BadSignature, parts[0]+"."+parts[1]+"."+parts[2][:43]+"\n"+parts[2][43:])
	add("JSONSerialization", token.Malformed, `{"protected":"`+parts[0]+`","payload":"`+parts[1]+`","signature":"`+parts[2]+`"}`)
	add("SignatureOfZeros", token.BadSignature, parts[0]+"."+parts[1]+"."+strings.Repeat("A", 86))
	add("SignatureAsDER", token.BadSignature, parts[0]+"."+parts[1]+"."+derSignature(t, key, parts[0]+"."+parts[1]))
	add("SignedByAnotherKey", token.BadSignature, forge(t, newKey(t), header(t, key), payload(t, "}}}", "}}}")))
	add("KeyOfAnotherDomain", token.UnknownKey, issue(t, good(), newKey(t)))

	head("WrongTyp", token.WrongType, "eat+jwt", "JWT")
	head("TypOfAnEvent", token.WrongType, "eat+jwt", "secevent+jwt")
	head("TypAbsent", token.WrongType, `"typ":"eat+jwt",`, ``)
	head("TypInAnotherCase", token.WrongType, "eat+jwt", "EAT+JWT")
	add("AlgNone", token.WrongAlgorithm, b64.EncodeToString([]byte(strings.Replace(header(t, key), "ES256", "none", 1)))+"."+parts[1]+".")
	add("HS256Confusion", token.WrongAlgorithm, hs256(t, key))
	add("RS256Confusion", token.WrongAlgorithm, rs256(t, key))
	head("AlgAbsent", token.WrongAlgorithm, `"alg":"ES256",`, ``)
	head("AlgTwice", token.DuplicateName, `"alg":"ES256"`, `"alg":"none","alg":"ES256"`)
	add("KidAbsent", token.UnknownKey, forge(t, key, `{"typ":"eat+jwt","alg":"ES256"}`, payload(t, "}}}", "}}}")))
	head("KeyInHeader", token.Malformed, `"alg"`, `"jwk":{},"alg"`)
	head("KeyURLInHeader", token.Malformed, `"alg"`, `"jku":"https://evil.example/jwks","alg"`)
	head("Crit", token.Malformed, `"alg"`, `"crit":["b64"],"b64":false,"alg"`)
	head("Compressed", token.Malformed, `"alg"`, `"zip":"DEF","alg"`)

	claims("WrongIssuer", token.WrongIssuer, `"iss":"https://verifier.prod`, `"iss":"https://verifier.other`)
	claims("MissingIss", token.WrongIssuer, `"iss":"https://verifier.prod.example.org",`, ``)
	claims("WrongAudience", token.WrongAudience, `.org/enclave"`, `.org/other"`)
	claims("TwoAudiences", token.Malformed, `"aud":"spiffe://prod.example.org/enclave"`, `"aud":["spiffe://prod.example.org/enclave","other"]`)
	claims("MissingAud", token.WrongAudience, `"aud":"spiffe://prod.example.org/enclave",`, ``)
	claims("SubjectOfAnotherDomain", token.WrongSubject, "spiffe://prod.example.org/node/", "spiffe://prod.example.org.evil/node/")
	claims("SubjectNotANode", token.WrongSubject, "spiffe://prod.example.org/node/", "spiffe://prod.example.org/verifier/")
	claims("SubjectBelowANode", token.WrongSubject, "spiffe://prod.example.org/node/", "spiffe://prod.example.org/node/x/")
	claims("MissingSub", token.WrongSubject, `"sub"`, `"sub_"`)
	claims("ProfileOf2023", token.WrongProfile, "tag:ietf.org,2026:rats/ear#03", "tag:github.com,2023:veraison/ear")
	add("NamesOf2023", token.WrongProfile, forge(t, key, header(t, key), strings.ReplaceAll(payload(t, "ear_verifier_id", "ear.verifier-id"), "ear_status", "ear.status")))
	add("NamesOfBothProfiles", token.WrongProfile, forge(t, key, header(t, key), strings.Replace(payload2023(t), `"ear.verifier-id"`, `"ear_status":"affirming","ear.verifier-id"`, 1)))
	add("SubmodNotAffirmingIn2023", token.NotLegitimate, forge(t, key, header(t, key), strings.Replace(payload2023(t), `"ear.status":"affirming"`, `"ear.status":"warning"`, 1)))
	add("NoSubmodsIn2023", token.Incomplete, forge(t, key, header(t, key), strings.Replace(payload2023(t), `"submods"`, `"submods_"`, 1)))
	add("NoPolicyIn2023", token.Incomplete, forge(t, key, header(t, key), strings.Replace(payload2023(t), `ear.appraisal-policy-id`, `ear.other`, 1)))
	claims("MissingProfile", token.WrongProfile, `"eat_profile"`, `"profile"`)
	claims("MissingExp", token.Incomplete, `"exp":1795437660,`, ``)
	claims("ExpNull", token.Malformed, `"exp":1795437660`, `"exp":null`)
	claims("ExpInCapitals", token.Incomplete, `"exp":`, `"EXP":`)
	claims("ExpEscaped", token.Malformed, `"exp":`, `"\u0065xp":`)
	claims("ExpFraction", token.Malformed, `"exp":1795437660`, `"exp":1795437660.5`)
	claims("ExpExponent", token.Malformed, `"exp":1795437660`, `"exp":1.79543766e9`)
	claims("ExpText", token.Malformed, `"exp":1795437660`, `"exp":"1795437660"`)
	claims("ExpNegative", token.Incomplete, `"exp":1795437660`, `"exp":-1`)
	claims("ExpHuge", token.LifeTooLong, `"exp":1795437660`, `"exp":9223372036854775807`)
	claims("ExpOverflow", token.Malformed, `"exp":1795437660`, `"exp":9223372036854775808`)
	claims("ExpLeadingZero", token.Malformed, `"exp":1795437660`, `"exp":01795437660`)
	claims("MissingIat", token.Incomplete, `"iat":1795437600,`, ``)
	claims("MissingNbf", token.Incomplete, `"nbf":1795437600,`, ``)
	claims("LifeTooLong", token.LifeTooLong, `"exp":1795437660`, `"exp":1795437901`)
	claims("ExpBeforeIat", token.LifeTooLong, `"iat":1795437600`, `"iat":1795437660`)
	claims("Expired", token.Expired, `"exp":1795437660`, `"exp":1795437601`)
	claims("NotYetValid", token.NotYetValid, `"nbf":1795437600`, `"nbf":1795437604`)
	claims("FromTheFuture", token.NotYetValid, `"iat":1795437600`, `"iat":1795437604`)
	claims("DuplicateKeys", token.DuplicateName, `"exp":1795437660`, `"exp":1795437660,"exp":1795437899`)
	claims("DuplicateKeysWithin", token.DuplicateName, `"seq":18`, `"seq":18,"seq":19`)
	claims("DuplicateKeysInUnknownClaim", token.DuplicateName, `"jti"`, `"x":{"a":1,"a":2},"jti"`)
	claims("StrippedCnf", token.Incomplete, `"cnf":{"jkt":"`+text("jkt")+`"},`, ``)
	claims("EmptyCnf", token.Incomplete, `"jkt":"`+text("jkt")+`"`, ``)
	claims("BoundTwice", token.Incomplete, `"cnf":{`, `"cnf":{"x5t#S256":"`+text("x5t")+`",`)
	claims("BoundInParts", token.Incomplete, `"jkt":"`+text("jkt")+`"`, `"jkt":"`+text("jkt")[:20]+`","x5t#S256":"`+text("jkt")[20:]+`"`)
	claims("MissingJti", token.Incomplete, `"jti"`, `"jti_"`)
	claims("MissingNonce", token.Incomplete, `"eat_nonce":"`+text("r")+`",`, ``)
	claims("MissingWrit", token.Incomplete, `"writ"`, `"other"`)
	claims("WritOfTheFuture", token.Incomplete, `"v":1`, `"v":2`)
	claims("WritWithoutSeq", token.Incomplete, `"seq":18,`, ``)
	claims("WritNegativeSeq", token.Malformed, `"seq":18`, `"seq":-18`)
	claims("NotAffirming", token.NotLegitimate, `"bootcount":7,"ear_status":"affirming"`, `"bootcount":7,"ear_status":"warning"`)
	claims("MissingStatus", token.NotLegitimate, `"bootcount":7,"ear_status":"affirming"`, `"bootcount":7`)
	claims("Constrained", token.NotLegitimate, `"state":"synchronized"`, `"state":"constrained"`)
	claims("NoSubmods", token.Incomplete, `"submods"`, `"submods_"`)
	claims("VectorOutOfRange", token.Malformed, `"hardware":2`, `"hardware":258`)
	claims("TrailingJSON", token.Malformed, `}}}`, `}}}{}`)
	claims("Deep", token.Malformed, `"jti"`, `"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`,"jti"`)
	claims("NotUTF8", token.Malformed, "01JD9Z", "01JD\xff")
	claims("NULByte", token.Malformed, "01JD9Z", "01JD\x00")
	add("PayloadNotJSON", token.Malformed, forge(t, key, header(t, key), "no"))
	add("EventAsToken", token.WrongType, issueEvent(t, goodEvent(), key))
	return all
}

func derSignature(t testing.TB, key *ecdsa.PrivateKey, input string) string {
	sum := sha256.Sum256([]byte(input))
	der, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return b64.EncodeToString(der)
}

// hs256 uses the public key, which everybody has, as an HMAC secret.
func hs256(t testing.TB, key *ecdsa.PrivateKey) string {
	input := b64.EncodeToString([]byte(strings.Replace(header(t, key), "ES256", "HS256", 1))) + "." + b64.EncodeToString([]byte(payload(t, "}}}", "}}}")))
	mac := hmac.New(sha256.New, keysOf(t, key).MarshalJWKS())
	mac.Write([]byte(input))
	return input + "." + b64.EncodeToString(mac.Sum(nil))
}

func rs256(t testing.TB, key *ecdsa.PrivateKey) string {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	input := b64.EncodeToString([]byte(strings.Replace(header(t, key), "ES256", "RS256", 1))) + "." + b64.EncodeToString([]byte(payload(t, "}}}", "}}}")))
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPKCS1v15(rand.Reader, other, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64.EncodeToString(sig)
}

func TestVerify(t *testing.T) {
	key := newKey(t)
	c := good()
	w := want
	w.Nonce, w.JKT = c.Nonce, c.Confirm.JKT
	got, err := token.Verify(issue(t, c, key), keysOf(t, newKey(t), key), w, at)
	if err != nil {
		t.Fatal(err)
	}
	c.Profile = "tag:ietf.org,2026:rats/ear#03"
	if d := cmp.Diff(&c, got); d != "" {
		t.Errorf("claims changed on the way (-sent +got):\n%s", d)
	}
	if got.Lease() != time.Minute {
		t.Errorf("lease is %s, expected 1m", got.Lease())
	}
}

// TestNamesOf2023: a token under EAR's names of 2023 says what the other one says, and
// nothing under the names of 2026.
func TestNamesOf2023(t *testing.T) {
	key := newKey(t)
	c := good()
	c.Profile = token.Profile2023
	got, err := token.Verify(issue(t, c, key), keysOf(t, key), want, at)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&c, got); d != "" {
		t.Errorf("claims changed on the way (-sent +got):\n%s", d)
	}
	p := payload2023(t)
	for _, name := range []string{"ear_", "ear.appraisal-policy-ids", `"ear.status":"affirming","ear.verifier-id"`} {
		if strings.Contains(p, name) {
			t.Errorf("%s is in %s", name, p)
		}
	}
	s := c.Submods["platform"]
	s.Policies = append(s.Policies, "urn:x")
	c.Submods = map[string]token.Submod{"platform": s}
	if _, err := token.Issue(c, key, rand.Reader); token.Code(err) != token.WrongProfile {
		t.Errorf("two policies in a claim for one: %v", err)
	}
}

func TestAttacks(t *testing.T) {
	key := newKey(t)
	keys := keysOf(t, key)
	for _, a := range attacks(t, key) {
		t.Run(a.name, func(t *testing.T) {
			c, err := token.Verify(a.token, keys, want, at)
			if code := token.Code(err); code != a.code || c != nil {
				t.Errorf("Verify: %v, expected %s", err, a.code)
			}
		})
	}
}

// TestUnknownClaims: receivers ignore what they do not know (EAR section 3).
func TestUnknownClaims(t *testing.T) {
	key := newKey(t)
	p := payload(t, `"jti"`, ` "other" : {"status_list":{"idx":1e3,"uri":"x\n\u00e9"},"a":[true,false,null,-1.5,[]]}, "jti"`)
	if _, err := token.Verify(forge(t, key, header(t, key), p), keysOf(t, key), want, at); err != nil {
		t.Error(err)
	}
}

func TestExpiredToken(t *testing.T) {
	key := newKey(t)
	keys, tok := keysOf(t, key), issue(t, good(), key)
	for _, x := range []struct {
		at   time.Time
		code string
	}{
		{time.Unix(issued+60, 0).Add(-time.Nanosecond), ""},
		{time.Unix(issued+60, 0), token.Expired},
		{time.Unix(issued+61, 0), token.Expired},
		{time.Unix(issued-2, 0), ""},
		{time.Unix(issued-2, 0).Add(-time.Nanosecond), token.NotYetValid},
		{time.Time{}, token.NotYetValid},
	} {
		if _, err := token.Verify(tok, keys, want, x.at); token.Code(err) != x.code {
			t.Errorf("at %s: %v, expected %q", x.at, err, x.code)
		}
	}
}

func TestNothingExpected(t *testing.T) {
	key := newKey(t)
	keys, tok := keysOf(t, key), issue(t, good(), key)
	for _, w := range []token.Expect{{}, {Domain: want.Domain, Audience: want.Audience}, {Issuer: want.Issuer, Audience: want.Audience}, {Issuer: want.Issuer, Domain: want.Domain}} {
		if _, err := token.Verify(tok, keys, w, at); token.Code(err) != token.NoExpectation {
			t.Errorf("expecting %+v: %v", w, err)
		}
	}
	if _, err := token.Verify(tok, token.Keys{}, want, at); token.Code(err) != token.UnknownKey {
		t.Errorf("with no keys: %v", err)
	}
}

func TestTokenOfAnotherRequest(t *testing.T) {
	key := newKey(t)
	w := want
	w.Nonce = text("another r")
	if _, err := token.Verify(issue(t, good(), key), keysOf(t, key), w, at); token.Code(err) != token.WrongNonce {
		t.Error(err)
	}
	w.Nonce, w.JKT = "", text("another key")
	if _, err := token.Verify(issue(t, good(), key), keysOf(t, key), w, at); token.Code(err) != token.WrongKey {
		t.Error(err)
	}
}

// TestRetry: the same claims have the same signing input, however often they
// are signed, so that the ledger can name the token before it exists.
func TestRetry(t *testing.T) {
	key := newKey(t)
	kid, err := token.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	input, err := token.Prepare(good(), kid)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if tok := issue(t, good(), key); !strings.HasPrefix(tok, input+".") || token.Digest(tok) != token.Digest(input) || token.Digest(tok) != sha256.Sum256([]byte(input)) {
			t.Fatalf("the token %s is not a signature of %s", tok, input)
		}
	}
}

// TestPrepareIncomplete: an issuer hears of what Verify would refuse before it
// commits to it.
func TestPrepareIncomplete(t *testing.T) {
	for name, spoil := range map[string]func(*token.Claims){
		"no exp":      func(c *token.Claims) { c.Expires = 0 },
		"long life":   func(c *token.Claims) { c.Expires = c.IssuedAt + 301 },
		"no cnf":      func(c *token.Claims) { c.Confirm.JKT = "" },
		"no seq":      func(c *token.Claims) { c.Writ.Seq = 0 },
		"denied":      func(c *token.Claims) { c.Status = "contraindicated" },
		"no policies": func(c *token.Claims) { c.Submods = map[string]token.Submod{"platform": {Status: "affirming"}} },
		"oversize":    func(c *token.Claims) { c.Audience = strings.Repeat("a", token.MaxSize) },
	} {
		c := good()
		spoil(&c)
		if _, err := token.Prepare(c, text("kid")); token.Code(err) == "" {
			t.Errorf("%s: %v, expected a refusal", name, err)
		}
	}
}

// TestPeer holds issue and verification against go-jose.
func TestPeer(t *testing.T) {
	key := newKey(t)
	jws, err := jose.ParseSignedCompact(issue(t, good(), key), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jws.Verify(key.Public()); err != nil {
		t.Errorf("go-jose refuses our token: %v", err)
	}
	kid, _ := token.Thumbprint(key.Public())
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("eat+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(payload(t, "}}}", "}}}")))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Verify(tok, keysOf(t, key), want, at); err != nil {
		t.Errorf("we refuse go-jose's token: %v", err)
	}
}

var update = flag.Bool("update", false, "write testdata/token anew")

// vectors is testdata/token/vectors.json: tokens as they are on the wire, each
// with what a verifier must say.
type vectors struct {
	JWKS   token.Keys      `json:"jwks"`
	Expect json.RawMessage `json:"expect"`
	At     int64           `json:"at"`
	Tokens []vector        `json:"tokens"`
}

type vector struct {
	Name   string `json:"name"`
	Code   string `json:"code"` // "" is accepted
	Digest string `json:"digest,omitempty"`
	Token  string `json:"token"`
}

func TestVectors(t *testing.T) {
	file := filepath.Join("..", "..", "testdata", "token", "vectors.json")
	if *update {
		writeVectors(t, file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	var w token.Expect
	if err := json.Unmarshal(v.Expect, &w); err != nil {
		t.Fatal(err)
	}
	for _, x := range v.Tokens {
		c, err := token.Verify(x.Token, v.JWKS, w, time.Unix(v.At, 0))
		if token.Code(err) != x.Code || (err == nil) != (x.Code == "") {
			t.Errorf("%s: %v, expected %q", x.Name, err, x.Code)
		}
		if err != nil {
			continue
		}
		if d := token.Digest(x.Token); b64.EncodeToString(d[:]) != x.Digest {
			t.Errorf("%s: digest %x, expected %s", x.Name, d, x.Digest)
		}
		input, err := token.Prepare(*c, v.JWKS.IDs()[0])
		if err != nil || !strings.HasPrefix(x.Token, input+".") {
			t.Errorf("%s: the same claims are written as %s (%v)", x.Name, input, err)
		}
	}
}

func writeVectors(t *testing.T, file string) {
	key := newKey(t)
	v := vectors{JWKS: keysOf(t, key), At: at.Unix()}
	v.Expect, _ = json.Marshal(want)
	tok := issue(t, good(), key)
	d := token.Digest(tok)
	v.Tokens = append(v.Tokens, vector{Name: "Good", Digest: b64.EncodeToString(d[:]), Token: tok})
	for _, a := range attacks(t, key) {
		if a.name != "Oversize" {
			v.Tokens = append(v.Tokens, vector{Name: a.name, Code: a.code, Token: a.token})
		}
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzVerify(f *testing.F) {
	key := newKey(f)
	keys := keysOf(f, key)
	for _, a := range attacks(f, key) {
		f.Add(a.token)
	}
	tok := issue(f, good(), key)
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := token.Verify(s, keys, want, at); err == nil && token.Digest(s) != token.Digest(tok) {
			t.Errorf("accepted %s as %+v", s, c)
		} else if err != nil && token.Code(err) == "" {
			t.Errorf("%v has no code", err)
		}
	})
}
