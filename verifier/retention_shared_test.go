package verifier_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier"
	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// shared is a domain on PostgreSQL with a node, and a second verifier of it.
func shared(t *testing.T) (d *domain, n *node, second *verifier.Service) {
	t.Helper()
	const origin = "test.invalid/log"
	key := func(n byte) (ed25519.PrivateKey, string) {
		k := ed25519.NewKeyFromSeed(bytes32(n))
		vkey, err := ledger.VerifierKey(origin, k.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		return k, vkey
	}
	_, first := key(1)
	k, other := key(2)
	dsn := storetest.Postgres(t)
	d = openDomain(t, storetest.NewMemory())
	d.stop() // for the one on PostgreSQL
	d.memory, d.dsn, d.peers, d.dir = nil, dsn, []string{other}, t.TempDir()
	d.open()
	n = d.member("c-grub-sb")
	st, err := store.OpenPostgres(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	log, err := ledger.Open(ctx, ledger.Config{Store: st, Origin: origin, Key: k, Peers: []string{first}, GuardFile: filepath.Join(t.TempDir(), "guard"), Adopt: true, Now: d.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(log.Close(), st.Close()) })
	cfg := d.cfg
	cfg.Log, cfg.Name = log, "2"
	if second, err = verifier.New(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	return d, n, second
}

// TestVerifiersPruneTogether: two verifiers on one PostgreSQL give up what is old at
// once, by hand and in the background, while a node goes on attesting to one of them.
// Limits only rise, what is younger stays, and log and state are sound.
func TestVerifiersPruneTogether(t *testing.T) {
	t.Parallel()
	d, n, second := shared(t)
	for range 4 {
		d.mustGrant(n)
	}
	d.fill(600)
	d.pass(10 * day)
	for range 4 {
		d.mustGrant(n)
	}
	d.fill(600)
	d.pass(10 * day)
	keep := int64(d.index(n))
	both := []*verifier.Service{d.Service, second}
	var wg sync.WaitGroup
	for i, s := range both {
		wg.Go(func() {
			for age := 19 - i; age >= 11; age-- { // one goes ahead of the other, and back
				cut := d.now().Add(-time.Duration(age) * day).Unix()
				if _, err := s.Prune(ctx, verifier.Cut{Evidence: cut, Entries: cut}); err != nil {
					t.Errorf("verifier %d prunes to %d days: %v", i+1, age, err)
				}
			}
		})
	}
	background, stop := context.WithCancel(ctx)
	for _, s := range both {
		wg.Go(func() { s.Retain(background, verifier.Retention{Evidence: 15 * day, Entries: 15 * day}) })
	}
	for range 3 {
		d.mustGrant(n)
	}
	time.AfterFunc(2*time.Second, stop) // a pass of each takes less, or ends here
	wg.Wait()
	d.pruneLimits()
	for _, s := range both { // and all is done: nothing is left for either
		p, err := s.Prune(ctx, verifier.Cut{Evidence: d.now().Add(-11 * day).Unix(), Entries: d.now().Add(-11 * day).Unix()})
		if err != nil || p.Decisions+p.Leaves != 0 {
			t.Errorf("after all: %+v, %v", p, err)
		}
		if _, err := s.Bundle(ctx, n.id, keep); err != nil {
			t.Errorf("a decision that is younger: %v", err)
		}
		if _, err := s.Bundle(ctx, n.id, -1); err != nil {
			t.Errorf("the last decision: %v", err)
		}
	}
	d.mustGrant(n)
	r, err := ledger.Fsck(ctx, d.reads.Store, "", d.log.VerifierKeys()...)
	if err != nil || len(r.Problems) > 0 || r.Pruned < 500 {
		t.Errorf("%d entries gave up their bytes, %v, %v", r.Pruned, r.Problems, err)
	}
}

// pruneLimits requires that what the history says was given up only grows.
func (d *domain) pruneLimits() {
	d.t.Helper()
	var last ledger.Pruned
	said := 0
	for i := uint64(0); i < d.log.Size(); i++ {
		raw, err := d.log.Entry(ctx, i)
		if errors.Is(err, ledger.ErrPruned) {
			continue
		}
		if err != nil {
			d.t.Fatal(err)
		}
		leaf, err := ledger.ParseLeaf(raw)
		if err != nil {
			d.t.Fatal(err)
		}
		if leaf.Kind != bundle.RetentionPruned {
			continue
		}
		p := dataOf[ledger.Pruned](d.t, leaf)
		if p.Entries < last.Entries || p.Evidence < last.Evidence || p.EntriesBefore < last.EntriesBefore || p.EvidenceBefore < last.EvidenceBefore || p.Entries > i {
			d.t.Errorf("entry %d gives up %+v after %+v", i, p, last)
		}
		last, said = p, said+1
	}
	if said == 0 {
		d.t.Error("no entry says what was given up")
	}
}

func dataOf[T any](t testing.TB, leaf ledger.Leaf) (v T) {
	t.Helper()
	if err := json.Unmarshal(leaf.Data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
