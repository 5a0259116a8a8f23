package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store/storetest"
	rounds "github.com/writ-attestation/writ/verifier/witness"
)

// TestWitnessRound has a verifier's log cosigned by `writ log witness`: proofs
// then carry the cosignature. A fork of the log is refused, is reported, and gets
// none.
func TestWitnessRound(t *testing.T) {
	l, fork := auditedLog(t), auditedLog(t)
	grow(t, l, "a", 5)
	grow(t, fork, "b", 7)
	w, err := ledger.NewWitness("witness.invalid", testKey(9))
	if err != nil {
		t.Fatal(err)
	}
	s := &witness{Witness: w, dir: t.TempDir(), logs: witnessed(l), now: time.Now}
	server := httptest.NewServer(s.handler())
	defer server.Close()
	policy, err := bundle.ParsePolicy(fmt.Sprintf("witness w1 %s %s\nquorum w1\n", w.VerifierKey(), server.URL))
	if err != nil {
		t.Fatal(err)
	}
	round := func(l *ledger.Log) *rounds.Round {
		return rounds.New(rounds.Config{Log: l, Policy: policy, Slog: slog.New(slog.DiscardHandler), Keep: func(ctx context.Context, note []byte) error { return l.Witnessed(ctx, note) }})
	}
	cosigned := func(l *ledger.Log, index uint64) bool {
		t.Helper()
		text, err := l.Prove(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := l.Entry(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ledger.CheckProof(text, entry, l.VerifierKey()); err != nil {
			t.Fatal(err)
		}
		p, err := ledger.ParseProof(text)
		if err != nil {
			t.Fatal(err)
		}
		_, ok := policy.Cosigned(p.Note, l.VerifierKey())
		return ok
	}
	if cosigned(l, 0) {
		t.Error("cosigned before any round")
	}
	r := round(l)
	for _, size := range []uint64{5, 9} {
		if err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !cosigned(l, 0) || !cosigned(l, size-1) {
			t.Errorf("entries below %d are not proven under a cosigned checkpoint", size)
		}
		if _, ok := policy.Cosigned(l.Checkpoint(), l.VerifierKey()); !ok {
			t.Error("the latest checkpoint is served without its cosignature")
		}
		grow(t, l, "a", 4)
		if !cosigned(l, 0) || cosigned(l, size) {
			t.Errorf("the entry at %d is newer than the round", size)
		}
	}
	if err := round(l).Once(t.Context()); err != nil || !cosigned(l, 12) { // a verifier that forgot the size
		t.Errorf("after a restart: %v", err)
	}
	larger := auditedLog(t)
	grow(t, larger, "b", 27)
	for _, fork := range []*ledger.Log{fork, larger} { // than what was cosigned
		if err := round(fork).Once(t.Context()); !errors.Is(err, rounds.ErrSplit) || !errors.Is(err, ledger.ErrRolledBack) || cosigned(fork, 0) {
			t.Errorf("a forked log: %v", err)
		}
		if err := appends(t, fork); !errors.Is(err, ledger.ErrRolledBack) {
			t.Errorf("a log that a witness has shown to be a fork goes on: %v", err)
		}
	}
	if err := appends(t, l); err != nil {
		t.Errorf("the history that was cosigned is frozen: %v", err)
	}
	server.Close()
	if err := r.Once(t.Context()); err == nil {
		t.Error("no witness answers, and the round does not say so")
	}
}

// witnessed are the logs that a witness of one log knows.
func witnessed(l *ledger.Log, retired ...bundle.RetiredLogKey) map[string]*bundle.Trust {
	return map[string]*bundle.Trust{auditedOrigin: {Log: []string{l.VerifierKey()}, Retired: &bundle.Retired{Log: retired}}}
}

// appends tries to add an entry.
func appends(t *testing.T, l *ledger.Log) error {
	t.Helper()
	_, err := l.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
		return ledger.Change{Entries: []ledger.Entry{{Kind: "test.made"}}}, nil
	}})
	return err
}

