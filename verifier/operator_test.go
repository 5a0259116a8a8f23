package verifier_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-attestation/writ/tpm/ima"
	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/keys"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/protocol"
	"github.com/writ-attestation/writ/verifier/reference"
	"github.com/writ-attestation/writ/verifier/token"
)

// TestTwoApprovers: what could open something takes two distinct operators; what
// closes takes one (security rule 4).
func TestTwoApprovers(t *testing.T) {
	t.Parallel()
	d := newDomain(t, func(c *verifier.Config) { c.Approvals = 2 })
	n := d.machine("c-grub-sb")
	set, _, err := reference.Learn("grub", []reference.Sample{d.sample(n)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	env := d.signed(set)
	for _, c := range []struct {
		by     string
		active bool
	}{{"operator/alice", false}, {"operator/alice", false}, {"operator/bob", true}} {
		p, err := d.Publish(ctx, c.by, env)
		if err != nil || p.Active != c.active {
			t.Fatalf("published by %s: %+v, %v", c.by, p, err)
		}
	}
	d.enrol(n, "grub")
	d.mustGrant(n)
	set.Generation++
	if _, err := d.Publish(ctx, "operator/alice", d.signed(set)); err != nil {
		t.Fatal(err)
	}
	set.SecureBoot = "any" // bob agrees to another text under the same number
	if p, err := d.Publish(ctx, "operator/bob", d.signed(set)); err != nil || p.Active {
		t.Errorf("two operators agreed to two different sets: %+v, %v", p, err)
	}
	if _, err := d.Freeze(ctx, "operator/alice", "alone"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		by     string
		frozen bool
	}{{"operator/alice", true}, {"operator/alice", true}, {"operator/bob", false}} {
		g, err := d.Unfreeze(ctx, c.by, "again")
		if err != nil || g.Frozen != c.frozen {
			t.Fatalf("unfrozen by %s: %+v, %v", c.by, g, err)
		}
		if _, err := d.attest(n); (err != nil) != c.frozen {
			t.Errorf("after %s: %v", c.by, err)
		}
	}
	if _, err := d.Freeze(ctx, "operator/alice", "second"); err != nil { // earlier approvals are spent
		t.Fatal(err)
	}
	if g, err := d.Unfreeze(ctx, "operator/bob", "again"); err != nil || !g.Frozen {
		t.Errorf("bob alone: %+v, %v", g, err)
	}
}

// TestReferenceRollback: the generation of a name only rises (security rule 20).
func TestReferenceRollback(t *testing.T) {
	t.Parallel()
	d, _ := ready(t)
	set := d.active("grub")
	set.Generation = 7
	d.publish(set)
	for _, g := range []uint64{7, 6, 1} {
		set.Generation = g
		set.NotAfter = 1 << 40
		_, err := d.Publish(ctx, operator, d.signed(set))
		refused(t, err, protocol.ReferenceRefused)
	}
	set.Name, set.Generation = "another", 1
	d.publish(set)
}

// TestReferenceOfUnknownSigner: a set counts by the signatures of configured keys.
func TestReferenceOfUnknownSigner(t *testing.T) {
	t.Parallel()
	second := ed25519.NewKeyFromSeed(bytes32(2))
	d := newDomain(t, func(c *verifier.Config) {
		c.ReferenceKeys, c.ReferenceThreshold = append(c.ReferenceKeys, second.Public().(ed25519.PublicKey)), 2
	})
	set, _, err := reference.Learn("grub", []reference.Sample{d.sample(d.machine("c-grub-sb"))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	size := d.log.Size()
	for name, signers := range map[string][]ed25519.PrivateKey{
		"nobody": {}, "one of two": {d.refKey}, "one twice": {d.refKey, d.refKey}, "one and a stranger": {second, ed25519.NewKeyFromSeed(bytes32(3))},
	} {
		env, err := reference.Sign(set, signers...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Publish(ctx, operator, env)
		t.Log(name)
		refused(t, err, protocol.ReferenceRefused)
	}
	for _, b := range []string{"", "{}", string(set.Marshal())} {
		_, err := d.Publish(ctx, operator, []byte(b))
		refused(t, err, protocol.ReferenceRefused)
	}
	if d.log.Size() != size {
		t.Error("the log grew")
	}
	env, err := reference.Sign(set, second, d.refKey)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := d.Publish(ctx, operator, env); err != nil || !p.Active {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestFreezeReachesEveryListener: a freeze ends all tokens at once where agents
// listen, whatever else listens.
func TestFreezeReachesEveryListener(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	base := d.claims(d.mustGrant(n).Token)
	events, cancel := d.Events(n.id)
	defer cancel()
	for range 8 { // names that no node has: some come first in any order
		_, cancel := d.Events(random(8))
		defer cancel()
	}
	if _, err := d.Freeze(ctx, operator, "test"); err == nil {
		t.Error("the events that could not be signed go unmentioned")
	}
	want := token.Expect{Issuer: d.Issuer(), Domain: d.cfg.Domain, Audience: d.EnclaveAudience()}
	select {
	case set := <-events:
		if e, err := token.VerifyEvent(set.Data, d.TokenKeys(), want, d.now()); err != nil || !e.Ends(base) {
			t.Errorf("%+v, %v", e, err)
		}
	default:
		t.Error("no event")
	}
}

// TestClockSetBack: a wall clock that is stepped against the time since boot, or
// lies behind the log, stops all issuing, and nothing that lapsed comes back
// (security rule 19).
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{time.Hour, -time.Hour, -119 * time.Second} {
		d, n := ready(t)
		live := d.machine("c-grub-sb")
		d.enrol(live, "grub")
		base := d.claims(d.mustGrant(n).Token)
		d.pass(2 * time.Minute) // n has lapsed
		d.mustGrant(live)
		body := d.shot(n).take(n)
		join := d.mint("grub", n.ek)
		lapsed := func(when string) {
			for _, m := range []*node{n, live} {
				if s := d.State(d.node(m.id)); m == n && s != verifier.FailClosed {
					t.Errorf("step %s, %s: the lapsed node is %s", step, when, s)
				}
			}
		}
		lapsed("before")
		d.stepClock(step)
		for range 2 {
			lapsed("stepped")
			_, err := d.Challenge(ctx, n.id, "")
			refused(t, err, protocol.ClockUnsound)
			_, err = d.Attest(ctx, body)
			refused(t, err, protocol.ClockUnsound)
			_, err = d.Token(ctx, base, request(d, random(8)))
			refused(t, err, protocol.ClockUnsound)
			_, err = d.Enroll(ctx, protocol.EnrollRequest{JoinToken: join})
			refused(t, err, protocol.ClockUnsound)
			if s := d.State(d.node(live.id)); s != verifier.FailClosed {
				t.Errorf("step %s: %s, though nobody knows the time", step, s)
			}
		}
		d.stepClock(-step)
		_, err := d.Challenge(ctx, n.id, "")
		refused(t, err, protocol.ClockUnsound) // until somebody has looked
		if err := d.restart(); err != nil {
			t.Fatal(err)
		}
		lapsed("restarted")
		d.mustGrant(n)
		d.stepClock(-time.Hour)
		if err := d.restart(); !errors.Is(err, ledger.ErrClock) {
			t.Errorf("started an hour behind the log: %v", err)
		}
		d.stepClock(time.Hour)
		if err := d.start(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkpoint is the one a node keeps from a receipt.
func checkpoint(t testing.TB, receipt string) string {
	t.Helper()
	p, err := ledger.ParseProof(receipt)
	if err != nil {
		t.Fatal(err)
	}
	return string(p.Note)
}

// backup copies the stopped domain's files; restore puts some of them back.
func (d *domain) backup() string {
	d.t.Helper()
	d.stop()
	to := filepath.Join(d.t.TempDir(), "backup")
	if err := os.CopyFS(to, os.DirFS(d.dir)); err != nil {
		d.t.Fatal(err)
	}
	d.open()
	return to
}

func (d *domain) restore(from string, keep ...string) {
	d.t.Helper()
	d.stop()
	kept := map[string][]byte{}
	for _, k := range keep {
		kept[k] = read(d.t, filepath.Join(d.dir, k))
	}
	err := os.RemoveAll(d.dir)
	if err == nil {
		err = os.CopyFS(d.dir, os.DirFS(from))
	}
	for k, b := range kept {
		err = errors.Join(err, os.WriteFile(filepath.Join(d.dir, k), b, 0o600))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// TestRestoredBackup: an older database beside its guard does not start; when
// guard and all are put back, the first node that holds a newer checkpoint stops
// the log for good, and nobody who was revoked since renews (security rule 23). What nobody signed stops nothing (25).
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.meddled = true
	other := d.machine("c-grub-sb")
	d.enrol(other, "grub")
	d.mustGrant(n)
	old := d.backup()
	newer := checkpoint(t, d.mustGrant(n).Receipt)
	if _, err := d.SetStatus(ctx, operator, other.id, verifier.Revoked, "stolen"); err != nil {
		t.Fatal(err)
	}
	d.restore(old, "guard")
	if err := d.start(); !errors.Is(err, ledger.ErrRolledBack) {
		t.Fatalf("an older database beside the guard: %v", err)
	}
	d.restore(old)
	d.open() // nothing on this machine can tell
	for _, claim := range []string{"", "garbage", strings.Replace(newer, "test.invalid/log", "other.invalid/log", 1)} {
		if _, err := d.Challenge(ctx, other.id, claim); err != nil { // an unsigned claim stops nothing
			t.Fatal(err)
		}
	}
	body := d.shot(other).take(other)
	_, err := d.Challenge(ctx, n.id, newer)
	refused(t, err, protocol.DomainFrozen)
	if out, err := d.Attest(ctx, body); err == nil {
		t.Errorf("a node revoked since the backup renews: %+v", out)
	}
	if _, err := d.Unfreeze(ctx, operator, "carry on"); err == nil {
		t.Error("an operator lifted it without mending the log")
	}
	if err := d.restart(); !errors.Is(err, ledger.ErrRolledBack) {
		t.Errorf("restarted: %v", err)
	}
}

// TestChangedKeyStopsStart: a key file that is lost or another one never becomes
// a new identity of the same domain (security rule 23).
func TestChangedKeyStopsStart(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	good := d.cfg
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.NewRing(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*verifier.Config){
		"another token key": func(c *verifier.Config) {
			c.TokenKeys = ring
		},
		"no key ids":              func(c *verifier.Config) { c.KeyIDs = nil },
		"under another purpose":   func(c *verifier.Config) { c.KeyIDs = map[string]string{"svid": "another"} },
		"another domain's files":  func(c *verifier.Config) { c.Domain = "other.invalid" },
		"no challenge key at all": func(c *verifier.Config) { c.ChallengeKey = nil },
	} {
		change(&d.cfg)
		if err := d.restart(); err == nil {
			t.Errorf("started with %s", name)
		} else if strings.Contains(name, "token key") && !errors.Is(err, keys.ErrMissing) {
			t.Errorf("%s: %v", name, err)
		}
		d.cfg = good
	}
	d.open()
	d.mustGrant(n)
}

// TestNoPathsOrEKOnTheLog reads every leaf of a domain's whole life: nothing in
// it names a node, a person, a file, a reason or a key of a TPM (security rule 24).
func TestNoPathsOrEKOnTheLog(t *testing.T) {
	t.Parallel()
	d, n := ready(t)
	d.mustGrant(n)
	base := d.claims(d.mustGrant(n).Token)
	if _, err := d.Token(ctx, base, request(d, "lease")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stopped(ctx, base, bundle.Stop{Exec: "job", Cause: "keeper-killed", Level: "E3"}); err != nil {
		t.Fatal(err)
	}
	n.file("/tmp/backdoor", 1)
	d.denied(n, "ima/unknown-file")
	for _, f := range []func() error{
		func() error {
			_, err := d.SetStatus(ctx, operator, n.id, verifier.Suspended, "alice saw it")
			return err
		},
		func() error { _, err := d.Freeze(ctx, operator, "alice saw it"); return err },
		func() error { _, err := d.Unfreeze(ctx, operator, "alice saw it"); return err },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	secret := []string{n.id, n.ek, "alice", "saw it", "/", "backdoor", "cmdline", "vmlinuz"}
	for _, ek := range d.node(n.id).EKs {
		secret = append(secret, hex.EncodeToString(ek.Public)[8:72], base64.StdEncoding.EncodeToString(ek.Public)[:60], base64.StdEncoding.EncodeToString(ek.Certificate)[:60])
	}
	if l, err := ima.Parse(n.list); err == nil {
		for _, e := range l.Entries[1:] {
			secret = append(secret, e.Path, hex.EncodeToString(e.FileDigest))
		}
	}
	kinds := map[string]bool{}
	for i, e := range d.entries(0) {
		kinds[e.Kind] = true
		text := string(e.Data) + e.Subject + e.Actor
		text = strings.ReplaceAll(text, d.EnclaveAudience(), "") // public, and in every token
		for _, s := range secret {
			if s != "" && strings.Contains(text, s) {
				t.Errorf("entry %d (%s) shows %q: %s", i, e.Kind, s, text)
			}
		}
	}
	for _, k := range []string{bundle.NodeEnrolled, bundle.Issued, bundle.Renewed, bundle.Decided, bundle.Admitted, bundle.Terminated, bundle.Revoked, bundle.Frozen, bundle.Unfrozen, bundle.ReferenceActive, bundle.JoinTokenMade, bundle.VerifierStarted} {
		if !kinds[k] {
			t.Errorf("no entry of kind %s was looked at", k)
		}
	}
}
