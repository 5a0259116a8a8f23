-- What must never change has triggers that refuse to; the head only grows. Text
-- sorts by bytes whatever the database's locale.

CREATE TABLE log_head (
    id   integer PRIMARY KEY CHECK (id = 1),
    size bigint  NOT NULL,
    root bytea   NOT NULL,
    at   bigint  NOT NULL, -- Unix seconds of the last entry
    note bytea   NOT NULL  -- signed checkpoint; empty: the log was never started
) WITH (fillfactor = 10);

-- The row is the lock of all writers, so it is there before the first of them.
INSERT INTO log_head (id, size, root, at, note) VALUES (1, 0, sha256(''), 0, '');

CREATE TABLE log_entries (
    seq       bigint PRIMARY KEY,
    at        bigint NOT NULL,
    kind      text   NOT NULL,
    subject   text   NOT NULL,
    leaf_hash bytea  NOT NULL,
    data      bytea  NOT NULL
);
ALTER TABLE log_entries ALTER COLUMN leaf_hash SET STORAGE PLAIN;

CREATE TABLE log_tiles (
    level integer NOT NULL,
    idx   bigint  NOT NULL,
    data  bytea   NOT NULL, -- 256 hashes
    PRIMARY KEY (level, idx)
);
ALTER TABLE log_tiles ALTER COLUMN data SET STORAGE EXTERNAL; -- hashes do not compress

CREATE TABLE blobs (
    sum  bytea  PRIMARY KEY, -- SHA-256 of the content
    size bigint NOT NULL,
    data bytea  NOT NULL     -- zstd
);
ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE state (
    kind  text COLLATE "C" NOT NULL,
    id    text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (kind, id)
) WITH (fillfactor = 70); -- rows are replaced often: leave room for the next version beside the old one

CREATE FUNCTION log_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME; END $$;

CREATE FUNCTION log_head_grows() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NEW.id <> 1 OR NEW.size < OLD.size OR NEW.at < OLD.at OR (NEW.size = OLD.size AND NEW.root <> OLD.root) THEN
        RAISE EXCEPTION 'the head of the log only grows';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER log_head_grows BEFORE UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION log_head_grows();
CREATE TRIGGER log_head_stays BEFORE DELETE OR TRUNCATE ON log_head EXECUTE FUNCTION log_refuse();
CREATE TRIGGER log_entries_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON log_entries EXECUTE FUNCTION log_refuse();
CREATE TRIGGER log_tiles_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON log_tiles EXECUTE FUNCTION log_refuse();
