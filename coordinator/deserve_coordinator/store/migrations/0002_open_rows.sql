-- How many rows of each batch wait and how many are leased, kept by triggers: counting a million rows at each lease is
-- too slow, and no statement over rows can forget to keep the figures.

CREATE TABLE open_rows (
    batch_id TEXT PRIMARY KEY REFERENCES batches (id),
    pending INTEGER NOT NULL DEFAULT 0,
    leased INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

INSERT INTO open_rows (batch_id, pending, leased)
    SELECT b.id,
        (SELECT count(*) FROM rows r WHERE r.batch_id = b.id AND r.state = 'pending'),
        (SELECT count(*) FROM rows r WHERE r.batch_id = b.id AND r.state = 'leased')
    FROM batches b;

CREATE TRIGGER batch_inserted AFTER INSERT ON batches BEGIN
    INSERT INTO open_rows (batch_id) VALUES (NEW.id);
END;

CREATE TRIGGER row_inserted AFTER INSERT ON rows BEGIN
    UPDATE open_rows SET pending = pending + (NEW.state = 'pending'), leased = leased + (NEW.state = 'leased')
        WHERE batch_id = NEW.batch_id;
END;

CREATE TRIGGER row_moved AFTER UPDATE OF state ON rows WHEN OLD.state != NEW.state BEGIN
    UPDATE open_rows SET
        pending = pending + (NEW.state = 'pending') - (OLD.state = 'pending'),
        leased = leased + (NEW.state = 'leased') - (OLD.state = 'leased')
        WHERE batch_id = NEW.batch_id;
END;

CREATE TRIGGER row_deleted AFTER DELETE ON rows BEGIN
    UPDATE open_rows SET pending = pending - (OLD.state = 'pending'), leased = leased - (OLD.state = 'leased')
        WHERE batch_id = OLD.batch_id;
END;