// TestWitnessCannotFreeze: a witness that refuses everything and shows checkpoints
// which the log has not signed, or which it extends, stops nothing.
func TestWitnessCannotFreeze(t *testing.T) {
	t.Parallel()
	l := auditedLog(t)
	grow(t, l, "a", 5)
	old := l.Checkpoint()
	grow(t, l, "a", 5)
	stranger, err := ledger.Open(t.Context(), ledger.Config{Store: storetest.NewMemory(), Origin: auditedOrigin, Key: testKey(7), GuardFile: filepath.Join(t.TempDir(), "guard")})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	grow(t, stranger, "b", 20)
	w, err := ledger.NewWitness("witness.invalid", testKey(9))
	if err != nil {
		t.Fatal(err)
	}
	for what, note := range map[string][]byte{"another key's": stranger.Checkpoint(), "none": nil, "an older one": old} {
		server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				rw.WriteHeader(http.StatusUnprocessableEntity)
			}
			_, _ = rw.Write(note)
		}))
		policy, err := bundle.ParsePolicy(fmt.Sprintf("witness w1 %s %s\nquorum w1\n", w.VerifierKey(), server.URL))
		if err != nil {
			t.Fatal(err)
		}
		r := rounds.New(rounds.Config{Log: l, Policy: policy, Slog: slog.New(slog.DiscardHandler)})
		if err := r.Once(t.Context()); !errors.Is(err, rounds.ErrSplit) || errors.Is(err, ledger.ErrRolledBack) {
			t.Errorf("%s: %v", what, err)
		}
		if err := appends(t, l); err != nil {
			t.Errorf("%s: the log is frozen by it: %v", what, err)
		}
		server.Close()
	}
}

// TestWitnessKeepsASplitView: two checkpoints of one size are the proof for anybody.
func TestWitnessKeepsASplitView(t *testing.T) {
	t.Parallel()
	l, fork := auditedLog(t), auditedLog(t)
	grow(t, l, "a", 5)
	grow(t, fork, "b", 5)
	w, err := ledger.NewWitness("witness.invalid", testKey(9))
	if err != nil {
		t.Fatal(err)
	}
	s := &witness{Witness: w, dir: t.TempDir(), logs: witnessed(l), now: time.Now}
	for _, x := range []*ledger.Log{l, fork} {
		_, err := s.add(ledger.Submission{Note: x.Checkpoint()}.Marshal())
		if (err == nil) != (x == l) {
			t.Errorf("cosigned: %v", err)
		}
	}
	if kept := readFile(t, s.path(auditedOrigin)+".conflict"); !bytes.Equal(kept, fork.Checkpoint()) {
		t.Errorf("kept is %q", kept)
	}
}

// TestRetiredLogKeyAtWitness: a witness goes on from the last checkpoint of a verifier
// that was retired, and cosigns nothing that its key signs after its end.
func TestRetiredLogKeyAtWitness(t *testing.T) {
	t.Parallel()
	store := storetest.NewMemory()
	open := func(key byte, peers ...string) *ledger.Log {
		l, err := ledger.Open(t.Context(), ledger.Config{Store: store, Origin: auditedOrigin, Key: testKey(key), Peers: peers, GuardFile: filepath.Join(t.TempDir(), "guard"), Adopt: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	vkey, err := ledger.VerifierKey(auditedOrigin, testKey(2).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	old := open(1, vkey)
	grow(t, old, "a", 5)
	w, err := ledger.NewWitness("witness.invalid", testKey(9))
	if err != nil {
		t.Fatal(err)
	}
	s := &witness{Witness: w, dir: t.TempDir(), logs: witnessed(old), now: time.Now}
	if _, err := s.add(ledger.Submission{Note: old.Checkpoint()}.Marshal()); err != nil {
		t.Fatal(err)
	}
	l := open(2, old.VerifierKey())
	grow(t, l, "b", 1)
	s.logs = witnessed(l, bundle.RetiredLogKey{Key: old.VerifierKey(), Size: 5})
	ahead := func(from *ledger.Log) ledger.Submission {
		t.Helper()
		c, err := ledger.OpenCheckpoint(from.Checkpoint(), from.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		proof, err := from.Consistency(t.Context(), 5, c.Size)
		if err != nil {
			t.Fatal(err)
		}
		return ledger.Submission{Old: 5, Proof: proof, Note: from.Checkpoint()}
	}
	grow(t, old, "c", 1) // it has the database's password still, or a copy of it
	if _, err := s.add(ahead(old).Marshal()); !errors.Is(err, ledger.ErrKey) {
		t.Errorf("a checkpoint of size 7 by a key that was retired at 5: %v", err)
	}
	grow(t, l, "b", 1)
	if _, err := s.add(ahead(l).Marshal()); err != nil {
		t.Errorf("the log that goes on without it: %v", err)
	}
}
