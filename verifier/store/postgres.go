package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/writ-attestation/writ/verifier/ledger"
)

// Postgres is a ledger.Store in a PostgreSQL database that several verifiers
// share. What Commit promises is what the server is set up for: with
// synchronous_standby_names, that a commit is on a second machine. Commits wait
// for that without end.
//
// Two ways in which PostgreSQL says that a commit is done when it is not are
// closed here. A wait for a standby that is cancelled ends in "COMMIT" with a
// warning; rows written so can be read at once, though they are on one machine
// only. And a deadline of ours on COMMIT would cancel that wait: there is none.
type Postgres struct {
	*packer
	readers *pgxpool.Pool // of the primary; read only

	lock   chan struct{} // head lock within the process; the row lock is it between processes
	config *pgx.ConnConfig
	writer *pgx.Conn // used by the holder of lock; nil: to be connected again

	writerPID atomic.Uint32 // of the writer's server process
}

// OpenPostgres connects to the database that url names, and brings its schema
// up to date; several may do so at once. A schema newer than this program is
// refused. Password and client key are better kept out of url: in the files and
// variables that libpq has for them.
func OpenPostgres(ctx context.Context, url string) (*Postgres, error) {
	s, err := openPostgres(ctx, url, migratePostgres)
	if err == nil {
		s.lock = make(chan struct{}, 1)
	}
	return s, err
}

// ReadPostgres opens an existing database for reading alone.
func ReadPostgres(ctx context.Context, url string) (*Postgres, error) {
	return openPostgres(ctx, url, checkPostgres)
}

func openPostgres(ctx context.Context, url string, ready func(context.Context, *pgx.Conn) error) (*Postgres, error) {
	pool, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("reading the database's URL: %w", err) // pgx leaves the password out
	}
	harden(pool.ConnConfig)
	s := &Postgres{config: pool.ConnConfig.Copy()}
	if s.packer, err = newPacker(); err != nil {
		return nil, err
	}
	c, err := connect(ctx, s.config)
	if err == nil {
		err = errors.Join(ready(ctx, c), c.Close(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("opening database %s on %s: %w", s.config.Database, s.config.Host, err)
	}
	pool.MaxConns = 8
	pool.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	pool.AfterConnect = barrier
	if s.readers, err = pgxpool.NewWithConfig(ctx, pool); err != nil {
		return nil, fmt.Errorf("opening database %s on %s: %w", s.config.Database, s.config.Host, err)
	}
	return s, nil
}

// harden makes connections lead to the primary alone, die soon after it, and
// keep the last warning.
func harden(c *pgx.ConnConfig) {
	c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	d := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3},
		Control:         giveUpUnanswered,
	}
	c.DialFunc = d.DialContext
	c.RuntimeParams["application_name"] = "writd"
	c.OnNotice = func(pg *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			pg.CustomData()[warning] = (*pgconn.PgError)(n)
		}
	}
}

// warning is the key of a connection's last warning among its custom data.
const warning = "writ-warning"

// connect opens a connection behind a barrier.
func connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	c, err := pgx.ConnectConfig(ctx, cfg.Copy())
	if err != nil {
		return nil, err
	}
	if err := barrier(ctx, c); err != nil {
		return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// barrier commits something small: when that is acknowledged, so is everything
// before it, also what a server found in its log when it came back and nobody
// was ever told. Every connection begins with one, for it may be the first after
// a failover. A logical message needs no table and leaves no row.
func barrier(ctx context.Context, c *pgx.Conn) error {
	b := &pgx.Batch{}
	b.Queue("BEGIN READ WRITE")
	b.Queue("SELECT pg_logical_emit_message(true, 'writ', '')")
	if _, err := finish(ctx, c, b); err != nil {
		return fmt.Errorf("writing a barrier: %w", err)
	}
	return nil
}

// finish sends the rest of a transaction with its COMMIT, in one round trip. An
// error with undone set says that nothing of it happened; otherwise it may have.
func finish(ctx context.Context, c *pgx.Conn, b *pgx.Batch) (undone bool, err error) {
	delete(c.PgConn().CustomData(), warning)
	b.Queue("COMMIT")
	results := c.SendBatch(ctx, b)
	for left := b.Len(); left > 0; left-- {
		tag, err := results.Exec()
		if err != nil {
			_ = results.Close() // says the same
			return left > 1 && refused(err), err
		}
		if left == 1 && tag.String() != "COMMIT" {
			_ = results.Close()
			return tag.String() == "ROLLBACK", fmt.Errorf("COMMIT was answered by %s", tag)
		}
	}
	if err := results.Close(); err != nil {
		return false, err
	}
	if w, ok := c.PgConn().CustomData()[warning].(error); ok {
		return false, fmt.Errorf("committed with a warning, so perhaps on this server alone: %w", w)
	}
	return false, nil
}

// refused reports an error that the server answered and lived on from.
func refused(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.SeverityUnlocalized == "ERROR"
}

// Settle implements ledger.Shared.
func (s *Postgres) Settle(ctx context.Context) error {
	return s.readers.AcquireFunc(ctx, func(c *pgxpool.Conn) error { return barrier(ctx, c.Conn()) })
}

// channel is notified of the head's new size by each commit that moves it.
const channel = "writ_log"

// Listen implements ledger.Shared. A notification may be lost with its
// connection, so it is told of each new one too, and every second anyway.
func (s *Postgres) Listen(ctx context.Context, grown func()) {
	for ctx.Err() == nil {
		_ = s.listen(ctx, grown) // the next attempt says whether it matters
		grown()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (s *Postgres) listen(ctx context.Context, grown func()) error {
	c, err := pgx.ConnectConfig(ctx, s.config.Copy())
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if _, err := c.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	grown()
	for {
		wait, cancel := context.WithTimeout(ctx, time.Second)
		n, err := c.WaitForNotification(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && n.PID == s.writerPID.Load(): // our own commit
		case err == nil || pgconn.Timeout(err) && !c.IsClosed():
			grown()
		default:
			return err
		}
	}
}

// Close ends the store; transactions must have ended before.
func (s *Postgres) Close() error {
	s.readers.Close()
	if s.writer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.writer.Close(ctx)
}

var _ ledger.Shared = (*Postgres)(nil)
