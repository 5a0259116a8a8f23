package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// writeStmts are prepared on the writer's own connection. Preparing on the
// pool, while a transaction holds its only connection, would wait for ever.
type writeStmts struct {
	begin, commit, rollback *sql.Stmt
	head, row, rows         *sql.Stmt
	insertHead, moveHead    *sql.Stmt
	insertTile, deleteRow   *sql.Stmt
	insertEntry, putRow     many
	insertBlob              many
}

// atOnce is how many rows one statement writes where there are so many, and few
// where there are not: each statement costs as much as a row.
const (
	atOnce = 16
	few    = 4
)

// fewKeys are read one by one: below it, a statement for all of them costs more.
const fewKeys = 2

const (
	insertEntry = `INSERT INTO log_entries (seq, at, kind, subject, leaf_hash, data) VALUES `
	entryValues = `(?, ?, ?, ?, ?, ?)`
	putRow      = `INSERT INTO state (kind, id, value) VALUES `
	rowValues   = `(?, ?, ?)`
	putOver     = ` ON CONFLICT (kind, id) DO UPDATE SET value = excluded.value`
	insertBlob  = `INSERT INTO blobs (sum, size, data) VALUES `
	blobValues  = `(?, ?, ?)`
	keepOld     = ` ON CONFLICT (sum) DO NOTHING`
)

// many is a statement that writes one row, and its twins that write few and atOnce.
type many struct{ one, few, some *sql.Stmt }

// each is [writeStmts.each] for the three.
func (m *many) each(insert, values, end string, f func(stmt **sql.Stmt, query string) error) error {
	for _, s := range []struct {
		stmt **sql.Stmt
		rows int
	}{{&m.one, 1}, {&m.few, few}, {&m.some, atOnce}} {
		if err := f(s.stmt, insert+values+strings.Repeat(", "+values, s.rows-1)+end); err != nil {
			return err
		}
	}
	return nil
}

// write writes n rows, of which args appends the values.
func (m many) write(ctx context.Context, n int, args func(i int, values []any) []any) error {
	var values []any
	for i := 0; i < n; {
		stmt, end := m.one, i+1
		switch {
		case n-i >= atOnce:
			stmt, end = m.some, i+atOnce
		case n-i >= few:
			stmt, end = m.few, i+few
		}
		values = values[:0]
		for ; i < end; i++ {
			values = args(i, values)
		}
		if _, err := stmt.ExecContext(ctx, values...); err != nil {
			return err
		}
	}
	return nil
}

func (w *writeStmts) each(f func(stmt **sql.Stmt, query string) error) error {
	for _, s := range []struct {
		stmt  **sql.Stmt
		query string
	}{
		{&w.begin, `BEGIN IMMEDIATE`},
		{&w.commit, `COMMIT`},
		{&w.rollback, `ROLLBACK`},
		{&w.head, selectHead},
		{&w.row, selectRow},
		{&w.rows, `SELECT s.kind, s.id, s.value FROM json_each(?) k CROSS JOIN state s ON s.kind = k.value->>0 AND s.id = k.value->>1`},
		{&w.insertHead, `INSERT INTO log_head (id, size, root, at, note) VALUES (1, ?, ?, ?, ?)`},
		{&w.moveHead, `UPDATE log_head SET size = ?, root = ?, at = ?, note = ? WHERE id = 1 AND size = ?`},
		{&w.insertTile, `INSERT INTO log_tiles (level, idx, data) VALUES (?, ?, ?)`},
		{&w.deleteRow, `DELETE FROM state WHERE kind = ? AND id = ?`},
	} {
		if err := f(s.stmt, s.query); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		*many
		insert, values, end string
	}{
		{&w.insertEntry, insertEntry, entryValues, ""},
		{&w.putRow, putRow, rowValues, putOver},
		{&w.insertBlob, insertBlob, blobValues, keepOld},
	} {
		if err := m.each(m.insert, m.values, m.end, f); err != nil {
			return err
		}
	}
	return nil
}

func (w *writeStmts) prepare(ctx context.Context, c *sql.Conn) error {
	return w.each(func(stmt **sql.Stmt, query string) (err error) {
		if *stmt, err = c.PrepareContext(ctx, query); err != nil {
			return fmt.Errorf("preparing %q: %w", query, err)
		}
		return nil
	})
}

func (w *writeStmts) close() error {
	var errs []error
	_ = w.each(func(stmt **sql.Stmt, _ string) error {
		if *stmt != nil {
			errs = append(errs, (*stmt).Close())
		}
		return nil
	})
	return errors.Join(errs...)
}

