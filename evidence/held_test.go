package evidence_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/writ-attestation/writ/evidence"
)

// TestLongListInBundle: a list that grew beyond what one request may bring is
// read back from a bundle; as a request it is still too long.
func TestLongListInBundle(t *testing.T) {
	e := sample(t)
	e.Set(evidence.IMALog, evidence.Item{Content: bytes.Repeat([]byte{7}, 13<<20)})
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var back evidence.Evidence
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if back.Digest() != e.Digest() {
		t.Error("read back as other evidence")
	}
	if _, err := evidence.Parse(raw); err == nil {
		t.Error("a request of 17 MiB is read")
	}
	if err := back.UnmarshalJSON(make([]byte, evidence.MaxHeld+1)); err == nil {
		t.Error("evidence beyond every limit is read")
	}
}
