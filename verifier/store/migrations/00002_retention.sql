-- +goose Up
-- What retention gives up goes within a sweep alone: the bytes of old entries,
-- never their hashes, and blobs. The sweep's transaction opens it and closes it.

CREATE TABLE log_sweep (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    open INTEGER NOT NULL
) STRICT;
INSERT INTO log_sweep (id, open) VALUES (1, 0);

DROP TRIGGER log_entries_fixed;
-- +goose StatementBegin
CREATE TRIGGER log_entries_fixed BEFORE UPDATE ON log_entries
WHEN (SELECT open FROM log_sweep) <> 1 OR length(NEW.data) > 0 OR NEW.subject <> '' OR NEW.seq <> OLD.seq
    OR NEW.at <> OLD.at OR NEW.kind <> OLD.kind OR NEW.leaf_hash <> OLD.leaf_hash
BEGIN SELECT RAISE(ABORT, 'log entries are never changed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER blobs_fixed BEFORE UPDATE ON blobs
BEGIN SELECT RAISE(ABORT, 'blobs are never changed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER blobs_stay BEFORE DELETE ON blobs WHEN (SELECT open FROM log_sweep) <> 1
BEGIN SELECT RAISE(ABORT, 'blobs are removed by retention alone'); END;
-- +goose StatementEnd