// Begin implements ledger.Store.
func (s *SQLite) Begin(ctx context.Context, _ ...ledger.Key) (ledger.Tx, error) {
	if s.writer == nil {
		return nil, errors.New("database is open for reading alone")
	}
	select {
	case s.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// From here on nothing is cancelled: an interrupted statement would leave
	// the connection in a state that this package has to guess.
	tx := &sqliteTx{store: s, ctx: context.WithoutCancel(ctx)}
	if _, err := s.stmts.begin.ExecContext(tx.ctx); err != nil {
		<-s.lock
		return nil, err
	}
	if s.begun++; s.begun == roomAfter {
		s.makeRoom()
	}
	if err := tx.refresh(); err != nil {
		tx.Rollback()
		return nil, fmt.Errorf("reading head: %w", err)
	}
	return tx, nil
}

type sqliteTx struct {
	store *SQLite
	ctx   context.Context // never done
	head  ledger.Head
	ended bool
}

func (tx *sqliteTx) Head() ledger.Head { return tx.head }

// query reads rows from the database.
func (tx *sqliteTx) query(keys []ledger.Key) ([]ledger.Put, error) {
	if len(keys) <= fewKeys {
		return scanRows(keys, func(k ledger.Key) *sql.Row {
			return tx.store.stmts.row.QueryRowContext(tx.ctx, k.Kind, k.ID)
		})
	}
	list := make([][2]string, len(keys))
	for i, k := range keys {
		list[i] = [2]string{k.Kind, k.ID}
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	found, err := tx.store.stmts.rows.QueryContext(tx.ctx, string(b))
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var out []ledger.Put
	for found.Next() {
		var p ledger.Put
		if err := found.Scan(&p.Key.Kind, &p.Key.ID, &p.Value); err != nil {
			return nil, err
		}
		if p, err = unseal(p); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, found.Err()
}

// Rollback implements ledger.Tx. SQLite has rolled back by itself after some
// errors; that there is nothing to roll back then is no error.
func (tx *sqliteTx) Rollback() {
	if tx.ended {
		return
	}
	tx.ended = true
	_, _ = tx.store.stmts.rollback.ExecContext(tx.ctx)
	<-tx.store.lock
}

func (tx *sqliteTx) Commit(b ledger.Batch) error {
	if tx.ended {
		return errors.New("transaction has ended")
	}
	defer tx.Rollback()
	if err := tx.write(b); err != nil {
		return err
	}
	// When COMMIT itself fails, its frames may stand in the write-ahead log
	// all the same, and a restart would find them.
	if _, err := tx.store.stmts.commit.ExecContext(tx.ctx); err != nil {
		tx.store.recent.forget()
		return fmt.Errorf("%w: %w", ledger.ErrUnknown, err)
	}
	tx.committed(b)
	tx.ended = true
	<-tx.store.lock
	return nil
}

func (tx *sqliteTx) write(b ledger.Batch) error {
	st := &tx.store.stmts
	err := st.insertEntry.write(tx.ctx, len(b.Records), func(i int, values []any) []any {
		r := &b.Records[i]
		return append(values, int64(r.Index), r.At, r.Kind, r.Subject, r.Hash[:], r.Data)
	})
	if err != nil {
		return fmt.Errorf("writing %d entries from %d: %w", len(b.Records), b.Records[0].Index, err)
	}
	for _, t := range b.Tiles {
		if _, err := st.insertTile.ExecContext(tx.ctx, t.Level, int64(t.Index), t.Data); err != nil {
			return fmt.Errorf("writing tile %d of level %d: %w", t.Index, t.Level, err)
		}
	}
	if err := tx.put(b.Puts); err != nil {
		return fmt.Errorf("writing %d rows: %w", len(b.Puts), err)
	}
	for _, s := range b.Sweeps { // before blobs: one that came back stays
		if err := tx.sweep(s); err != nil {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	if err := st.insertBlob.write(tx.ctx, len(b.Blobs), func(i int, values []any) []any {
		bl := &b.Blobs[i]
		return append(values, bl.Sum[:], bl.Size, bl.Packed)
	}); err != nil {
		return fmt.Errorf("writing %d blobs: %w", len(b.Blobs), err)
	}
	if err := tx.moveHead(b.Head); err != nil {
		return fmt.Errorf("moving head from size %d to %d: %w", tx.head.Size, b.Head.Size, err)
	}
	return nil
}

func (tx *sqliteTx) put(puts []ledger.Put) error {
	st := &tx.store.stmts
	kept := make([]ledger.Put, 0, len(puts))
	for _, p := range puts {
		if p.Value != nil {
			kept = append(kept, p)
			continue
		}
		if _, err := st.deleteRow.ExecContext(tx.ctx, p.Key.Kind, p.Key.ID); err != nil {
			return err
		}
	}
	return st.putRow.write(tx.ctx, len(kept), func(i int, values []any) []any {
		return append(values, kept[i].Key.Kind, kept[i].Key.ID, seal(kept[i].Key, kept[i].Value))
	})
}

func (tx *sqliteTx) moveHead(h ledger.Head) error {
	st := &tx.store.stmts
	if tx.head.Note == nil {
		_, err := st.insertHead.ExecContext(tx.ctx, int64(h.Size), h.Root[:], h.At, h.Note)
		return err
	}
	if h.Size == tx.head.Size {
		return nil
	}
	res, err := st.moveHead.ExecContext(tx.ctx, int64(h.Size), h.Root[:], h.At, h.Note, int64(tx.head.Size))
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != 1 {
		err = errors.New("the head moved under its lock")
	}
	return err
}
