-- +goose Up
-- What must never change has triggers that refuse to; the head only grows.

CREATE TABLE log_head (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL,
    root BLOB    NOT NULL,
    at   INTEGER NOT NULL, -- Unix seconds of the last entry
    note BLOB    NOT NULL  -- signed checkpoint
) STRICT;

CREATE TABLE log_entries (
    seq       INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    subject   TEXT    NOT NULL,
    leaf_hash BLOB    NOT NULL,
    data      BLOB    NOT NULL
) STRICT;

CREATE TABLE log_tiles (
    level INTEGER NOT NULL,
    idx   INTEGER NOT NULL,
    data  BLOB    NOT NULL, -- 256 hashes
    PRIMARY KEY (level, idx)
) STRICT;

CREATE TABLE blobs (
    sum  BLOB PRIMARY KEY,  -- SHA-256 of the content
    size INTEGER NOT NULL,
    data BLOB    NOT NULL   -- zstd
) STRICT;

CREATE TABLE state (
    kind  TEXT NOT NULL,
    id    TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER log_head_grows BEFORE UPDATE ON log_head
WHEN NEW.size < OLD.size OR NEW.at < OLD.at OR (NEW.size = OLD.size AND NEW.root <> OLD.root)
BEGIN SELECT RAISE(ABORT, 'the head of the log only grows'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_head_stays BEFORE DELETE ON log_head
BEGIN SELECT RAISE(ABORT, 'the head of the log is never removed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_entries_fixed BEFORE UPDATE ON log_entries
BEGIN SELECT RAISE(ABORT, 'log entries are never changed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_entries_stay BEFORE DELETE ON log_entries
BEGIN SELECT RAISE(ABORT, 'log entries are never removed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_tiles_fixed BEFORE UPDATE ON log_tiles
BEGIN SELECT RAISE(ABORT, 'log tiles are never changed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_tiles_stay BEFORE DELETE ON log_tiles
BEGIN SELECT RAISE(ABORT, 'log tiles are never removed'); END;
-- +goose StatementEnd
