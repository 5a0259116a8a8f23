package protocol_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/protocol"
)

// TestOutcomeForm: an outcome is written as encoding/json writes it.
func TestOutcomeForm(t *testing.T) {
	at := time.Date(2026, 11, 24, 16, 0, 1, 0, time.UTC)
	for _, o := range []protocol.Outcome{
		{},
		{Verdict: json.RawMessage(`{"v":1}`), Token: "a.b.c", Receipt: "c2sp.org/tlog-proof@v1\nindex 1\n<\n", Challenge: protocol.Challenge{Nonce: []byte{1, 2}, Expires: at}, Tier: "affirming", At: 5},
		{Verdict: json.RawMessage(`{"v":1}`), Challenge: protocol.Challenge{Nonce: []byte{}, Expires: at.Add(time.Millisecond).In(time.FixedZone("x", 3600))}, Events: []string{"a.b.c", "d.e.f"}},
	} {
		want, err := json.Marshal(&o)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.AppendJSON([]byte("x")); string(got) != "x"+string(want) {
			t.Errorf("written\n%s, expected\nx%s", got, want)
		}
	}
}
