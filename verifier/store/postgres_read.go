package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/writ-attestation/writ/verifier/ledger"
)

const (
	pgSelectHead = `SELECT size, root, at, note FROM log_head WHERE id = 1`
	pgSelectRows = `SELECT s.kind, s.id, s.value FROM unnest($1::text[], $2::text[]) AS k (kind, id)
		JOIN state s ON s.kind = k.kind AND s.id = k.id`
)

// Head implements ledger.Reader.
func (s *Postgres) Head(ctx context.Context) (ledger.Head, error) {
	return scanPgHead(s.readers.QueryRow(ctx, pgSelectHead))
}

func scanPgHead(row pgx.Row) (ledger.Head, error) {
	var h ledger.Head
	var root []byte
	if err := row.Scan(&h.Size, &root, &h.At, &h.Note); err != nil {
		return ledger.Head{}, err
	}
	if len(h.Note) == 0 {
		return ledger.Head{}, nil
	}
	var err error
	h.Root, err = toHash(root)
	return h, err
}

// Rows implements ledger.Reader.
func (s *Postgres) Rows(ctx context.Context, keys []ledger.Key) ([]ledger.Put, error) {
	kinds, ids := columns(keys)
	return scanPuts(s.readers.Query(ctx, pgSelectRows, kinds, ids))
}

// columns are keys as the two arrays that SQL joins on.
func columns(keys []ledger.Key) (kinds, ids []string) {
	kinds, ids = make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		kinds[i], ids[i] = k.Kind, k.ID
	}
	return kinds, ids
}

func scanPuts(rows pgx.Rows, err error) ([]ledger.Put, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Put, error) {
		var p ledger.Put
		if err := row.Scan(&p.Key.Kind, &p.Key.ID, &p.Value); err != nil {
			return p, err
		}
		return unseal(p)
	})
}

// List implements ledger.Reader.
func (s *Postgres) List(ctx context.Context, kind, after string, limit int) ([]ledger.Put, error) {
	return scanPuts(s.readers.Query(ctx,
		`SELECT kind, id, value FROM state WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3`, kind, after, limit))
}

// Records implements ledger.Reader.
func (s *Postgres) Records(ctx context.Context, from, to uint64) ([]ledger.Record, error) {
	rows, err := s.readers.Query(ctx,
		`SELECT seq, at, kind, subject, leaf_hash, data FROM log_entries WHERE seq >= $1 AND seq < $2 ORDER BY seq LIMIT $3`,
		int64(from), int64(to), pageRecords)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Record, error) {
		var r ledger.Record
		var hash []byte
		if err := row.Scan(&r.Index, &r.At, &r.Kind, &r.Subject, &hash, &r.Data); err != nil {
			return r, err
		}
		var err error
		if r.Hash, err = toHash(hash); err != nil {
			err = fmt.Errorf("reading entry %d: %w", r.Index, err)
		}
		return r, err
	})
}

// Tile implements ledger.Reader.
func (s *Postgres) Tile(ctx context.Context, level int, index uint64) ([]byte, error) {
	var data []byte
	err := s.readers.QueryRow(ctx, `SELECT data FROM log_tiles WHERE level = $1 AND idx = $2`, level, int64(index)).Scan(&data)
	return data, pgNotFound(err)
}

// Blob implements ledger.Reader.
func (s *Postgres) Blob(ctx context.Context, sum ledger.Hash) ([]byte, error) {
	var size int64
	var data []byte
	err := s.readers.QueryRow(ctx, `SELECT size, data FROM blobs WHERE sum = $1`, sum[:]).Scan(&size, &data)
	if err != nil {
		return nil, pgNotFound(err)
	}
	return s.unpack(data, size)
}

func pgNotFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.ErrNotFound
	}
	return err
}

// Check is [SQLite.Check], but for the structure of files, which is the
// server's.
func (s *Postgres) Check(ctx context.Context) (problems []string, err error) {
	for _, q := range []string{
		`SELECT format('entry %s is beyond the head', seq) FROM log_entries WHERE seq >= (SELECT size FROM log_head)`,
		`SELECT format('tile %s of level %s is beyond the head', idx, level) FROM log_tiles
			WHERE (idx + 1) << (8 * (level + 1)) > (SELECT size FROM log_head)`,
	} {
		rows, err := s.readers.Query(ctx, q)
		if err != nil {
			return problems, fmt.Errorf("checking database: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return problems, fmt.Errorf("checking database: %w", err)
		}
		problems = append(problems, found...)
	}
	rows, err := s.readers.Query(ctx, `SELECT sum, size, data FROM blobs`)
	if err != nil {
		return problems, fmt.Errorf("checking blobs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var sum, packed []byte
		var size int64
		if err := rows.Scan(&sum, &size, &packed); err != nil {
			return problems, fmt.Errorf("checking blobs: %w", err)
		}
		if p := s.checkBlob(sum, size, packed); p != "" {
			problems = append(problems, p)
		}
	}
	if err := rows.Err(); err != nil {
		return problems, fmt.Errorf("checking blobs: %w", err)
	}
	found, err := s.checkRows(ctx)
	if err != nil {
		return problems, fmt.Errorf("checking state rows: %w", err)
	}
	return append(problems, found...), nil
}

func (s *Postgres) checkRows(ctx context.Context) (problems []string, err error) {
	rows, err := s.readers.Query(ctx, `SELECT kind, id, value FROM state`)
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
