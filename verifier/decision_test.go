package verifier_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
)

func decisionKey(node string, index uint64) ledger.Key {
	return ledger.Key{Kind: "decision", ID: fmt.Sprintf("%s/%020d", node, index)}
}

// members are those of the object that is stored.
func (d *domain) members(stored []byte) map[string]json.RawMessage {
	d.t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(stored, &m); err != nil {
		d.t.Fatal(err)
	}
	return m
}

// decisionRow is the row of a decision.
func (d *domain) decisionRow(n *node, index uint64) map[string]json.RawMessage {
	d.t.Helper()
	raw, ok, err := d.log.Get(ctx, decisionKey(n.id, index))
	if err != nil || !ok {
		d.t.Fatalf("the row of decision %d: %v, %v", index, ok, err)
	}
	return d.members(raw)
}

// inputOf is the blob of what a decision rested on.
func (d *domain) inputOf(n *node, index uint64) []byte {
	d.t.Helper()
	var sum string
	if err := json.Unmarshal(d.decisionRow(n, index)["input"], &sum); err != nil {
		d.t.Fatal(err)
	}
	return d.blob(sum)
}

// TestDecisionsOfBefore: what was stored while verdicts were blobs of their own, and
// evidence in base64, is bundled, told again, checked and given up as it was then.
func TestDecisionsOfBefore(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.meddled = true
	body := d.shot(n).take(n)
	first, err := d.Attest(ctx, body)
	if err != nil {
		t.Fatal(err)
	}
	index := d.index(n)
	now, err := d.Bundle(ctx, n.id, int64(index))
	if err != nil {
		t.Fatal(err)
	}

	in, row := d.members(d.inputOf(n, index)), d.decisionRow(n, index)
	verdict := []byte(in["verdict"])
	delete(in, "verdict")
	encoded := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	in["evidence"] = encoded([]byte(in["evidence"]))
	stored := encoded(in)
	sum := sha256.Sum256(stored)
	row["input"] = encoded(hex.EncodeToString(sum[:]))
	delete(row, "within")
	if _, err := d.log.Append(ctx, ledger.Draft{Blobs: [][]byte{stored, verdict}, Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Puts: []ledger.Put{{Key: decisionKey(n.id, index), Value: encoded(row)}}}, nil
	}}); err != nil {
		t.Fatal(err)
	}

	then, err := d.Bundle(ctx, n.id, int64(index))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encoded(then.Input), encoded(now.Input)) || !bytes.Equal(then.Verdict, now.Verdict) {
		t.Errorf("the bundle differs:\n%s\n%s", encoded(then.Input), encoded(now.Input))
	}
	d.verifies(n, bundle.ResultVerified)
	again, err := d.Attest(ctx, body)
	if err != nil || string(again.Verdict) != string(first.Verdict) || input(again.Token) != input(first.Token) {
		t.Errorf("the retry got %+v, %v", again, err)
	}
	if found := d.fsckState(); len(found) > 0 {
		t.Errorf("fsck names %v", found)
	}
	d.pass(100 * 24 * time.Hour)
	d.mustGrant(n)
	if p := d.prune(90*day, false); p.Decisions != 1 || p.Blobs != 2 {
		t.Errorf("pruning gave up %+v", p)
	}
}

// TestVerdictOfAnother: a verdict in the blob of an input is the one that the entry
// names, or none.
func TestVerdictOfAnother(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.meddled = true
	d.mustGrant(n)
	index := d.index(n)
	in, row := d.members(d.inputOf(n, index)), d.decisionRow(n, index)
	in["verdict"] = bytes.Replace(in["verdict"], []byte(`"grant"`), []byte(`"deny"`), 1)
	stored, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(stored)
	row["input"] = json.RawMessage(`"` + hex.EncodeToString(sum[:]) + `"`)
	value, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.log.Append(ctx, ledger.Draft{Blobs: [][]byte{stored}, Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Puts: []ledger.Put{{Key: decisionKey(n.id, index), Value: value}}}, nil
	}}); err != nil {
		t.Fatal(err)
	}
	if b, err := d.Bundle(ctx, n.id, int64(index)); err == nil {
		t.Errorf("a bundle with the verdict %s", b.Verdict)
	}
	if found := d.fsckState(); len(found) != 1 {
		t.Errorf("fsck names %v, expected the verdict alone", found)
	}
}
