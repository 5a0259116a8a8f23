package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/writ-attestation/writ/verifier/ledger"
)

const (
	selectHead = `SELECT size, root, at, note FROM log_head WHERE id = 1`
	selectRow  = `SELECT value FROM state WHERE kind = ? AND id = ?`
	selectBlob = `SELECT size, data FROM blobs WHERE sum = ?`
)

// pageRecords bounds one answer of Records.
const pageRecords = 1024

// Head implements ledger.Reader.
func (s *SQLite) Head(ctx context.Context) (ledger.Head, error) {
	return scanHead(s.readers.QueryRowContext(ctx, selectHead))
}

func scanHead(row *sql.Row) (ledger.Head, error) {
	var h ledger.Head
	var root []byte
	err := row.Scan(&h.Size, &root, &h.At, &h.Note)
	if errors.Is(err, sql.ErrNoRows) {
		return ledger.Head{}, nil
	}
	if err != nil {
		return ledger.Head{}, err
	}
	h.Root, err = toHash(root)
	return h, err
}

func toHash(b []byte) (ledger.Hash, error) {
	if len(b) != len(ledger.Hash{}) {
		return ledger.Hash{}, fmt.Errorf("%w: hash has %d bytes", ledger.ErrCorrupt, len(b))
	}
	return ledger.Hash(b), nil
}

// Rows implements ledger.Reader.
func (s *SQLite) Rows(ctx context.Context, keys []ledger.Key) ([]ledger.Put, error) {
	return scanRows(keys, func(k ledger.Key) *sql.Row {
		return s.row.QueryRowContext(ctx, k.Kind, k.ID)
	})
}

func scanRows(keys []ledger.Key, query func(ledger.Key) *sql.Row) ([]ledger.Put, error) {
	var out []ledger.Put
	for _, k := range keys {
		p := ledger.Put{Key: k}
		err := query(k).Scan(&p.Value)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if p, err = unseal(p); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// List implements ledger.Reader.
func (s *SQLite) List(ctx context.Context, kind, after string, limit int) ([]ledger.Put, error) {
	rows, err := s.readers.QueryContext(ctx,
		`SELECT id, value FROM state WHERE kind = ? AND id > ? ORDER BY id LIMIT ?`, kind, after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []ledger.Put
	for rows.Next() {
		p := ledger.Put{Key: ledger.Key{Kind: kind}}
		if err := rows.Scan(&p.Key.ID, &p.Value); err != nil {
			return nil, err
		}
		if p, err = unseal(p); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// Records implements ledger.Reader.
func (s *SQLite) Records(ctx context.Context, from, to uint64) ([]ledger.Record, error) {
	rows, err := s.readers.QueryContext(ctx,
		`SELECT seq, at, kind, subject, leaf_hash, data FROM log_entries WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?`,
		int64(from), int64(to), pageRecords)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []ledger.Record
	for rows.Next() {
		var r ledger.Record
		var hash []byte
		if err := rows.Scan(&r.Index, &r.At, &r.Kind, &r.Subject, &hash, &r.Data); err != nil {
			return nil, err
		}
		if r.Hash, err = toHash(hash); err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", r.Index, err)
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// Tile implements ledger.Reader.
func (s *SQLite) Tile(ctx context.Context, level int, index uint64) ([]byte, error) {
	var data []byte
	err := s.readers.QueryRowContext(ctx,
		`SELECT data FROM log_tiles WHERE level = ? AND idx = ?`, level, int64(index)).Scan(&data)
	return data, notFound(err)
}

// Blob implements ledger.Reader.
func (s *SQLite) Blob(ctx context.Context, sum ledger.Hash) ([]byte, error) {
	var size int64
	var data []byte
	err := s.blob.QueryRowContext(ctx, sum[:]).Scan(&size, &data)
	if err != nil {
		return nil, notFound(err)
	}
	return s.unpack(data, size)
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ledger.ErrNotFound
	}
	return err
}
