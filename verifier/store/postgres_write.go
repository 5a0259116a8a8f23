package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// Begin implements ledger.Store. The likely rows come with the lock, in one round
// trip.
func (s *Postgres) Begin(ctx context.Context, likely ...ledger.Key) (ledger.Tx, error) {
	if s.lock == nil {
		return nil, errors.New("database is open for reading alone")
	}
	select {
	case s.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	tx := &postgresTx{store: s, ctx: context.WithoutCancel(ctx)}
	if err := tx.begin(ctx, likely); err != nil {
		s.drop()
		<-s.lock
		return nil, err
	}
	return tx, nil
}

// drop gives up the writer's connection: what the server made of it is unknown.
// The next one begins with a barrier.
func (s *Postgres) drop() {
	if s.writer != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // do not wait for a server that may be gone
		_ = s.writer.Close(ctx)
		s.writer = nil
	}
}

type postgresTx struct {
	store *Postgres
	ctx   context.Context // never done
	head  ledger.Head
	read  map[ledger.Key][]byte // rows that came with the lock, as stored; nil: there is none
	ended bool
}

// begin takes the head lock. The wait for it is the only one that ctx ends, with
// the connection. Statements after the one that waits see what was committed
// until then.
func (tx *postgresTx) begin(ctx context.Context, likely []ledger.Key) (err error) {
	s := tx.store
	if s.writer == nil || s.writer.IsClosed() {
		if s.writer, err = connect(ctx, s.config); err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		s.writerPID.Store(s.writer.PgConn().PID())
	}
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	b.Queue(pgSelectHead + " FOR UPDATE")
	if len(likely) > 0 {
		kinds, ids := columns(likely)
		b.Queue(pgSelectRows, kinds, ids)
	}
	results := s.writer.SendBatch(ctx, b)
	defer results.Close()
	if _, err = results.Exec(); err != nil {
		return err
	}
	if tx.head, err = scanPgHead(results.QueryRow()); err != nil {
		return fmt.Errorf("reading head: %w", err)
	}
	if len(likely) > 0 {
		if tx.read, err = readStored(results, likely); err != nil {
			return fmt.Errorf("reading rows: %w", err)
		}
	}
	return results.Close()
}

// readStored reads the rows of keys as they are stored, with their seals.
func readStored(results pgx.BatchResults, keys []ledger.Key) (map[ledger.Key][]byte, error) {
	read := make(map[ledger.Key][]byte, len(keys))
	for _, k := range keys {
		read[k] = nil
	}
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	var p ledger.Put
	_, err = pgx.ForEachRow(rows, []any{&p.Key.Kind, &p.Key.ID, &p.Value}, func() error {
		read[p.Key], p.Value = p.Value, nil
		return nil
	})
	return read, err
}

func (tx *postgresTx) Head() ledger.Head { return tx.head }

