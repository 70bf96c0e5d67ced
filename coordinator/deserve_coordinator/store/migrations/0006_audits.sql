-- Audits: which delivered work was drawn, how far each audit is, who replays it, and what became of nodes' names.

-- Rows of a lease whose draw has been made, won or not.
CREATE TABLE audit_draws (
    row INTEGER NOT NULL REFERENCES rows (key),
    lease INTEGER NOT NULL,
    PRIMARY KEY (row, lease)
) WITHOUT ROWID;

CREATE TABLE audits (
    id BLOB PRIMARY KEY,
    batch_id TEXT NOT NULL REFERENCES batches (id),
    job_id BLOB NOT NULL,
    row INTEGER NOT NULL REFERENCES rows (key),
    lease INTEGER NOT NULL,
    ring TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    stage INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    node_id BLOB NOT NULL,
    operator BLOB NOT NULL,
    anchor BLOB NOT NULL,                            -- root that the draw was made from
    position INTEGER NOT NULL,                       -- of the ledger, whose beacon decided
    beacon BLOB NOT NULL,
    rate_ppm INTEGER NOT NULL,
    kind TEXT NOT NULL,                              -- real, must-fail, must-pass
    phase TEXT NOT NULL,                             -- asking, replaying, confirming, decided
    latest_s REAL NOT NULL,
    deadline_s REAL NOT NULL,
    waits_until_s REAL NOT NULL,
    asks INTEGER NOT NULL,
    outcome TEXT,
    reason TEXT NOT NULL,
    challenge INTEGER                                -- on the ledger, where there is one
);
CREATE INDEX audits_open ON audits (phase) WHERE phase != 'decided';
CREATE INDEX audits_of_row ON audits (row, lease);
CREATE INDEX audits_of_node ON audits (job_id, node_id);

CREATE TABLE replays (
    task BLOB PRIMARY KEY,
    audit BLOB NOT NULL REFERENCES audits (id),
    place INTEGER NOT NULL,
    node_id BLOB NOT NULL,
    operator BLOB NOT NULL,
    hardware TEXT NOT NULL,
    commitment BLOB,
    asked_to_reveal INTEGER NOT NULL,
    passed INTEGER,                                  -- these four NULL until it is revealed
    error_ppm INTEGER,
    token INTEGER,
    reason TEXT,
    dropped INTEGER NOT NULL
);
CREATE INDEX replays_of_audit ON replays (audit, place);

CREATE TABLE standings (
    node_id BLOB PRIMARY KEY,
    streak INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    barred TEXT NOT NULL,
    upheld INTEGER NOT NULL,
    overruled INTEGER NOT NULL,
    missed INTEGER NOT NULL
) WITHOUT ROWID;
