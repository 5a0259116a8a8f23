package token_test

import (
	"crypto"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-attestation/writ/verifier/token"
)

func goodEvent() token.Event {
	return token.Event{Issuer: want.Issuer, Subject: good().Subject, Audience: want.Audience, ID: "event-1", IssuedAt: issued, Seq: 18, Epoch: 4, Cause: "node-revoked", Reason: "lost & \"found\""}
}

func issueEvent(t testing.TB, e token.Event, key crypto.Signer) string {
	t.Helper()
	set, err := token.IssueEvent(e, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestEvent(t *testing.T) {
	key := newKey(t)
	e := goodEvent()
	for _, at := range []time.Time{at, at.AddDate(1, 0, 0)} { // an old event still ends
		got, err := token.VerifyEvent(issueEvent(t, e, key), keysOf(t, key), want, at)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(&e, got); d != "" {
			t.Errorf("the event changed on the way (-sent +got):\n%s", d)
		}
	}
	for seq, ends := range map[uint64]bool{17: true, 18: true, 19: false} {
		c := good()
		c.Writ.Seq = seq
		if e.Ends(&c) != ends {
			t.Errorf("the event up to seq 18 ends seq %d: %t, expected %t", seq, !ends, ends)
		}
	}
	c := good()
	if c.Subject += "0"; e.Ends(&c) {
		t.Error("the event ends a token of another node")
	}
}

func TestForgedEvent(t *testing.T) {
	key := newKey(t)
	keys := keysOf(t, key)
	h := strings.Replace(header(t, key), "eat+jwt", "secevent+jwt", 1)
	body := `{"iss":"` + want.Issuer + `","jti":"1","iat":1795437600,"aud":"` + want.Audience + `","sub_id":{"format":"uri","uri":"` + good().Subject +
		`"},"events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{"event_timestamp":1,"reason_admin":{"en":"x","de":"y"},"initiating_entity":"admin","writ":{"seq":1,"epoch":1,"cause":"c","x":1}},"x":{}},"txn":"1"}`
	if _, err := token.VerifyEvent(forge(t, key, h, body), keys, want, at); err != nil {
		t.Fatalf("an event with members we do not know: %v", err)
	}
	for _, x := range []struct{ name, code, old, new string }{
		{"exp", token.Malformed, `"jti"`, `"exp":1,"jti"`},
		{"sub", token.Malformed, `"jti"`, `"sub":"x","jti"`},
		{"another issuer", token.WrongIssuer, `"iss":"https://verifier.prod`, `"iss":"https://verifier.other`},
		{"another audience", token.WrongAudience, `/enclave"`, `/other"`},
		{"another domain's node", token.WrongSubject, `"uri":"spiffe://prod`, `"uri":"spiffe://other`},
		{"another format", token.Incomplete, `"format":"uri"`, `"format":"opaque"`},
		{"another event", token.Incomplete, `session-revoked`, `session-established`},
		{"no cause", token.Incomplete, `"cause"`, `"reason"`},
		{"no iat", token.Incomplete, `"iat"`, `"iat_"`},
		{"from the future", token.NotYetValid, `"iat":1795437600`, `"iat":1795437604`},
		{"seq twice", token.DuplicateName, `"seq":1`, `"seq":0,"seq":1`},
	} {
		if !strings.Contains(body, x.old) {
			t.Fatalf("%s: no %s in the event", x.name, x.old)
		}
		set := forge(t, key, h, strings.Replace(body, x.old, x.new, 1))
		if _, err := token.VerifyEvent(set, keys, want, at); token.Code(err) != x.code {
			t.Errorf("%s: %v, expected %s", x.name, err, x.code)
		}
	}
	for name, set := range map[string]string{"a token": issue(t, good(), key), "another key": issueEvent(t, goodEvent(), newKey(t))} {
		if _, err := token.VerifyEvent(set, keys, want, at); token.Code(err) == "" {
			t.Errorf("%s passes for an event (%v)", name, err)
		}
	}
	if _, err := token.VerifyEvent(issueEvent(t, goodEvent(), key), keys, token.Expect{}, at); token.Code(err) != token.NoExpectation {
		t.Errorf("nothing expected: %v", err)
	}
	if _, err := token.IssueEvent(token.Event{}, key, rand.Reader); token.Code(err) != token.Incomplete {
		t.Errorf("issuing the zero event: %v", err)
	}
}

func FuzzVerifyEvent(f *testing.F) {
	key := newKey(f)
	keys := keysOf(f, key)
	f.Add(issueEvent(f, goodEvent(), key))
	f.Add(issue(f, good(), key))
	f.Fuzz(func(t *testing.T, set string) {
		e, err := token.VerifyEvent(set, keys, want, at)
		if err == nil && (e.Issuer != want.Issuer || e.Seq != goodEvent().Seq) {
			t.Errorf("%s is taken for the issuer's word: %+v", set, e)
		}
	})
}