func (tx *postgresTx) Rows(keys []ledger.Key) (out []ledger.Put, err error) {
	var more []ledger.Key
	for _, k := range keys {
		value, known := tx.read[k]
		if !known {
			more = append(more, k)
		}
		if value == nil {
			continue
		}
		p, err := unseal(ledger.Put{Key: k, Value: value})
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if len(more) == 0 {
		return out, nil
	}
	kinds, ids := columns(more)
	rest, err := scanPuts(tx.store.writer.Query(tx.ctx, pgSelectRows, kinds, ids))
	return append(out, rest...), err
}

// Rollback implements ledger.Tx.
func (tx *postgresTx) Rollback() {
	if tx.ended {
		return
	}
	tx.ended = true
	if _, err := tx.store.writer.Exec(tx.ctx, "ROLLBACK"); err != nil {
		tx.store.drop()
	}
	<-tx.store.lock
}

// Commit implements ledger.Tx: everything, and COMMIT, in one round trip.
func (tx *postgresTx) Commit(b ledger.Batch) error {
	if tx.ended {
		return errors.New("transaction has ended")
	}
	defer tx.Rollback()
	if err := tx.dropKnown(&b); err != nil {
		return fmt.Errorf("looking for blobs: %w", err)
	}
	undone, err := finish(tx.ctx, tx.store.writer, tx.batch(b))
	if err == nil {
		tx.ended = true
		<-tx.store.lock
		return nil
	}
	if undone {
		return err
	}
	tx.ended = true
	tx.store.drop()
	<-tx.store.lock
	return fmt.Errorf("%w: %w", ledger.ErrUnknown, err)
}

// dropKnown leaves out blobs that are stored, when sending them would cost more
// than the question.
func (tx *postgresTx) dropKnown(b *ledger.Batch) error {
	var sums [][]byte
	bytes := 0
	for _, bl := range b.Blobs {
		sums = append(sums, bl.Sum[:])
		bytes += len(bl.Packed)
	}
	if bytes < 16<<10 {
		return nil
	}
	rows, err := tx.store.writer.Query(tx.ctx, "SELECT sum FROM blobs WHERE sum = ANY($1)", sums)
	if err != nil {
		return err
	}
	stored, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, sum := range stored {
		known[string(sum)] = true
	}
	for _, s := range b.Sweeps {
		for _, sum := range s.Blobs {
			delete(known, string(sum[:]))
		}
	}
	all := b.Blobs
	b.Blobs = nil
	for _, bl := range all {
		if !known[string(bl.Sum[:])] {
			b.Blobs = append(b.Blobs, bl)
		}
	}
	return nil
}

// batch is what a commit writes: one statement per table, whatever the number
// of rows.
func (tx *postgresTx) batch(b ledger.Batch) *pgx.Batch {
	q := &pgx.Batch{}
	if n := len(b.Records); n > 0 {
		queueRecords(q, b.Records)
	}
	for _, t := range b.Tiles {
		q.Queue(`INSERT INTO log_tiles (level, idx, data) VALUES ($1, $2, $3)`, t.Level, int64(t.Index), t.Data)
	}
	queuePuts(q, b.Puts)
	for _, s := range b.Sweeps { // before blobs: one that came back stays
		queueSweep(q, s)
	}
	for _, bl := range b.Blobs {
		q.Queue(`INSERT INTO blobs (sum, size, data) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, bl.Sum[:], bl.Size, bl.Packed)
	}
	if tx.head.Note == nil || b.Head.Size != tx.head.Size {
		// The row is locked: its size is the one that Head returned.
		q.Queue(`UPDATE log_head SET size = $1, root = $2, at = $3, note = $4 WHERE id = 1`,
			int64(b.Head.Size), b.Head.Root[:], b.Head.At, b.Head.Note)
		q.Queue(`SELECT pg_notify('` + channel + `', '')`)
	}
	return q
}

func queueRecords(q *pgx.Batch, rs []ledger.Record) {
	n := len(rs)
	seqs, ats := make([]int64, n), make([]int64, n)
	kinds, subjects := make([]string, n), make([]string, n)
	hashes, data := make([][]byte, n), make([][]byte, n)
	for i := range rs {
		r := &rs[i]
		seqs[i], ats[i], kinds[i], subjects[i], hashes[i], data[i] = int64(r.Index), r.At, r.Kind, r.Subject, r.Hash[:], r.Data
	}
	q.Queue(`INSERT INTO log_entries (seq, at, kind, subject, leaf_hash, data)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::bytea[])`,
		seqs, ats, kinds, subjects, hashes, data)
}

func queuePuts(q *pgx.Batch, puts []ledger.Put) {
	var gone, kept []ledger.Key
	var values [][]byte
	for _, p := range puts {
		if p.Value == nil {
			gone = append(gone, p.Key)
		} else {
			kept, values = append(kept, p.Key), append(values, seal(p.Key, p.Value))
		}
	}
	if len(kept) > 0 {
		kinds, ids := columns(kept)
		q.Queue(`INSERT INTO state (kind, id, value) SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[])
			ON CONFLICT (kind, id) DO UPDATE SET value = excluded.value`, kinds, ids, values)
	}
	if len(gone) > 0 {
		kinds, ids := columns(gone)
		q.Queue(`DELETE FROM state s USING unnest($1::text[], $2::text[]) AS k (kind, id) WHERE s.kind = k.kind AND s.id = k.id`, kinds, ids)
	}
}
