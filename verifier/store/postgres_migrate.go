package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/postgres/*.sql
var postgresMigrations embed.FS

// migrationLock is the advisory lock that keeps verifiers which start together
// from migrating together: "writ" in ASCII.
const migrationLock = 0x77726974

// migratePostgres brings the schema up to date, all or nothing. Migrations go
// forward only.
func migratePostgres(ctx context.Context, c *pgx.Conn) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
		return fmt.Errorf("waiting to migrate the schema: %w", err)
	}
	if _, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"); err != nil {
		return fmt.Errorf("reading schema version: %w", err)
	}
	current, err := schemaVersion(ctx, tx)
	if err != nil {
		return err
	}
	files, err := fs.Glob(postgresMigrations, "migrations/postgres/*.sql")
	if err != nil {
		return fmt.Errorf("reading migrations: %w", err)
	}
	if current > len(files) {
		return fmt.Errorf("schema has version %d, this program knows up to %d: use the program that wrote it, or a newer one", current, len(files))
	}
	for i := current; i < len(files); i++ {
		if err := migrateTo(ctx, tx, i+1, files[i]); err != nil {
			return fmt.Errorf("migrating schema from version %d to %d: %w", i, i+1, err)
		}
	}
	return tx.Commit(ctx)
}

func migrateTo(ctx context.Context, tx pgx.Tx, version int, file string) error {
	if !strings.HasPrefix(file, fmt.Sprintf("migrations/postgres/%05d_", version)) {
		panic("store: migration " + strconv.Itoa(version) + " is called " + file)
	}
	script, err := postgresMigrations.ReadFile(file)
	if err != nil {
		return err
	}
	if _, err := tx.Conn().PgConn().Exec(ctx, string(script)).ReadAll(); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "INSERT INTO schema_version (version) VALUES ($1)", version)
	return err
}

// checkPostgres refuses a schema that is not this program's, without changing
// it.
func checkPostgres(ctx context.Context, c *pgx.Conn) error {
	files, err := fs.Glob(postgresMigrations, "migrations/postgres/*.sql")
	if err != nil {
		return fmt.Errorf("reading migrations: %w", err)
	}
	got, err := schemaVersion(ctx, c)
	if err == nil && got != len(files) {
		err = fmt.Errorf("schema has version %d, this program reads %d: start the service once to migrate an older one", got, len(files))
	}
	return err
}

func schemaVersion(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (version int, err error) {
	if err := q.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM schema_version").Scan(&version); err != nil {
		return 0, fmt.Errorf("reading schema version: %w", err)
	}
	return version, nil
}
