package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// sealSize is the length in bytes of what stands before the value of a state
// row: the beginning of a SHA-256 over kind, id and value. The log says nothing
// of state rows, so this is what tells a row that a disk or a hand has changed.
const sealSize = 16

// seal returns the value as it is stored. Migrations do the same in SQL.
func seal(k ledger.Key, value []byte) []byte {
	sum := sealOf(k, value)
	return append(append(make([]byte, 0, sealSize+len(value)), sum[:sealSize]...), value...)
}

func sealOf(k ledger.Key, value []byte) [sha256.Size]byte {
	h := sha256.New()
	for _, s := range []string{"writ-row-v1", k.Kind, k.ID} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	h.Write(value)
	return [sha256.Size]byte(h.Sum(nil))
}

// unseal is the inverse of seal: a row that does not bear its seal is nobody's
// word. The value is never nil, which would mean that there is no row.
func unseal(p ledger.Put) (ledger.Put, error) {
	if len(p.Value) >= sealSize {
		value := p.Value[sealSize:]
		if sum := sealOf(p.Key, value); bytes.Equal(sum[:sealSize], p.Value[:sealSize]) {
			return ledger.Put{Key: p.Key, Value: value}, nil
		}
	}
	return p, fmt.Errorf("%w: state row %s/%s is not what was written", ledger.ErrCorrupt, p.Key.Kind, p.Key.ID)
}

// sealRows is the migration of rows that were written without a seal.
func sealRows(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT kind, id, value FROM state`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []ledger.Put
	for rows.Next() {
		var p ledger.Put
		if err := rows.Scan(&p.Key.Kind, &p.Key.ID, &p.Value); err != nil {
			return err
		}
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, p := range all {
		if _, err := tx.ExecContext(ctx, `UPDATE state SET value = ? WHERE kind = ? AND id = ?`, seal(p.Key, p.Value), p.Key.Kind, p.Key.ID); err != nil {
			return err
		}
	}
	return nil
}
