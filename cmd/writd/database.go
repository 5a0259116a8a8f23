package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/writ-attestation/writ/verifier/ledger"
	"github.com/writ-attestation/writ/verifier/store"
)

// database is what state and history are kept in.
type database interface {
	ledger.Store
	Check(ctx context.Context) (problems []string, err error)
	Close() error
}

// openDatabase opens the configured database for writing, and brings its schema
// up to date.
func (c *config) openDatabase(ctx context.Context) (database, error) {
	if c.Database != "" {
		return some(store.OpenPostgres(ctx, c.Database))
	}
	return some(store.OpenSQLite(ctx, c.file()))
}

// readDatabase opens it for reading alone.
func (c *config) readDatabase(ctx context.Context) (database, error) {
	if c.Database != "" {
		return some(store.ReadPostgres(ctx, c.Database))
	}
	return some(store.ReadSQLite(ctx, c.file()))
}

// some keeps a nil pointer from becoming a database that is not nil.
func some[D database](d D, err error) (database, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

// file is the SQLite database.
func (c *config) file() string { return filepath.Join(c.Data, databaseFile) }

// onlySQLite refuses what PostgreSQL has its own tools for.
func (c *config) onlySQLite() error {
	if c.Database == "" {
		return nil
	}
	return unusable(errors.New("the history is in PostgreSQL: back it up and restore it with its own tools (pg_basebackup, archived WAL)"))
}

func checkDatabase(name string) error {
	if name == "" {
		return nil
	}
	u, err := url.Parse(name)
	if err != nil { // its text would show a password
		return errors.New("database: not a URL")
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return fmt.Errorf("database: a URL postgres://... is needed, found scheme %q", u.Scheme)
	}
	if _, has := u.User.Password(); has {
		return errors.New("database: leave the password out of it; put it into the file that PGPASSFILE names")
	}
	return nil
}
