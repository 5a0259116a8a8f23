// Package store keeps the ledger and the state rows in a database: SQLite, in
// one file, or PostgreSQL, shared by several verifiers.
//
// It implements ledger.Store and knows nothing of what it keeps. Hazards: one
// process writes at a time, others wait; a copy of a SQLite file taken without
// [SQLite.Backup] while it is in use is not a backup, and any backup is a
// rollback when put back, which the ledger's guard file shows; how much a commit
// in PostgreSQL survives is the server's setting, see [Postgres].
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	_ "modernc.org/sqlite" // driver "sqlite"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// SQLite is a ledger.Store in one database file, with a write-ahead log beside
// it that is synced at every commit.
type SQLite struct {
	path    string
	writeDB *sql.DB
	writer  *sql.Conn // the only connection that writes; used by the holder of lock
	stmts   writeStmts
	recent  recent        // as seen by writer
	begun   int           // transactions, by the holder of lock
	lock    chan struct{} // head lock within the process; BEGIN IMMEDIATE is it between processes

	readers *sql.DB   // read only
	row     *sql.Stmt // of the readers, as is blob
	blob    *sql.Stmt
	*packer

	closing sync.Once
}

// OpenSQLite opens the database at path, makes it when it does not exist, and
// brings its schema up to date. A schema newer than this program is refused.
func OpenSQLite(ctx context.Context, path string) (*SQLite, error) {
	s, err := openSQLite(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("opening database %s: %w", path, err)
	}
	return s, nil
}

func openSQLite(ctx context.Context, path string) (s *SQLite, err error) {
	s = &SQLite{path: path, lock: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := touch(path); err != nil {
		return s, err
	}
	if s.packer, err = newPacker(); err != nil {
		return s, err
	}
	// Pragmas that must come first, such as the page size, have no effect in
	// the name of the database: they are run on the connection, see setUp.
	if s.writeDB, err = sql.Open("sqlite", dsn(path, "_defensive=1")); err != nil {
		return s, err
	}
	s.writeDB.SetMaxOpenConns(1)
	if err := setUp(ctx, s.writeDB); err != nil {
		return s, err
	}
	if err := migrate(ctx, s.writeDB); err != nil {
		return s, err
	}
	if s.writer, err = s.writeDB.Conn(ctx); err != nil {
		return s, err
	}
	if err := s.stmts.prepare(ctx, s.writer); err != nil {
		return s, err
	}
	if s.readers, err = openReaders(path); err != nil {
		return s, err
	}
	return s, s.prepareReads(ctx)
}

// prepareReads prepares what every renewal reads with.
func (s *SQLite) prepareReads(ctx context.Context) (err error) {
	if s.row, err = s.readers.PrepareContext(ctx, selectRow); err != nil {
		return err
	}
	s.blob, err = s.readers.PrepareContext(ctx, selectBlob)
	return err
}

// ReadSQLite opens an existing database for reading alone: to check it or to
// export from it, also while another process writes.
func ReadSQLite(ctx context.Context, path string) (*SQLite, error) {
	s, err := readSQLite(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("opening database %s for reading: %w", path, err)
	}
	return s, nil
}

func readSQLite(ctx context.Context, path string) (*SQLite, error) {
	blobs, err := newPacker()
	if err != nil {
		return nil, err
	}
	s := &SQLite{packer: blobs}
	if s.readers, err = openReaders(path); err != nil {
		return nil, err
	}
	if err = checkVersion(ctx, s.readers); err == nil {
		err = s.prepareReads(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// touch makes the file with rights for its owner alone; SQLite gives the files
// beside it the same.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// dsn names a database file whatever characters its path has.
func dsn(path, query string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query}).String()
}

// pageSize is that of new databases, in bytes.
const pageSize = 8192

// setUp sets what the store relies on and reads back what it would miss.
func setUp(ctx context.Context, db *sql.DB) error {
	for _, p := range []struct{ set, get, want string }{
		{"busy_timeout = 10000", "busy_timeout", "10000"},
		{fmt.Sprintf("page_size = %d", pageSize), "", ""}, // two entries of 1.5 KB a page would waste a third; a no-op later
		{"journal_mode = WAL", "journal_mode", "wal"},
		{"synchronous = FULL", "synchronous", "2"}, // NORMAL loses commits when power fails
		{"foreign_keys = ON", "foreign_keys", "1"},
		{"trusted_schema = OFF", "trusted_schema", "0"},
		{"cache_size = -32768", "", ""},
	} {
		if _, err := db.ExecContext(ctx, "PRAGMA "+p.set); err != nil {
			return fmt.Errorf("setting %s: %w", p.set, err)
		}
		if p.get == "" {
			continue
		}
		var got string
		if err := db.QueryRowContext(ctx, "PRAGMA "+p.get).Scan(&got); err != nil {
			return fmt.Errorf("reading %s back: %w", p.get, err)
		}
		if got != p.want {
			return fmt.Errorf("setting %s: it reads %s, expected %s", p.set, got, p.want)
		}
	}
	return nil
}

func openReaders(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn(path, "mode=ro&_defensive=1&_busy_timeout=10000&_query_only=1"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	return db, nil
}

// Close ends the store; transactions must have ended before.
func (s *SQLite) Close() error {
	var errs []error
	s.closing.Do(func() {
		for _, stmt := range []*sql.Stmt{s.row, s.blob} {
			if stmt != nil {
				errs = append(errs, stmt.Close())
			}
		}
		if s.readers != nil {
			errs = append(errs, s.readers.Close())
		}
		errs = append(errs, s.stmts.close())
		if s.writer != nil {
			errs = append(errs, s.writer.Close())
		}
		if s.writeDB != nil {
			errs = append(errs, s.writeDB.Close())
		}
	})
	return errors.Join(errs...)
}

var _ ledger.Store = (*SQLite)(nil)
