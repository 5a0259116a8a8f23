package bundle_test

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

func witnessOf(t *testing.T, name string, seed byte) *ledger.Witness {
	t.Helper()
	w, err := ledger.NewWitness(name, ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), 32))))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// cosign adds witnesses' cosignatures to a proof.
func cosign(t *testing.T, receipt string, by []*ledger.Witness) string {
	t.Helper()
	p, err := ledger.ParseProof(receipt)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range by {
		line, err := w.Cosign(p.Note, time.Unix(1_800_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		receipt += string(line)
	}
	return receipt
}

// TestUnwitnessedReceipt: what the trust file demands and the receipt lacks
// leaves a bundle partial, whoever else has cosigned it.
func TestUnwitnessedReceipt(t *testing.T) {
	w1, w2, w3 := witnessOf(t, "w1.invalid", 1), witnessOf(t, "w2.invalid", 2), witnessOf(t, "w3.invalid", 3)
	stranger := witnessOf(t, "w1.invalid", 4)
	tr := trust(t)
	tr.WitnessPolicy = fmt.Sprintf("# two of three\nwitness w1 %s\nwitness w2 %s\nwitness w3 %s\ngroup all 2 w1 w2 w3\nquorum all\n", w1.VerifierKey(), w2.VerifierKey(), w3.VerifierKey())
	for _, c := range []struct {
		by   []*ledger.Witness
		want string
	}{
		{nil, bundle.ResultPartial},
		{[]*ledger.Witness{w1}, bundle.ResultPartial},
		{[]*ledger.Witness{w1, w1}, bundle.ResultPartial},
		{[]*ledger.Witness{w1, stranger}, bundle.ResultPartial},
		{[]*ledger.Witness{w1, w3}, bundle.ResultVerified},
		{[]*ledger.Witness{w3, w2, w1, stranger}, bundle.ResultVerified},
	} {
		b := load(t, "renewed")
		bare := b.Enrolment.Receipt
		b.Receipt, b.Enrolment.Receipt = cosign(t, b.Receipt, c.by), cosign(t, bare, c.by)
		if r := bundle.Verify(b, tr); r.Result != c.want {
			t.Errorf("%d cosignatures: %s, want %s: %+v", len(c.by), r.Result, c.want, r.Checks)
		}
		b.Enrolment.Receipt = bare
		if r := bundle.Verify(b, tr); r.Result != bundle.ResultPartial {
			t.Errorf("%d cosignatures of the decision alone: %s", len(c.by), r.Result)
		}
	}
	tr.WitnessPolicy = "quorum none\n"
	if r := bundle.Verify(load(t, "renewed"), tr); r.Result != bundle.ResultVerified {
		t.Errorf("nothing demanded: %s", r.Result)
	}
	tr.WitnessPolicy = "nonsense"
	if r := bundle.Verify(load(t, "renewed"), tr); r.Result != bundle.ResultInvalid {
		t.Errorf("a policy nobody can read: %s", r.Result)
	}
}

func TestPolicyRefused(t *testing.T) {
	key := witnessOf(t, "w.invalid", 1).VerifierKey()
	for _, text := range []string{
		"witness a " + key, // no quorum line
		"quorum a",
		"quorum none\nquorum none",
		"witness a x\nquorum a",
		"witness a " + key + "\nwitness b " + key + "\nquorum a", // one key, two votes
		"witness a " + key + "\ngroup g 2 a a\nquorum g",
		"witness a " + key + "\ngroup g 0 a\nquorum g",
		"witness a " + key + "\ngroup g 2 a\nquorum g",
		"group g all g\nquorum g",
		"witness none " + key + "\nquorum none",
		"log x\nquorum none",
	} {
		if _, err := bundle.ParsePolicy(text); err == nil {
			t.Errorf("accepted: %q", text)
		}
	}
}
