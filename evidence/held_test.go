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
	e.Set(evidence.IMALog, evidence.Item{Content: bytes.Repeat([]byte{7}, 20<<20)})
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
		t.Error("a request of 27 MiB is read")
	}
	e.Set(evidence.IMALog, evidence.Item{Content: bytes.Repeat([]byte{7}, 46<<20)})
	if raw, err = json.Marshal(e); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &back); err == nil {
		t.Error("evidence beyond every limit is read")
	}
}
