package token_test

import (
	"bytes"
	"compress/zlib"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/token"
)

const listURI = "https://test.invalid/v1/status-lists/0"

// signedStatusList signs a payload as the issuer of lists does.
func signedStatusList(t testing.TB, typ, payload string) (string, token.Keys) {
	t.Helper()
	key := newKey(t)
	return forge(t, key, strings.Replace(header(t, key), "eat+jwt", typ, 1), payload), keysOf(t, key)
}

// TestStatusListVectors are the two examples of the standard.
func TestStatusListVectors(t *testing.T) {
	for lst, c := range map[string]struct {
		bits int
		want []token.Status
	}{
		"eNrbuRgAAhcBXQ":  {1, []token.Status{1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1}},
		"eNo76fITAAPfAgc": {2, []token.Status{1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3}},
	} {
		list, keys := signedStatusList(t, "statuslist+jwt", fmt.Sprintf(`{"sub":%q,"iat":100,"exp":160,"ttl":10,"status_list":{"bits":%d,"lst":%q}}`, listURI, c.bits, lst))
		l, err := token.ParseStatusList(list, keys, listURI, time.Unix(120, 0))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range c.want {
			if got := l.Status(uint64(i)); got != want {
				t.Errorf("%s: status %d is %d, expected %d", lst, i, got, want)
			}
		}
		if l.Status(uint64(len(c.want))) != token.Invalid || l.Status(1<<63) != token.Invalid || new(token.StatusList).Status(0) != token.Invalid {
			t.Error("what is not in the list is not invalid")
		}
	}
}

