package ledger

import "context"

// Store keeps the log and the state rows beside it, in one database, so that
// one transaction changes both. Package store has the implementations; all of
// them pass storetest.Run.
//
// Durability: when Commit returns nil, what it wrote survives the death of the
// process, of the machine and, where the store has several machines, of any one
// of them. Atomicity: readers and later transactions see all of a Batch or
// nothing. History: entries, tiles and blobs are never changed or removed, but
// by a [Sweep]; the head only grows. A state row that is not what was put is
// [ErrCorrupt], named.
type Store interface {
	Reader

	// Begin waits for the head lock, which every writer of this store takes,
	// in this process or in others, and returns a transaction that holds it. A
	// done ctx ends the wait; it has no effect on the transaction after that.
	// likely are keys that Rows will probably be asked for: a store that is far
	// away may read them along with the lock, after it was gained.
	Begin(ctx context.Context, likely ...Key) (Tx, error)

	// Pack prepares data to be stored as a blob. It takes the time that hashing
	// and compressing take, and holds no lock.
	Pack(data []byte) (Blob, error)
}

// Shared is a Store that other processes may write too, each with a Log of its
// own on it.
type Shared interface {
	Store

	// Listen calls grown soon after a commit of any process has moved the head,
	// until ctx is done. It is a hint: calls may be missing while the database
	// cannot be reached, and one follows when it can be again.
	Listen(ctx context.Context, grown func())

	// Settle returns when everything that could be read before the call is as
	// durable as Commit promises. What another process failed to have
	// acknowledged may be readable before it is.
	Settle(ctx context.Context) error
}

// Reader reads what is committed: after a Commit has returned, by whichever
// process, it is seen. Methods may be called at any time by many goroutines,
// also while a transaction is open. Slices they return belong to the caller.
type Reader interface {
	// Head returns the head; a store that has none yet returns the zero Head.
	Head(ctx context.Context) (Head, error)

	// Rows returns the state rows of those keys that have one, in any order.
	Rows(ctx context.Context, keys []Key) ([]Put, error)

	// List returns up to limit rows of a kind whose id is after the given one
	// in byte order, in that order.
	List(ctx context.Context, kind, after string, limit int) ([]Put, error)

	// Records returns the log's records from index from up to, not including,
	// to; fewer when the log or the store's patience (at least 256) ends before.
	Records(ctx context.Context, from, to uint64) ([]Record, error)

	// Tile returns the bytes of a full tile, or [ErrNotFound].
	Tile(ctx context.Context, level int, index uint64) ([]byte, error)

	// Blob returns the blob whose SHA-256 is sum as it was put, or
	// [ErrNotFound].
	Blob(ctx context.Context, sum Hash) ([]byte, error)
}

// Tx is a transaction that holds the head lock. It is for one goroutine and
// ends with Commit or Rollback.
type Tx interface {
	// Head returns the head under the lock.
	Head() Head

	// Rows is [Reader.Rows] within the transaction. It is called at most once.
	Rows(keys []Key) ([]Put, error)

	// Commit writes the batch and commits. Nothing cancels it. The head is
	// updated only if its size still is the one that Head returned. On an error
	// nothing was written, unless the error is [ErrUnknown]: then it may or may
	// not have been, and the head read by a later transaction tells. The
	// transaction has ended in every case.
	Commit(Batch) error

	// Rollback gives up the transaction. After Commit it does nothing.
	Rollback()
}

// Batch is what one transaction writes.
type Batch struct {
	Head    Head     // the new head; equal to the old one when Records is empty
	Records []Record // with consecutive indexes from the old head's size on
	Tiles   []Tile   // those that the records filled
	Puts    []Put    // at most one per key
	Blobs   []Blob   // those already stored are left alone
	Sweeps  []Sweep  // before the blobs are written
}

// Sweep is what retention gives up. Of entries the bytes and the subject go;
// index, time, kind and leaf hash stay, and so every proof.
type Sweep struct {
	Blobs    []Hash   // those that are not there are no error
	From, To uint64   // indexes of the entries, To excluded
	Keep     []string // kinds of entries that stay
}

// Head is the one row that serialises writers.
type Head struct {
	Size uint64
	Root Hash
	At   int64  // Unix seconds of the last entry; 0: none yet
	Note []byte // signed checkpoint of Size and Root; nil: the store is new
}

// Record is an entry as it is stored.
type Record struct {
	Index         uint64
	At            int64
	Kind, Subject string // copies of the leaf's fields, to find it by
	Hash          Hash   // RFC 6962 leaf hash of Data
	Data          []byte // the leaf
}

// Tile is a full tile.
type Tile struct {
	Level int
	Index uint64
	Data  []byte // 8192 bytes: 256 hashes
}

// Blob is bulk data, found by its hash, in the form that Store.Pack gives it.
type Blob struct {
	Sum    Hash  // SHA-256 of the data
	Size   int64 // of the data, bytes
	Packed []byte
}
