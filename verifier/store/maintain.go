package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// Backup writes a consistent copy of the database to a new file, while the
// service goes on. Putting it back later is a rollback of the log, which the
// ledger refuses: whoever restores has to decide what becomes of the history.
func (s *SQLite) Backup(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // VACUUM INTO fills an empty file
	if err != nil {
		return fmt.Errorf("backing up: %w", err)
	}
	defer f.Close()
	c, err := s.readers.Conn(ctx)
	if err != nil {
		return fmt.Errorf("backing up: %w", err)
	}
	defer c.Close()
	// The copy is a database that this connection writes, so it may for once.
	_, err = c.ExecContext(ctx, "PRAGMA query_only = 0")
	if err == nil {
		_, err = c.ExecContext(ctx, "VACUUM INTO ?", dsn(path, ""))
	}
	if _, err2 := c.ExecContext(context.WithoutCancel(ctx), "PRAGMA query_only = 1"); err == nil {
		err = err2
	}
	if err == nil {
		err = errors.Join(f.Sync(), syncDir(filepath.Dir(path)))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("backing up to %s: %w", path, err), os.Remove(path))
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Check looks at what the ledger cannot: the structure of the file, entries
// beyond the head, every blob against its hash, every state row against its seal. It returns what is wrong;
// the error says that it could not look. It reads the whole file.
func (s *SQLite) Check(ctx context.Context) (problems []string, err error) {
	for _, q := range []string{
		`SELECT * FROM pragma_integrity_check WHERE integrity_check <> 'ok'`,
		`SELECT format('entry %d is beyond the head', seq) FROM log_entries WHERE seq >= (SELECT size FROM log_head)`,
		`SELECT format('tile %d of level %d is beyond the head', idx, level) FROM log_tiles
			WHERE (idx + 1) << (8 * (level + 1)) > (SELECT size FROM log_head)`,
	} {
		found, err := s.lines(ctx, q)
		if err != nil {
			return problems, fmt.Errorf("checking database: %w", err)
		}
		problems = append(problems, found...)
	}
	found, err := s.checkBlobs(ctx)
	if err != nil {
		return problems, fmt.Errorf("checking blobs: %w", err)
	}
	problems = append(problems, found...)
	if found, err = s.checkRows(ctx); err != nil {
		return problems, fmt.Errorf("checking state rows: %w", err)
	}
	return append(problems, found...), nil
}

func (s *SQLite) checkRows(ctx context.Context) (problems []string, err error) {
	rows, err := s.readers.QueryContext(ctx, `SELECT kind, id, value FROM state`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p ledger.Put
		if err := rows.Scan(&p.Key.Kind, &p.Key.ID, &p.Value); err != nil {
			return nil, err
		}
		if _, err := unseal(p); err != nil {
			problems = append(problems, err.Error())
		}
	}
	return problems, rows.Err()
}

func (s *SQLite) lines(ctx context.Context, query string) ([]string, error) {
	rows, err := s.readers.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return nil, err
		}
		out = append(out, line)
	}
	return out, rows.Err()
}

func (s *SQLite) checkBlobs(ctx context.Context) (problems []string, err error) {
	rows, err := s.readers.QueryContext(ctx, `SELECT sum, size, data FROM blobs`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var sum, packed sql.RawBytes
	var size int64
	for rows.Next() {
		if err := rows.Scan(&sum, &size, &packed); err != nil {
			return nil, err
		}
		if p := s.checkBlob(sum, size, packed); p != "" {
			problems = append(problems, p)
		}
	}
	return problems, rows.Err()
}
