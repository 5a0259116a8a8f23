package verifier_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// TestRetiredVerifierComesBack: a log key that was retired is recorded once, and
// neither starts a verifier nor joins again; a key nobody knew is not retired.
func TestRetiredVerifierComesBack(t *testing.T) {
	t.Parallel()
	first, id, stranger := strings.Repeat("ee", 32), strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	d := newDomain(t, func(c *verifier.Config) { c.KeyIDs["log"] = first })
	set := func(own string, peers, retired []string) error {
		t.Helper()
		d.cfg.KeyIDs["log"] = own
		d.cfg.PeerLogKeys, d.cfg.RetiredLogKeys = peers, retired
		return d.restart()
	}
	count := func(kind string) (n int) {
		for _, leaf := range d.entries(0) {
			if leaf.Kind == kind && leaf.Subject == bundle.Subject(d.cfg.Domain, "log-key/"+id) {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		own            string
		peers, retired []string
		want           error
	}{
		{first, nil, []string{id}, keys.ErrMissing}, // never recorded
		{first, []string{id}, nil, nil},
		{id, nil, nil, nil},
		{first, nil, []string{id}, nil},
		{first, nil, []string{id, id}, nil}, // each start after
		{id, nil, nil, keys.ErrMissing},
		{first, []string{id}, nil, keys.ErrMissing},
		{first, nil, []string{stranger}, keys.ErrMissing},
		{first, nil, []string{id}, nil},
	} {
		if err := set(step.own, step.peers, step.retired); !errors.Is(err, step.want) {
			t.Errorf("own %.4q, peers %.4q, retired %.4q: %v, want %v", step.own, step.peers, step.retired, err, step.want)
		}
	}
	if joined, retired := count(bundle.VerifierJoined), count(bundle.VerifierRetired); joined != 1 || retired != 1 {
		t.Errorf("joined %d times, retired %d times", joined, retired)
	}
	leaf := d.entries(0)[d.log.Size()-1]
	if leaf.Kind != bundle.VerifierStarted || !strings.Contains(string(leaf.Data), `"retired-log/`+id) || strings.Contains(string(leaf.Data), `"log/`+id) {
		t.Errorf("the last start says %s", leaf.Data)
	}
}

// TestRetiredLogKeySignsNewCheckpoint: whoever has stolen the key of a verifier that was
// retired signs checkpoints of a larger log. They freeze nothing, no trust file believes
// them, and a head in the database that bears one is named and not gone on from.
func TestRetiredLogKeySignsNewCheckpoint(t *testing.T) {
	t.Parallel()
	const origin = "test.invalid/log"
	stolen := ed25519.NewKeyFromSeed(bytes32(2))
	own, err := ledger.VerifierKey(origin, ed25519.NewKeyFromSeed(bytes32(1)).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := ledger.VerifierKey(origin, stolen.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, k := range []string{own, vkey} {
		if ids[k], err = ledger.KeyID(origin, k); err != nil {
			t.Fatal(err)
		}
	}
	d := newDomain(t, func(c *verifier.Config) { c.KeyIDs["log"] = ids[own] })
	n := d.machine("c-grub-sb")
	d.enrol(n, "grub")
	d.peers, d.cfg.PeerLogKeys = []string{vkey}, []string{ids[vkey]}
	if err := d.restart(); err != nil {
		t.Fatal(err)
	}
	d.peers, d.retired, d.cfg.PeerLogKeys, d.cfg.RetiredLogKeys = nil, []string{vkey}, nil, []string{ids[vkey]}
	if err := d.restart(); err != nil {
		t.Fatal(err)
	}
	trust, err := d.Trust(d.log.VerifierKeys()...)
	if err != nil || trust.Retired == nil || len(trust.Retired.Log) != 1 {
		t.Fatalf("%+v, %v", trust, err)
	}
	end := trust.Retired.Log[0].Size
	forged, err := ledger.Open(ctx, ledger.Config{Store: storetest.NewMemory(), Origin: origin, Key: stolen, GuardFile: filepath.Join(t.TempDir(), "guard"), Now: d.now})
	if err != nil {
		t.Fatal(err)
	}
	defer forged.Close()
	for size := uint64(0); size < end+3; size++ {
		rs, err := forged.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
			return ledger.Change{Entries: []ledger.Entry{{Kind: bundle.Unfrozen}}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if size < end {
			continue
		}
		note := forged.Checkpoint()
		if _, err := d.Challenge(ctx, n.id, string(note)); err != nil || d.log.Frozen() != nil {
			t.Fatalf("a checkpoint of size %d by a key that ended at %d: %v, frozen: %v", size+1, end, err, d.log.Frozen())
		}
		if err := d.log.Confront(ctx, note); !errors.Is(err, ledger.ErrKey) {
			t.Errorf("a node shows it: %v", err)
		}
		if err := d.Witnessed(ctx, note); !errors.Is(err, ledger.ErrKey) {
			t.Errorf("witnesses cosigned it: %v", err)
		}
		if _, err := trust.OpenCheckpoint(note); err == nil {
			t.Error("the trust file believes it")
		}
		if _, _, err := trust.CheckProof(rs[0].Proof, rs[0].Entry); err == nil {
			t.Error("the trust file believes a proof under it")
		}
	}
	by, err := verifier.Signers(ctx, d.reads.Store, "test.invalid", []string{own}, []string{vkey})
	if err != nil || len(by.Retired) != 1 || by.Retired[0].Size != end {
		t.Fatalf("%+v, %v", by, err)
	}
	d.meddled = true
	d.stop()
	if problems := d.goesOn(stolen, by); !strings.Contains(problems, "head: ") {
		t.Errorf("fsck of a head that the retired key signed: %s", problems)
	}
	if err := d.start(); !errors.Is(err, ledger.ErrKey) {
		t.Errorf("going on from what the retired key signed: %v", err)
	}
}

// goesOn appends to the stopped domain's log by another key, and returns what fsck
// says then.
func (d *domain) goesOn(key ed25519.PrivateKey, by ledger.Signers) string {
	d.t.Helper()
	st, err := store.OpenSQLite(ctx, filepath.Join(d.dir, "writ.db"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer st.Close()
	l, err := ledger.Open(ctx, ledger.Config{Store: st, Origin: d.cfg.Domain + "/log", Key: key, Peers: by.Keys, GuardFile: filepath.Join(d.t.TempDir(), "guard"), Adopt: true, Now: d.now})
	if err != nil {
		d.t.Fatal(err)
	}
	defer l.Close()
	if r, err := ledger.FsckBy(ctx, st, "", by); err != nil || len(r.Problems) > 0 {
		d.t.Errorf("before that: %+v, %v", r, err)
	}
	if _, err := l.Append(ctx, ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Entries: []ledger.Entry{{Kind: bundle.Unfrozen}}}, nil
	}}); err != nil {
		d.t.Fatal(err)
	}
	r, err := ledger.FsckBy(ctx, st, "", by)
	if err != nil {
		d.t.Fatal(err)
	}
	return fmt.Sprint(r.Problems)
}
