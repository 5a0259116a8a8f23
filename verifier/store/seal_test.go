package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
	"github.com/writ-attestation/writ/verifier/store/storetest"
)

// sealed is a database of one backend with a log on it, and SQL that goes past
// the store.
type sealed struct {
	store interface {
		ledger.Store
		Check(context.Context) ([]string, error)
	}
	cfg ledger.Config
	sql func(statements ...string)
}

func (s *sealed) log(t *testing.T) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(t.Context(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func eachBackend(t *testing.T, test func(t *testing.T, open func() sealed)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		dir := t.TempDir()
		test(t, func() sealed {
			s := open(t, filepath.Join(dir, "writ.db"))
			return sealed{s, config(s, dir), func(q ...string) { raw(t, dir, q...) }}
		})
	})
	t.Run("postgres", func(t *testing.T) {
		dir, url := t.TempDir(), storetest.Postgres(t)
		_, schema, _ := strings.Cut(url, "search_path=")
		test(t, func() sealed {
			s := openPostgres(t, url)
			return sealed{s, config(s, dir), func(q ...string) {
				storetest.Shared(t).Exec(t, fmt.Sprintf("SET search_path = %s; %s", schema, strings.Join(q, "; ")))
			}}
		})
	})
}

// TestCorruptStateRow: a row that a disk or a hand has changed is named by the
// check, and whatever needs it is refused, under the head lock as elsewhere.
func TestCorruptStateRow(t *testing.T) {
	for name, change := range map[string]string{
		"Value":   `UPDATE state SET value = (SELECT value FROM state WHERE id = 'healthy') WHERE kind = 'node'`,
		"Kind":    `DELETE FROM state WHERE kind = 'node'; UPDATE state SET kind = 'node' WHERE kind = 'old'`,
		"Emptied": `DELETE FROM state WHERE id = 'victim'; INSERT INTO state (kind, id, value) SELECT 'node', 'victim', note FROM log_head`,
	} {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, open func() sealed) {
				db := open()
				log := db.log(t)
				victim, healthy := ledger.Key{Kind: "node", ID: "victim"}, ledger.Key{Kind: "other", ID: "healthy"}
				rows := []ledger.Put{{Key: victim, Value: []byte(`"revoked"`)}, {Key: healthy, Value: []byte(`"active"`)}, {Key: ledger.Key{Kind: "old", ID: "victim"}, Value: []byte(`"active"`)}}
				if _, err := log.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) { return ledger.Change{Puts: rows}, nil }}); err != nil {
					t.Fatal(err)
				}
				if problems, err := db.store.Check(t.Context()); err != nil || len(problems) > 0 {
					t.Fatalf("Check of sound rows = %q, %v", problems, err)
				}
				db.sql(change)
				if v, _, err := log.Get(t.Context(), victim); !errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), "node/victim") {
					t.Errorf("Get = %s, %v, want ErrCorrupt that names the row", v, err)
				}
				if _, err := log.List(t.Context(), "node", "", 10); !errors.Is(err, ledger.ErrCorrupt) {
					t.Errorf("List = %v, want ErrCorrupt", err)
				}
				needs := func(k ledger.Key) error {
					_, err := log.Append(t.Context(), ledger.Draft{Keys: []ledger.Key{k}, Build: func(ledger.Slot) (ledger.Change, error) {
						return ledger.Change{Entries: []ledger.Entry{{Kind: "test.granted"}}}, nil
					}})
					return err
				}
				if err := needs(victim); !errors.Is(err, ledger.ErrCorrupt) {
					t.Errorf("a commit that needs the row = %v, want ErrCorrupt", err)
				}
				if err := needs(ledger.Key{Kind: "node", ID: "another"}); err != nil {
					t.Errorf("a commit that does not need the row: %v", err)
				}
				problems, err := db.store.Check(t.Context())
				if err != nil || len(problems) != 1 || !strings.Contains(problems[0], "node/victim") {
					t.Errorf("Check = %q, %v, want the row named", problems, err)
				}
			})
		})
	}
}

// TestOlderSchemaGainsSeals takes a database back to its first schema, whose
// state rows bear no seal, and opens it.
func TestOlderSchemaGainsSeals(t *testing.T) {
	eachBackend(t, func(t *testing.T, open func() sealed) {
		db := open()
		log := db.log(t)
		key := ledger.Key{Kind: "node", ID: "é"}
		for _, v := range []string{"1", "2"} {
			if _, err := log.Append(t.Context(), ledger.Draft{Build: func(ledger.Slot) (ledger.Change, error) {
				return ledger.Change{Entries: []ledger.Entry{{Kind: "test.kind"}}, Puts: []ledger.Put{{Key: key, Value: []byte(v)}}}, nil
			}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if _, ok := db.store.(*store.SQLite); ok {
			db.sql(`UPDATE state SET value = substr(value, 17)`, `DROP TRIGGER log_entries_fixed`, `DROP TRIGGER blobs_fixed`, `DROP TRIGGER blobs_stay`, `DROP TABLE log_sweep`,
				`CREATE TRIGGER log_entries_fixed BEFORE UPDATE ON log_entries BEGIN SELECT RAISE(ABORT, ''); END`, `DELETE FROM goose_db_version WHERE version_id > 1`)
		} else {
			db.sql(`UPDATE state SET value = substring(value FROM 17)`, `DROP TRIGGER log_entries_fixed ON log_entries`, `DROP TRIGGER log_entries_stay ON log_entries`, `DROP TRIGGER blobs_fixed ON blobs`, `DROP TRIGGER blobs_stay ON blobs`,
				`DROP FUNCTION log_entries_fixed`, `DROP FUNCTION blobs_stay`, `DROP TABLE log_sweep`, `CREATE TRIGGER log_entries_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON log_entries EXECUTE FUNCTION log_refuse()`, `DELETE FROM schema_version WHERE version > 1`)
		}
		db = open()
		log = db.log(t)
		if v, ok, err := log.Get(t.Context(), key); err != nil || !ok || string(v) != "2" {
			t.Errorf("a row of the first schema is read as %q, %v, %v", v, ok, err)
		}
		if problems, err := db.store.Check(t.Context()); err != nil || len(problems) > 0 {
			t.Errorf("Check = %q, %v", problems, err)
		}
	})
}
