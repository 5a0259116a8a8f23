package verifier_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/store"
)

// fsckState is what deriving the state again finds.
func (d *domain) fsckState() []ledger.Problem {
	d.t.Helper()
	r, err := verifier.CheckState(ctx, d.reads.Store, d.cfg.Domain)
	if err != nil {
		d.t.Fatal(err)
	}
	return r.Problems
}

// meddle writes rows and takes blobs that no entry speaks of.
func (d *domain) meddle(sweep *ledger.Sweep, puts ...ledger.Put) {
	d.t.Helper()
	d.meddled = true
	if _, err := d.log.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{Puts: puts, Sweep: sweep}, nil }}); err != nil {
		d.t.Fatal(err)
	}
}

// edit is a row with some members changed.
func edit(t *testing.T, raw []byte, change func(row map[string]any)) []byte {
	t.Helper()
	row := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&row); err != nil {
		t.Fatal(err)
	}
	change(row)
	out, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestStateRewrittenByHand: whoever can write the database can give a row any
// value, with a good seal. The entries say what it was.
func TestStateRewrittenByHand(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	if _, err := d.SetStatus(ctx, operator, n.id, verifier.Suspended, "away"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetStatus(ctx, operator, n.id, verifier.Active, "back"); err != nil {
		t.Fatal(err)
	}
	d.mustGrant(n)
	gone := d.machine("c-grub-sb")
	d.enrol(gone, "grub")
	if _, err := d.SetStatus(ctx, operator, gone.id, verifier.Revoked, "stolen"); err != nil {
		t.Fatal(err)
	}
	joins, err := d.JoinTokens(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Freeze(ctx, operator, "drill"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.RevokeOperator(ctx, "operator/mallory", "mallory", "laptop stolen"); err != nil {
		t.Fatal(err)
	}
	if found := d.fsckState(); len(found) > 0 {
		t.Fatalf("a sound state: %v", found)
	}
	set := func(name string, v any) func(map[string]any) { return func(row map[string]any) { row[name] = v } }
	first := func(kind string) (id string) {
		rows, err := d.log.List(ctx, kind, "", 1)
		if err != nil || len(rows) == 0 {
			t.Fatalf("no row of kind %s: %v", kind, err)
		}
		return rows[0].Key.ID
	}
	for _, c := range []struct {
		kind, id string
		change   func(map[string]any) // nil: the row goes
		names    string
	}{
		{"node", gone.id, set("status", "active"), "node " + gone.id + ": its status is active; by entry"},
		{"node", n.id, set("class", "other"), "its class is other"},
		{"node", n.id, set("state", "elevated-assurance"), "its state is elevated-assurance"},
		{"node", n.id, set("ak", []byte("another")), "its attestation key is"},
		{"node", n.id, set("eks", []any{}), "its endorsement keys is ;"},
		{"node", n.id, set("ended", 0), "its last ended sequence number is 0"},
		{"node", n.id, set("seq", 0), "its last sequence number is 0"},
		{"node", n.id, set("counter", 1), "its number of decisions is 1"},
		{"node", n.id, set("deadline", 1<<40), "its deadline is"},
		{"node", n.id, set("doubt", true), "its doubt about its TPM is true"},
		{"node", n.id, set("boot", nil), "its proven boot is null"},
		{"node", n.id, set("prev", "abc"), "its last token is abc"},
		{"node", n.id, set("jkt", "abc"), "its agent's key is abc"},
		{"node", n.id, set("halted", 1<<40), "its last proof of halt is"},
		{"node", n.id, set("run", 1), "its run of legitimacy is 1"},
		{"node", n.id, set("boots", nil), "it has 0 boots; its decisions were on 1"},
		{"node", n.id, set("boots", []verifier.BootSpan{{ResetCount: 99, First: d.index(n)}}), "its boot {ResetCount:99"},
		{"node", n.id, set("boots", []verifier.BootSpan{{First: 3, Last: 9}, {First: 5}}), "are not one after the other"},
		{"node", n.id, nil, "enrols it, and it has no row"},
		{"ek", first("ek"), nil, "and no row says so"},
		{"ak", first("ak"), nil, "and no row says so"},
		{"reference", "grub", set("generation", 9), "reference set grub: generation 9"},
		{"reference", "grub", set("digest", strings.Repeat("ab", 32)), "its envelope holds another set"},
		{"reference", "grub", nil, "and it has no row"},
		{"domain", "state", set("frozen", false), "domain state: its freeze is false"},
		{"domain", "state", set("epoch", 0), "domain state: its epoch is 0"},
		{"domain", "state", set("since", 0), "domain state: its last act"},
		{"domain", "state", set("generation", 7), "domain state: its generation"},
		{"domain", "state", set("signer", "abc"), "domain state: its signing key is abc"},
		{"domain", "keys", set("log/abc", "abc"), `keys of the domain: the log/abc key is "abc"`},
		{"domain", "token-keys", set("keys", []any{}), "token key "},
		{"join-token", joins[0].ID, set("used_by", ""), "join token " + joins[0].ID},
		{"join-token", joins[0].ID, set("class", "other"), "join token " + joins[0].ID},
		{"decision", first("decision"), set("claims", nil), "the claims of its token are not kept"},
		{"decision", first("decision"), set("kid", "abc"), "its token follows the token"},
		{"decision", first("decision"), set("verdict", strings.Repeat("ab", 32)), "its verdict is"},
		{"decision", first("decision"), set("input", strings.Repeat("ab", 32)), "its input"},
		{"decision", first("decision"), nil, "it has no row that can be read"},
		{"over", first("over"), nil, "is over, and no row says so"},
		{"operator", "mallory", set("at", 1), "operator mallory: its row says that those of up to 1 were revoked"},
		{"operator", "mallory", nil, "revokes its certificates, and it has no row"},
		{"opening", first("opening"), set("text", "a better reason"), "it is not what was committed to"},
		{"opening", first("opening"), nil, "has no row that can be read"},
	} {
		key := ledger.Key{Kind: c.kind, ID: c.id}
		was, ok, err := d.log.Get(ctx, key)
		if err != nil || !ok {
			t.Fatalf("%v: %v", key, err)
		}
		var now []byte
		if c.change != nil {
			now = edit(t, was, c.change)
		}
		d.meddle(nil, ledger.Put{Key: key, Value: now})
		d.names(fmt.Sprint(c.kind, " ", c.id), c.names)
		d.meddle(nil, ledger.Put{Key: key, Value: was})
	}
	for _, c := range []struct {
		kind, id, value, names string
	}{
		{"node", strings.Repeat("ab", 16), `{"status":"active"}`, "no entry enrols it"},
		{"ek", "abc", `"` + n.id + `"`, "which no entry says"},
		{"reference", "mine", `{"generation":1}`, "no entry puts it in force"},
		{"join-token", "abc", `{"id":"abc","class":"grub"}`, "no entry makes it"},
		{"pending", "unfreeze", `{"by":["operator/bob"]}`, `approvals of unfreeze: its row says that "operator/bob" approved`},
		{"operator", "eve", `{"at":1,"entry":1}`, "operator eve: no entry revokes its certificates"},
		{"decision", n.id + "/00000000000000000001", `{}`, "the entry is none"},
		{"over", fmt.Sprintf("%020d", d.index(n)), `"` + n.id + `"`, "said to be over"},
		{"evidence", strings.Repeat("ab", 32), "1", "its blob is missing"},
		{"domain", "retention", `{"evidence":9}`, "retention: its row says"},
	} {
		key := ledger.Key{Kind: c.kind, ID: c.id}
		d.meddle(nil, ledger.Put{Key: key, Value: []byte(c.value)})
		d.names(fmt.Sprint("an added ", c.kind, " ", c.id), c.names)
		d.meddle(nil, ledger.Put{Key: key})
	}
	d.evidenceGone(n)
}

// names requires that deriving the state again finds something, and says what.
func (d *domain) names(what, want string) {
	d.t.Helper()
	found := d.fsckState()
	for _, p := range found {
		if strings.Contains(p.String(), want) {
			return
		}
	}
	d.t.Errorf("%s: not named as %q, but %v", what, want, found)
}

// evidenceGone takes each blob of the node's last decision away, and gives it back.
func (d *domain) evidenceGone(n *node) {
	d.t.Helper()
	raw, _, err := d.log.Get(ctx, ledger.Key{Kind: "decision", ID: fmt.Sprintf("%s/%020d", n.id, d.index(n))})
	if err != nil {
		d.t.Fatal(err)
	}
	var row struct{ Input string }
	var in struct {
		UEFILog   string `json:"uefi_log"`
		Enrolment string
		Set       string
		IMALog    []string `json:"ima_log"`
		EKRoots   []string `json:"ek_roots"`
	}
	err = json.Unmarshal(raw, &row)
	if err == nil {
		err = json.Unmarshal(d.blob(row.Input), &in)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	for _, sum := range append(append([]string{row.Input, in.UEFILog, in.Enrolment, in.Set}, in.IMALog...), in.EKRoots...) {
		b := d.blob(sum)
		d.meddle(&ledger.Sweep{Blobs: []ledger.Hash{hash(d.t, sum)}})
		d.names("evidence "+sum, sum)
		if _, err := d.log.Append(ctx, ledger.Draft{Blobs: [][]byte{b}, Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{}, nil }}); err != nil {
			d.t.Fatal(err)
		}
	}
	if found := d.fsckState(); len(found) > 0 {
		d.t.Errorf("with everything put back: %v", found)
	}
}

func hash(t testing.TB, sum string) ledger.Hash {
	t.Helper()
	b, err := hex.DecodeString(sum)
	if err != nil || len(b) != 32 {
		t.Fatalf("%q is no digest: %v", sum, err)
	}
	return ledger.Hash(b)
}

func (d *domain) blob(sum string) []byte {
	d.t.Helper()
	b, err := d.log.Blob(ctx, hash(d.t, sum))
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// TestFlippedOnDisk changes bits of everything the verifier keeps, on the disk. Each
// is named, and what rests on it is refused.
func TestFlippedOnDisk(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.meddled = true
	d.mustGrant(n)
	d.fill(300)
	size := d.log.Size()
	sound := d.backup()
	st := d.reads.Store.(*store.SQLite)
	tile, err := st.Tile(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := st.Pack(d.inputOf(n, d.index(n)))
	if err != nil {
		t.Fatal(err)
	}
	entry := size - 1
	attest := func() error { _, err := d.attest(n); return err }
	challenged := func() error { _, err := d.Challenge(ctx, n.id, ""); return err }
	bundled := func() error { _, err := d.Bundle(ctx, n.id, -1); return err }
	read := func() error { _, err := d.log.Entry(ctx, entry); return err }
	for _, c := range []struct {
		what, file string
		find       []byte
		names      string
		starts     bool
		closed     func() error // when it starts
	}{
		{"entry", "writ.db", []byte(`"data":{"n":299`), fmt.Sprintf("entry %d: its bytes have another hash", entry), true, read},
		{"tile", "writ.db", tile[:64], "tile 0 of level 0: it does not hold", false, nil},
		{"head", "writ.db", fmt.Appendf(nil, "test.invalid/log\n%d\n", size), "head: ", false, nil},
		{"node", "writ.db", []byte(`"class":"grub","status":"active`), "state row node/" + n.id, true, challenged},
		{"reference", "writ.db", []byte(`{"generation":1,"digest":"`), "state row reference/grub", true, attest},
		{"domain", "writ.db", []byte(`"frozen":false,"signer":"`), "state row domain/state", false, nil},
		{"keys", "writ.db", []byte(`{"challenge":"of the file`), "state row domain/keys", false, nil},
		{"blob", "writ.db", packed.Packed[:200], "blob", true, bundled},
		{"guard", "guard", []byte("test.invalid/log\n"), "guard file", false, nil},
	} {
		d.restore(sound)
		flipAll(t, filepath.Join(d.dir, c.file), c.find)
		if found := d.fsckDisk(); !strings.Contains(strings.Join(found, "\n"), c.names) {
			t.Errorf("%s: not named as %q, but %q", c.what, c.names, found)
		}
		err := d.start()
		if (err == nil) != c.starts {
			t.Errorf("%s: started with %v", c.what, err)
		}
		if err != nil {
			if !errors.Is(err, ledger.ErrCorrupt) && !errors.Is(err, ledger.ErrKey) {
				t.Errorf("%s: refused for another reason: %v", c.what, err)
			}
			continue
		}
		if c.closed == nil {
			continue
		}
		refusal := (*protocol.Refusal)(nil)
		if err := c.closed(); !errors.Is(err, ledger.ErrCorrupt) || errors.As(err, &refusal) {
			t.Errorf("%s: what rests on it: %v", c.what, err)
		}
	}
}

// fsckDisk is what writd fsck says of the stopped domain's files.
func (d *domain) fsckDisk() (out []string) {
	d.t.Helper()
	st, err := store.ReadSQLite(ctx, filepath.Join(d.dir, "writ.db"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer st.Close()
	out, err = st.Check(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	r, err := ledger.Fsck(ctx, st, filepath.Join(d.dir, "guard"), d.log.VerifierKey())
	if err != nil {
		d.t.Fatal(err)
	}
	state, err := verifier.CheckState(ctx, st, d.cfg.Domain)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, p := range append(r.Problems, state.Problems...) {
		out = append(out, p.String())
	}
	return out
}

// flipAll changes one bit of a file wherever it holds find: SQLite leaves copies.
func flipAll(t *testing.T, path string, find []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, find) {
		t.Fatalf("%s does not hold %q", path, find)
	}
	flipped := bytes.Clone(find)
	flipped[len(flipped)-1] ^= 1
	if err := os.WriteFile(path, bytes.ReplaceAll(raw, find, flipped), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPseudonymOfAnotherNode: a row that gives a pseudonym to another node, or a node
// another set than judged it, would show one for the other.
func TestPseudonymOfAnotherNode(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	if found := d.fsckState(); len(found) > 0 {
		t.Fatalf("a sound state: %v", found)
	}
	raw, ok, err := d.log.Get(ctx, ledger.Key{Kind: "node", ID: n.id})
	if err != nil || !ok {
		t.Fatal(err)
	}
	d.meddle(nil, ledger.Put{Key: ledger.Key{Kind: "subject", ID: d.Subject(n.id)}, Value: []byte(`"other"`)},
		ledger.Put{Key: ledger.Key{Kind: "node", ID: n.id}, Value: edit(t, raw, func(row map[string]any) { row["last"].(map[string]any)["references"] = "ab" })})
	found := fmt.Sprint(d.fsckState())
	for _, want := range []string{`of node "other"`, "its set of the last decision is ab"} {
		if !strings.Contains(found, want) {
			t.Errorf("found %s, want %s", found, want)
		}
	}
}
