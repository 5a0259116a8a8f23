package evidence_test

import (
	"bytes"
	"crypto/sha256"
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

// TestGrow: what is added to a held list gives the digest of the whole, however
// often and from wherever it is added.
func TestGrow(t *testing.T) {
	list := []byte("one entry, and more than one block of the hash: 0123456789 0123456789 0123456789")
	held := evidence.Whole(list)
	for _, more := range []string{"", " two", " three", string(list)} {
		grown := held.Grow([]byte(more))
		want := sha256.Sum256([]byte(string(list) + more))
		if string(grown.Content) != string(list)+more || grown.SHA256() != want {
			t.Errorf("grown by %q: %q with digest %x, want %x", more, grown.Content, grown.SHA256(), want)
		}
		if again := grown.Grow([]byte(" four")); again.SHA256() != sha256.Sum256([]byte(string(list)+more+" four")) {
			t.Errorf("grown by %q twice: digest %x", more, again.SHA256())
		}
	}
	if held.SHA256() != sha256.Sum256(list) || string(held.Content) != string(list) {
		t.Error("what was held has changed")
	}
	e := sample(t)
	e.Set(evidence.UEFILog, evidence.Item{Digest: make([]byte, 32)})
	if _, err := e.Complete(evidence.UEFILog, held); err == nil {
		t.Error("completed with content of another digest")
	}
}
