package enclave

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/writ-attestation/writ/verifier/rotation"
	"github.com/writ-attestation/writ/verifier/token"
)

// trust is what the keeper pins at start: whose word counts.
type trust struct {
	V      int        `json:"v"`
	Domain string     `json:"domain"`
	Issuer string     `json:"issuer"`     // empty: https://<domain>
	Log    []string   `json:"log"`        // keys of the domain's log, in note format
	Root   string     `json:"root"`       // thumbprint of the key that certifies token keys; empty: none does
	Keys   token.Keys `json:"token_keys"` // JWKS

	book *rotation.Book // Keys, and what Log proved of them since
}

// loadTrust reads the members it needs of a trust file.
func loadTrust(path string) (*trust, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the trust file: %w", err)
	}
	var t trust
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("reading the trust file %s: %w", path, err)
	}
	if t.V != 1 || t.Domain == "" || len(t.Keys.IDs()) == 0 {
		return nil, fmt.Errorf("reading the trust file %s: expected version 1, a domain and token_keys", path)
	}
	if t.Issuer == "" {
		t.Issuer = "https://" + t.Domain
	}
	if t.book, err = rotation.New(t.Domain, rotation.Pins{Log: t.Log, Root: t.Root, Keys: t.Keys}); err != nil {
		return nil, fmt.Errorf("reading the trust file %s: %w", path, err)
	}
	return &t, nil
}

// A Grant is a token together with the moment it was asked for. It is made once,
// by whoever asked, and everybody else takes it as it is: the work may run until
// T0 + (exp - iat), never until now + anything.
type Grant struct {
	Token string
	T0    Instant // read before R was sent
	Place Place   // where T0 was read
	R     string  // what was drawn for this request, 32 bytes in base64url
}

// newGrant draws r and then reads the clock, in this order: it starts a request.
func newGrant(here Place) Grant {
	var r [32]byte
	_, _ = rand.Read(r[:]) // does not fail, see crypto/rand
	return Grant{T0: Now(), Place: here, R: base64.RawURLEncoding.EncodeToString(r[:])}
}

// An admission turns grants into deadlines and signed events into the end. It
// trusts nobody on the node but the keeper itself: the agent only carries.
type admission struct {
	trust     *trust
	here      Place
	audience  string
	workload  string
	execution string
	level     Level

	partition time.Duration // a token counts for no longer than this; 0 for its life

	mu      sync.Mutex
	subject string // of the first token; all later ones have the same
	boot    uint32
	seq     uint64 // of the last token
	epoch   uint64 // of the last token
	index   uint64 // of the last token's log entry
	kid     string // of the key that signed the last token
	over    bool   // after a revocation nothing counts any more
}

// admit checks a grant and returns the deadline it gives. The wall clock can
// only refuse a token, by being past its end.
func (a *admission) admit(g Grant, wall time.Time) (Instant, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := Now()
	switch {
	case a.over:
		return 0, errors.New("checking the token: the work was revoked")
	case g.R == "":
		return 0, errors.New("checking the token: it answers no request")
	case g.Place != a.here:
		return 0, errors.New("checking the token: it was asked for in another boot or time namespace")
	case g.T0 > now:
		return 0, errors.New("checking the token: it was asked for in the future")
	}
	c, err := token.Verify(g.Token, a.trust.book.Keys(wall), a.expect(g.R), notBefore(g.Token, wall))
	if err != nil {
		return 0, fmt.Errorf("checking the token: %w", err)
	}
	if err := a.matches(c); err != nil {
		return 0, fmt.Errorf("checking the token: %w", err)
	}
	life := c.Lease()
	if a.partition > 0 {
		life = min(life, a.partition)
	}
	deadline := g.T0.Add(life)
	if deadline <= now {
		return 0, errors.New("checking the token: it has already ended on the boot clock")
	}
	a.subject, a.boot, a.seq, a.epoch, a.index, a.kid = c.Subject, c.BootCount, c.Writ.Seq, c.Writ.Epoch, uint64(c.Writ.Log.Index), token.KeyID(g.Token)
	return deadline, nil
}

// last is the log entry of the last token admitted.
func (a *admission) last() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index
}

func (a *admission) expect(r string) token.Expect {
	return token.Expect{Issuer: a.trust.Issuer, Domain: a.trust.Domain, Audience: a.audience, Nonce: r}
}

// matches compares a verified token with what was asked for and seen before.
func (a *admission) matches(c *token.Claims) error {
	first := a.subject == ""
	for _, m := range []struct {
		name        string
		ok          bool
		found, want any
	}{
		{"sub", first || c.Subject == a.subject, c.Subject, a.subject},
		{"bootcount", first || c.BootCount == a.boot, c.BootCount, a.boot},
		{"seq", first || c.Writ.Seq > a.seq, c.Writ.Seq, fmt.Sprint("more than ", a.seq)},
		{"epoch", first || c.Writ.Epoch >= a.epoch, c.Writ.Epoch, fmt.Sprint("at least ", a.epoch)},
		{"writ.exec", c.Writ.Execution == a.execution, c.Writ.Execution, a.execution},
		{"writ.wl", c.Writ.Workload == a.workload, c.Writ.Workload, a.workload},
		{"writ.level", c.Writ.Level == a.level.String(), c.Writ.Level, a.level},
	} {
		if !m.ok {
			return fmt.Errorf("%s is %.100v, expected %v", m.name, m.found, m.want)
		}
	}
	return nil
}

// ends reports whether an event, signed by the pinned issuer for this node,
// ends the token in hand. What is unsigned, for another node or for an earlier
// token changes nothing.
func (a *admission) ends(event string, wall time.Time) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, err := token.VerifyEvent(event, a.trust.book.Keys(wall), a.expect(""), notBefore(event, wall))
	switch {
	case err != nil:
		return false, fmt.Errorf("checking a revocation: %w", err)
	case a.subject == "":
		return false, nil // nothing runs yet, and without a token nothing will
	case e.Subject != a.subject:
		return false, fmt.Errorf("checking a revocation: it is about %.100s", e.Subject)
	case e.Seq < a.seq:
		return false, nil
	}
	a.over = true
	return true, nil
}

// learn takes what the domain's log proves of its token keys, which the agent only
// carries, and reports whether the key behind the token in hand was withdrawn.
func (a *admission) learn(entries []rotation.Entry) (withdrawn bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err = a.trust.book.Learn(entries)
	return a.kid != "" && a.trust.book.Gone(a.kid), err
}

// withdrawn reports whether the key behind the token in hand was withdrawn.
func (a *admission) withdrawn() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.trust.book.Gone(a.kid)
}

// notBefore is the wall clock, but not earlier than a token says it was issued:
// that a token is not older than its request is proven by eat_nonce, so a node's
// clock that is slow must not refuse it, and one that is set back gains nothing.
func notBefore(tok string, wall time.Time) time.Time {
	var claims struct {
		IssuedAt int64 `json:"iat"`
	}
	if parts := strings.Split(tok, "."); len(parts) == 3 {
		if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(b, &claims) // unverified: it only moves the clock that the signed claims are held to
		}
	}
	if iat := time.Unix(claims.IssuedAt, 0); iat.After(wall) {
		return iat
	}
	return wall
}
