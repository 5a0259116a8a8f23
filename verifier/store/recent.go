package store

import (
	"bytes"
	"database/sql"
	"errors"

	"modernc.org/sqlite"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// recent is what the writer's connection last saw of the head and of state
// rows. Most drafts change the rows that one before them has written, and this
// process is nearly always the only one that writes. It is for the holder of the
// head lock, in a transaction, and holds good while no other connection commits.
type recent struct {
	version uint32 // of the database, as SQLite counts the commits that a connection sees
	valid   bool
	head    ledger.Head
	rows    map[ledger.Key][]byte // unsealed; nil: there is none
	size    int                   // of rows, bytes
}

// maxRecent bounds the rows in bytes: those of some ten thousand nodes. When it
// is reached they are forgotten, all at once.
const maxRecent = 16 << 20

// rowCost is what a row takes beside its bytes, about.
const rowCost = 100

func (r *recent) forget() { *r = recent{} }

func (r *recent) keep(k ledger.Key, value []byte) {
	if r.rows == nil || r.size > maxRecent {
		r.rows, r.size = map[ledger.Key][]byte{}, 0
	}
	old, known := r.rows[k]
	if !known {
		r.size += rowCost + len(k.Kind) + len(k.ID)
	}
	r.size += len(value) - len(old)
	r.rows[k] = bytes.Clone(value)
}

// refresh reads the head, once a transaction has begun, and forgets what another
// connection may have changed since.
func (tx *sqliteTx) refresh() error {
	s := tx.store
	v, err := dataVersion(s.writer)
	if err != nil {
		return err
	}
	if !s.recent.valid || s.recent.version != v {
		s.recent.forget()
		head, err := scanHead(s.stmts.head.QueryRowContext(tx.ctx))
		if err != nil {
			return err
		}
		s.recent.version, s.recent.valid, s.recent.head = v, true, head
	}
	tx.head = s.recent.head
	tx.head.Note = bytes.Clone(tx.head.Note)
	return nil
}

// committed takes over what a transaction has written.
func (tx *sqliteTx) committed(b ledger.Batch) {
	r := &tx.store.recent
	var err error
	if r.version, err = dataVersion(tx.store.writer); err != nil {
		r.forget()
		return
	}
	if tx.head.Note == nil || b.Head.Size != tx.head.Size {
		r.head = b.Head
		r.head.Note = bytes.Clone(b.Head.Note)
	}
	for _, p := range b.Puts {
		r.keep(p.Key, p.Value)
	}
}

// dataVersion changes with each commit that the connection sees, its own or
// another's.
func dataVersion(c *sql.Conn) (v uint32, err error) {
	err = c.Raw(func(driver any) error {
		fc, ok := driver.(sqlite.FileControl)
		if !ok {
			return errors.New("driver does not tell the version of the database")
		}
		v, err = fc.FileControlDataVersion("main")
		return err
	})
	return v, err
}

// Rows implements ledger.Tx.
func (tx *sqliteTx) Rows(keys []ledger.Key) ([]ledger.Put, error) {
	r := &tx.store.recent
	var out []ledger.Put
	var unknown []ledger.Key
	for _, k := range keys {
		if value, known := r.rows[k]; !known {
			unknown = append(unknown, k)
		} else if value != nil {
			out = append(out, ledger.Put{Key: k, Value: bytes.Clone(value)})
		}
	}
	if len(unknown) == 0 {
		return out, nil
	}
	found, err := tx.query(unknown)
	if err != nil {
		return nil, err
	}
	for _, k := range unknown {
		r.keep(k, nil)
	}
	for _, p := range found {
		r.keep(p.Key, p.Value)
	}
	return append(out, found...), nil
}