// TestStatusListRoundTrip: what is set is read, and its neighbours are not.
func TestStatusListRoundTrip(t *testing.T) {
	key := newKey(t)
	l := token.NewStatusList(1 << 20)
	l.URI, l.IssuedAt, l.Expires, l.TTL = listURI, 100, 160, 10
	set := map[uint64]token.Status{0: token.Invalid, 5: token.Suspended, 1<<20 - 1: token.Invalid}
	for i, s := range set {
		l.Set(i, token.Suspended)
		l.Set(i, s)
	}
	list, err := token.IssueStatusList(l, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := token.ParseStatusList(list, keysOf(t, key), listURI, time.Unix(159, 0))
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(1<<20 + 2) {
		want := set[i]
		if i >= 1<<20 {
			want = token.Invalid
		}
		if got.Status(i) != want {
			t.Fatalf("status %d is %d, expected %d", i, got.Status(i), want)
		}
	}
	if got.TTL != 10 {
		t.Errorf("ttl %d", got.TTL)
	}
}

// TestPlaceInList: a token says where it is listed or nothing of it; what it says of
// other ways is ignored, and half a place is refused.
func TestPlaceInList(t *testing.T) {
	key := newKey(t)
	c := good()
	c.Listed.List = token.Place{Index: 7, URI: listURI}
	got, err := token.Verify(issue(t, c, key), keysOf(t, key), want, at)
	if err != nil || got.Listed != c.Listed {
		t.Errorf("%+v, %v", got, err)
	}
	for member, code := range map[string]string{
		`"status":{"identifier_list":{"id":"x"}}`:                            "",
		`"status":{"status_list":{"idx":0,"uri":"u"}}`:                       "",
		`"status":{"status_list":{"uri":"u"}}`:                               token.Incomplete,
		`"status":{"status_list":{"idx":1}}`:                                 token.Incomplete,
		`"status":{"status_list":{}}`:                                        token.Incomplete,
		`"status":{"status_list":{"idx":-1,"uri":"u"}}`:                      token.Malformed,
		`"status":{"status_list":{"idx":1.5,"uri":"u"}}`:                     token.Malformed,
		`"status":{"status_list":{"idx":1,"idx":2,"uri":"u"}}`:               token.DuplicateName,
		`"status":"valid"`:                                                   token.Malformed,
		`"status":{"status_list":{"idx":1,"uri":"u"}},"status":{}`:           token.DuplicateName,
		`"status":{"status_list":{"idx":1,"uri":"u"},"status_list":{"a":1}}`: token.DuplicateName,
	} {
		p := payload(t, `"jti"`, member+`,"jti"`)
		if _, err := token.Verify(forge(t, key, header(t, key), p), keysOf(t, key), want, at); token.Code(err) != code {
			t.Errorf("%s: %v, expected %q", member, err, code)
		}
	}
}

func packed(b []byte) string {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	w.Write(b)
	w.Close()
	return b64.EncodeToString(out.Bytes())
}

// TestBadStatusLists: a list that another token could pass for, that has expired, is
// for another URI, or unpacks to a bomb says nothing.
func TestBadStatusLists(t *testing.T) {
	good := fmt.Sprintf(`{"sub":%q,"iat":100,"exp":160,"status_list":{"bits":2,"lst":%q}}`, listURI, packed(make([]byte, 64)))
	for name, c := range map[string]struct {
		typ, payload, code string
		at                 int64
	}{
		"good":            {"statuslist+jwt", good, "", 120},
		"typ of tokens":   {"eat+jwt", good, token.WrongType, 120},
		"typ of events":   {"secevent+jwt", good, token.WrongType, 120},
		"another list":    {"statuslist+jwt", strings.Replace(good, "lists/0", "lists/1", 1), token.WrongSubject, 120},
		"expired":         {"statuslist+jwt", good, token.Expired, 160},
		"of the future":   {"statuslist+jwt", good, token.NotYetValid, 97},
		"no exp":          {"statuslist+jwt", strings.Replace(good, `"exp":160,`, "", 1), token.Incomplete, 120},
		"no iat":          {"statuslist+jwt", strings.Replace(good, `"iat":100,`, "", 1), token.Incomplete, 120},
		"three bits":      {"statuslist+jwt", strings.Replace(good, `"bits":2`, `"bits":3`, 1), token.Malformed, 120},
		"no bits":         {"statuslist+jwt", strings.Replace(good, `"bits":2,`, "", 1), token.Malformed, 120},
		"two lists":       {"statuslist+jwt", strings.Replace(good, `"bits":2`, `"bits":2,"lst":"x"`, 1), token.DuplicateName, 120},
		"no list":         {"statuslist+jwt", fmt.Sprintf(`{"sub":%q,"iat":100,"exp":160}`, listURI), token.Malformed, 120},
		"not zlib":        {"statuslist+jwt", fmt.Sprintf(`{"sub":%q,"iat":100,"exp":160,"status_list":{"bits":2,"lst":"AAAA"}}`, listURI), token.Malformed, 120},
		"cut off":         {"statuslist+jwt", good[:len(good)-8] + `"}}`, token.Malformed, 120},
		"something after": {"statuslist+jwt", fmt.Sprintf(`{"sub":%q,"iat":100,"exp":160,"status_list":{"bits":2,"lst":"eNrbuRgAAhcBXQAA"}}`, listURI), token.Malformed, 120},
		"a bomb":          {"statuslist+jwt", fmt.Sprintf(`{"sub":%q,"iat":100,"exp":160,"status_list":{"bits":2,"lst":%q}}`, listURI, packed(make([]byte, 8<<20))), token.Oversize, 120},
	} {
		list, keys := signedStatusList(t, c.typ, c.payload)
		if _, err := token.ParseStatusList(list, keys, listURI, time.Unix(c.at, 0)); token.Code(err) != c.code {
			t.Errorf("%s: %v, expected %q", name, err, c.code)
		}
		if _, err := token.ParseStatusList(list, keys, "", time.Unix(c.at, 0)); err == nil {
			t.Errorf("%s: accepted without an expectation", name)
		}
		if _, err := token.ParseStatusList(list, keysOf(t, newKey(t)), listURI, time.Unix(c.at, 0)); err == nil {
			t.Errorf("%s: accepted with another's keys", name)
		}
	}
}

func FuzzStatusList(f *testing.F) {
	good := fmt.Sprintf(`{"sub":%q,"iat":100,"exp":160,"ttl":10,"status_list":{"bits":2,"lst":%q}}`, listURI, packed(make([]byte, 64)))
	f.Add(good)
	f.Add(strings.Replace(good, "status_list", "status", 1))
	key := newKey(f)
	head, keys := strings.Replace(header(f, key), "eat+jwt", "statuslist+jwt", 1), keysOf(f, key)
	f.Fuzz(func(t *testing.T, payload string) {
		if _, err := token.ParseStatusList(payload, keys, listURI, time.Unix(120, 0)); err == nil {
			t.Errorf("%q is accepted without a signature", payload)
		}
		if l, err := token.ParseStatusList(forge(t, key, head, payload), keys, listURI, time.Unix(120, 0)); err == nil {
			l.Status(0)
			if l.URI != listURI || l.IssuedAt > 122 || l.Expires <= 120 || l.Status(8<<20) != token.Invalid {
				t.Errorf("%q is taken as %+v", payload, l)
			}
		}
	})
}
