package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/bundle"
	"github.com/writ-attestation/writ/verifier/ledger"
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
	s := &witness{Witness: w, dir: t.TempDir(), logs: map[string][]string{auditedOrigin: {l.VerifierKey()}}, now: time.Now}
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
	for n := range 2 { // smaller than what was cosigned, then larger
		if err := round(fork).Once(t.Context()); !errors.Is(err, rounds.ErrSplit) || cosigned(fork, 0) {
			t.Errorf("a forked log: %v", err)
		}
		grow(t, fork, "b", 20+n)
	}
	server.Close()
	if err := r.Once(t.Context()); err == nil {
		t.Error("no witness answers, and the round does not say so")
	}
}
