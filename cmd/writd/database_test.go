package main

import (
	"log/slog"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-attestation/writ/verifier/store/storetest"
)

func onPostgres(t *testing.T, data, url string) *config {
	c := defaults()
	c.Domain, c.Data, c.Database = "shared.example.org", data, url
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	return &c
}

// TestVerifiersShareDatabase runs two verifiers on one PostgreSQL database. Each
// follows what the other writes; one with other keys is refused.
func TestVerifiersShareDatabase(t *testing.T) {
	t.Parallel()
	url := storetest.Postgres(t)
	quiet := slog.New(slog.DiscardHandler)
	first := onPostgres(t, t.TempDir(), url)
	a, err := open(t.Context(), first, quiet, onOpen{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()

	second := onPostgres(t, t.TempDir(), url)
	if v, err := open(t.Context(), second, quiet, onOpen{}); err == nil {
		_ = v.Close()
		t.Fatal("a verifier without the domain's keys opens")
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(first.Data, "keys"), second.Data).CombinedOutput(); err != nil {
		t.Fatalf("copying the keys: %v %s", err, out)
	}
	if v, err := open(t.Context(), second, quiet, onOpen{}); err == nil {
		_ = v.Close()
		t.Fatal("a verifier without a guard file opens a log that has entries")
	}
	b, err := open(t.Context(), second, quiet, onOpen{adopt: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for deadline := time.Now().Add(20 * time.Second); a.ledger.Size() != b.ledger.Size(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the verifiers are at sizes %d and %d", a.ledger.Size(), b.ledger.Size())
		}
	}
	if string(a.ledger.Checkpoint()) != string(b.ledger.Checkpoint()) {
		t.Errorf("two checkpoints of one size:\n%s\n%s", a.ledger.Checkpoint(), b.ledger.Checkpoint())
	}
	if err := first.onlySQLite(); err == nil {
		t.Error("backup of a PostgreSQL database is not refused")
	}
}
