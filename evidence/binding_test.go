package evidence_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/writ-attestation/writ/evidence"
)

// vector is testdata/vectors/evidence-binding.json, whose hashes were computed
// from the definition without this package: its comment says how.
type vector struct {
	Cases []struct {
		Name    string           `json:"name"`
		Purpose evidence.Purpose `json:"purpose"`
		Domain  string           `json:"domain"`
		Node    string           `json:"node"`
		Nonce   string           `json:"nonce"`
		Extra   string           `json:"extra_data"`
	} `json:"cases"`
	Items []struct {
		Label   string `json:"label"`
		Content string `json:"content"`
		Bound   bool   `json:"bound"`
	} `json:"items"`
	Evidence string `json:"evidence"`
	Digest   string `json:"digest"`
}

func readVector(t testing.TB) (v vector) {
	t.Helper()
	b, err := os.ReadFile("../testdata/vectors/evidence-binding.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestBindingVector(t *testing.T) {
	v := readVector(t)
	e := parse(t, []byte(v.Evidence))
	seen := map[string]string{}
	for _, c := range v.Cases {
		nonce := [32]byte(unhex(t, c.Nonce))
		sum := e.Binding(c.Purpose, c.Domain, c.Node, nonce)
		if got := hex.EncodeToString(sum[:]); got != c.Extra {
			t.Errorf("%s: extraData %s, want %s", c.Name, got, c.Extra)
		}
		if other := seen[c.Extra]; other != "" {
			t.Errorf("%s and %s have one hash", c.Name, other)
		}
		seen[c.Extra] = c.Name
	}
	for _, it := range v.Items {
		if it.Label != "quote" && hex.EncodeToString(e.Item(it.Label).Content) != it.Content {
			t.Errorf("%s: content %x, want %s", it.Label, e.Item(it.Label).Content, it.Content)
		}
	}
	if sum := e.Digest(); hex.EncodeToString(sum[:]) != v.Digest {
		t.Errorf("digest %x, want %s", sum, v.Digest)
	}
}

// attestation is the binding that the changes below are held against.
func attestation(e *evidence.Evidence) [32]byte {
	return e.Binding(evidence.Attestation, "example.org", "node", [32]byte{1})
}

// TestBindingOfAnotherDomain: a challenge passed on to a node that is enrolled
// in two domains earns nothing in the other one (security rule 7).
func TestBindingOfAnotherDomain(t *testing.T) {
	e := sample(t)
	mine := attestation(e)
	for name, other := range map[string][32]byte{
		"domain":                        e.Binding(evidence.Attestation, "example.net", "node", [32]byte{1}),
		"node":                          e.Binding(evidence.Attestation, "example.org", "edon", [32]byte{1}),
		"nonce":                         e.Binding(evidence.Attestation, "example.org", "node", [32]byte{2}),
		"purpose":                       e.Binding(evidence.Collection, "example.org", "node", [32]byte{1}),
		"no purpose":                    e.Binding(0, "example.org", "node", [32]byte{1}),
		"letters moved to the node":     e.Binding(evidence.Attestation, "example.or", "gnode", [32]byte{1}),
		"letters moved to the domain":   e.Binding(evidence.Attestation, "example.orgn", "ode", [32]byte{1}),
		"domain and node in each other": e.Binding(evidence.Attestation, "node", "example.org", [32]byte{1}),
	} {
		if other == mine {
			t.Errorf("another %s gives the same binding", name)
		}
	}
}

// TestUnboundItem: every item but the quote and the lists that grow while
// quoting is covered, whether changed, added, left out or swapped.
func TestUnboundItem(t *testing.T) {
	for _, label := range []string{evidence.BindKey, evidence.EKCert, evidence.KeyCert, evidence.Ask, evidence.UEFILog} {
		e := sample(t)
		before := attestation(e)
		e.Set(label, evidence.Item{Content: append(e.Item(label).Content, '!')})
		if attestation(e) == before {
			t.Errorf("%s can be changed", label)
		}
		e.Set(label, evidence.Item{})
		if attestation(e) == before {
			t.Errorf("%s can be left out", label)
		}
	}
	e := sample(t)
	before := attestation(e)
	a, b := e.Item(evidence.BindKey), e.Item(evidence.UEFILog)
	e.Set(evidence.BindKey, b)
	e.Set(evidence.UEFILog, a)
	if attestation(e) == before {
		t.Error("two items can be swapped")
	}
	for _, label := range []string{evidence.IMALog, evidence.OSLog} { // proven by their PCRs
		e := sample(t)
		before := attestation(e)
		e.Set(label, evidence.Item{Content: []byte("longer meanwhile")})
		if attestation(e) != before {
			t.Errorf("%s is bound, though it grows while the TPM signs", label)
		}
	}
}

// TestVariableLengthNonce: a nonce that could run into the item hashes would let
// `writ collect --nonce` imitate an attestation (security rule 7). The type
// allows 32 bytes only; a digest in the nonce's place is not an item's digest.
func TestVariableLengthNonce(t *testing.T) {
	e := evidence.New(evidence.Quote{})
	var empty [32]byte = attestation(e)
	e.Set(evidence.Ask, evidence.Item{Content: []byte("x")})
	if one := attestation(e); one == empty || e.Binding(evidence.Attestation, "example.org", "node", one) == one {
		t.Error("items and nonce run into each other")
	}
	for _, n := range []string{"", "AA==", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="} {
		e := sample(t)
		e.Quote.Nonce = unbase64(t, n)
		back := parse(t, marshal(t, e)) // the claim of a nonce may have any length
		if len(back.Quote.Nonce) != len(e.Quote.Nonce) {
			t.Errorf("nonce of %d bytes read as %d", len(e.Quote.Nonce), len(back.Quote.Nonce))
		}
	}
}

// TestLogByDigest: a log named by its digest binds and identifies the evidence
// like the log itself, and can be completed by nothing else (security rule 7).
func TestLogByDigest(t *testing.T) {
	whole := sample(t)
	named := parse(t, marshal(t, sampleByDigest(t)))
	if attestation(named) != attestation(whole) {
		t.Error("the digest form binds to something else")
	}
	if _, err := named.Full(evidence.UEFILog, []byte("another log")); err == nil {
		t.Error("completed with another log than the one named")
	}
	full, err := named.Full(evidence.UEFILog, whole.Item(evidence.UEFILog).Content)
	if err != nil {
		t.Fatal(err)
	}
	if full.Digest() != whole.Digest() || attestation(full) != attestation(whole) {
		t.Error("completed evidence is not the evidence sent whole")
	}
	if string(marshal(t, full)) != string(marshal(t, whole)) {
		t.Error("completed evidence has other bytes than the evidence sent whole")
	}
	if named.Item(evidence.UEFILog).Content != nil {
		t.Error("completing changed the evidence it was asked of")
	}
}

func TestListFromOffset(t *testing.T) {
	whole := sample(t)
	list := whole.Item(evidence.IMALog).Content
	e := sample(t)
	e.Set(evidence.IMALog, evidence.Item{Content: list[5:], Offset: 5})
	e = parse(t, marshal(t, e))
	if it := e.Item(evidence.IMALog); it.Offset != 5 || string(it.Content) != string(list[5:]) {
		t.Fatalf("offset form read as %+v", it)
	}
	full, err := e.Full(evidence.IMALog, list)
	if err != nil {
		t.Fatal(err)
	}
	if full.Digest() != whole.Digest() {
		t.Error("completed evidence is not the evidence sent whole")
	}
	for name, content := range map[string]string{
		"other bytes": "01234XXXXX",
		"too short":   string(list[:len(list)-1]),
		"empty":       "",
	} {
		if _, err := e.Full(evidence.IMALog, []byte(content)); err == nil {
			t.Errorf("completed with %s", name)
		}
	}
	e.Set(evidence.IMALog, evidence.Item{Content: list, Offset: 1<<64 - 1}) // no wrap-around
	if _, err := e.Full(evidence.IMALog, list); err == nil {
		t.Error("completed at an offset past the end of everything")
	}
}
