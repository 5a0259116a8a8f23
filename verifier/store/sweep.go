package store

import (
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// sweep gives up what retention no longer keeps. Triggers refuse all of it
// outside of the two statements that open and close the sweep.
func (tx *sqliteTx) sweep(s ledger.Sweep) error {
	c := tx.store.writer
	if _, err := c.ExecContext(tx.ctx, `UPDATE log_sweep SET open = 1`); err != nil {
		return err
	}
	for _, sum := range s.Blobs {
		if _, err := c.ExecContext(tx.ctx, `DELETE FROM blobs WHERE sum = ?`, sum[:]); err != nil {
			return fmt.Errorf("removing blob %x: %w", sum, err)
		}
	}
	if s.From < s.To {
		kinds, err := json.Marshal(append([]string{}, s.Keep...))
		if err != nil {
			return err
		}
		if _, err := c.ExecContext(tx.ctx, `UPDATE log_entries SET data = x'', subject = '' WHERE seq >= ? AND seq < ?
			AND kind NOT IN (SELECT value FROM json_each(?))`, int64(s.From), int64(s.To), string(kinds)); err != nil {
			return fmt.Errorf("clearing entries %d to %d: %w", s.From, s.To, err)
		}
	}
	_, err := c.ExecContext(tx.ctx, `UPDATE log_sweep SET open = 0`)
	return err
}

// queueSweep is sqliteTx.sweep for PostgreSQL.
func queueSweep(q *pgx.Batch, s ledger.Sweep) {
	q.Queue(`UPDATE log_sweep SET open = 1`)
	if len(s.Blobs) > 0 {
		sums := make([][]byte, len(s.Blobs))
		for i := range s.Blobs {
			sums[i] = s.Blobs[i][:]
		}
		q.Queue(`DELETE FROM blobs WHERE sum = ANY($1)`, sums)
	}
	if s.From < s.To {
		q.Queue(`UPDATE log_entries SET data = '', subject = '' WHERE seq >= $1 AND seq < $2 AND kind <> ALL($3)`, int64(s.From), int64(s.To), append([]string{}, s.Keep...))
	}
	q.Queue(`UPDATE log_sweep SET open = 0`)
}
