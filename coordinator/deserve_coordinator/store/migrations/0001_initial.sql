-- Files, batches, their rows, and one result a row.

CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,                        -- of the content, in hexadecimal
    created_at INTEGER NOT NULL
);

CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    input_file_id TEXT NOT NULL,
    output_file_id TEXT,
    error_file_id TEXT,
    completion_window TEXT NOT NULL,
    status TEXT NOT NULL,
    outcome TEXT NOT NULL DEFAULT 'completed',   -- the final status that `finalizing` and `cancelling` lead to
    metadata TEXT,
    errors TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    in_progress_at INTEGER,
    finalizing_at INTEGER,
    completed_at INTEGER,
    failed_at INTEGER,
    expired_at INTEGER,
    cancelling_at INTEGER,
    cancelled_at INTEGER,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT UNIQUE,
    request_digest TEXT NOT NULL
);
CREATE INDEX batches_by_status ON batches (status);

-- AUTOINCREMENT: a row key is never used again, so a late message cannot mean another row.
CREATE TABLE rows (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_id TEXT NOT NULL REFERENCES batches (id),
    ordinal INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    body BLOB NOT NULL,
    state TEXT NOT NULL,                         -- pending, leased, done
    fence INTEGER NOT NULL DEFAULT 0,            -- of the newest lease
    ring TEXT NOT NULL DEFAULT '',               -- holder of the newest lease
    failures INTEGER NOT NULL DEFAULT 0,         -- leases that ended without a result
    log BLOB,                                    -- tokens drawn by earlier attempts
    UNIQUE (batch_id, ordinal),
    UNIQUE (batch_id, custom_id)
);
CREATE INDEX rows_by_state ON rows (batch_id, state, ordinal);
CREATE INDEX rows_leased ON rows (ring, fence) WHERE state = 'leased';

CREATE TABLE results (
    row INTEGER PRIMARY KEY REFERENCES rows (key),
    status INTEGER NOT NULL,                     -- HTTP status; 0 where the row was never answered
    body BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
);

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counters VALUES ('fence', 0);
