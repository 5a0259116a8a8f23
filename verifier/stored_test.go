package verifier

import (
	"encoding/json"
	"testing"

	"github.com/writ-attestation/writ/verifier/appraisal"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestStoredForms: rows and blobs of decisions are written as encoding/json writes
// them, every member of them.
func TestStoredForms(t *testing.T) {
	t.Parallel()
	form := func(v any, got []byte) {
		t.Helper()
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%T is written\n%s, expected\n%s", v, got, want)
		}
	}
	for _, d := range []decision{
		{},
		{Input: "in", Verdict: "v", Within: true, Claims: &token.Claims{Issuer: "<i>"}, KID: "k"},
		{Claims: new(token.Claims), KID: "k", Key: "y", Base: 7},
	} {
		form(d, d.marshal())
	}
	for _, in := range []storedInput{
		{Evidence: json.RawMessage(`{"a":"b"}`)},
		{Evidence: json.RawMessage(`"aa"`), Verdict: json.RawMessage(`{"v":1}`), UEFILog: "u", IMALog: []string{"1", "2"}, Challenge: appraisal.Challenge{Domain: "d", Nonce: []byte{1}},
			Enrolment: "e", Enrolled: 3, Boot: &appraisal.Boot{Clock: 5}, Set: "s", Layers: []string{"l"}, Lacking: true, EKRoots: []string{"r"}, IAKRoots: []string{"i"}, Rules: 1, At: -1},
		{Evidence: json.RawMessage(`{}`), EKRoots: []string{}, IMALog: []string{}},
	} {
		form(in, in.marshal())
	}
}
