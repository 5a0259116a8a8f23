-- What retention gives up goes within a sweep alone: the bytes of old entries,
-- never their hashes, and blobs. The sweep's transaction opens it and closes it.

CREATE TABLE log_sweep (
    id   integer PRIMARY KEY CHECK (id = 1),
    open integer NOT NULL
);
INSERT INTO log_sweep (id, open) VALUES (1, 0);

CREATE FUNCTION log_entries_fixed() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF (SELECT open FROM log_sweep) <> 1 OR length(NEW.data) > 0 OR NEW.subject <> '' OR NEW.seq <> OLD.seq
        OR NEW.at <> OLD.at OR NEW.kind <> OLD.kind OR NEW.leaf_hash <> OLD.leaf_hash THEN
        RAISE EXCEPTION 'rows of log_entries are never changed or removed';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION blobs_stay() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF (SELECT open FROM log_sweep) <> 1 THEN
        RAISE EXCEPTION 'blobs are removed by retention alone';
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER log_entries_stay ON log_entries;
CREATE TRIGGER log_entries_stay BEFORE DELETE OR TRUNCATE ON log_entries EXECUTE FUNCTION log_refuse();
CREATE TRIGGER log_entries_fixed BEFORE UPDATE ON log_entries FOR EACH ROW EXECUTE FUNCTION log_entries_fixed();
CREATE TRIGGER blobs_fixed BEFORE UPDATE OR TRUNCATE ON blobs EXECUTE FUNCTION log_refuse();
CREATE TRIGGER blobs_stay BEFORE DELETE ON blobs EXECUTE FUNCTION blobs_stay();
