-- Money: who pays for a batch, what each delivered row costs and earns, what was signed for it, and prepaid accounts.
-- Amounts are base units in decimal text: they have 128 bits and SQLite's integers 64. `micros` are millionths of a
-- base unit, `exact` millionths of a micro (deserve_coordinator.money.tariff).

ALTER TABLE rows ADD COLUMN prompt_tokens INTEGER;   -- as counted at validation; these three NULL: never counted
ALTER TABLE rows ADD COLUMN most_tokens INTEGER;     -- that it may generate
ALTER TABLE rows ADD COLUMN unseen_tokens INTEGER;   -- of those that may leave no trace in its text

CREATE TABLE stages (
    ring TEXT NOT NULL,                              -- holder: ring/epoch
    stage INTEGER NOT NULL,
    node_id BLOB NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    prefill TEXT NOT NULL,                           -- base units per million layer-tokens
    decode TEXT NOT NULL,
    PRIMARY KEY (ring, stage)
) WITHOUT ROWID;

-- Completion tokens that a row brought along from leases that did not finish it.
CREATE TABLE drawn (
    row INTEGER NOT NULL REFERENCES rows (key),
    lease INTEGER NOT NULL,
    ring TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (row, lease)
) WITHOUT ROWID;

CREATE TABLE escrows (
    batch_id TEXT PRIMARY KEY REFERENCES batches (id),
    job_id BLOB NOT NULL UNIQUE,
    payer BLOB NOT NULL,
    signer BLOB NOT NULL,
    account TEXT,                                    -- prepaid account it is paid from; NULL: the payer's own job
    salt BLOB,                                       -- of a job that we open
    budget TEXT NOT NULL,
    deadline_s INTEGER NOT NULL,
    spend TEXT NOT NULL,                             -- charged at most
    exposure TEXT,                                   -- unpaid at most; NULL: a chunk's worth
    most_prefill TEXT NOT NULL,                      -- a node may ask at most, per million layer-tokens
    most_decode TEXT NOT NULL,
    margin_ppm INTEGER NOT NULL,
    layers INTEGER NOT NULL,
    audited INTEGER NOT NULL,                        -- 1: nobody is paid for a row before its audit is decided
    capped INTEGER NOT NULL,                         -- 1: `spend` is less than the quote of all rows
    dearest TEXT NOT NULL DEFAULT '0',               -- upper bound of its dearest row
    exact TEXT NOT NULL DEFAULT '0',                 -- of all bills that stand
    due_exact TEXT NOT NULL DEFAULT '0',             -- of those whose audits allow it
    covered_exact TEXT NOT NULL DEFAULT '0',         -- of those that vouchers cover
    rewards TEXT NOT NULL DEFAULT '0',               -- micros given to auditors
    bills INTEGER NOT NULL DEFAULT 0,
    peaks BLOB NOT NULL DEFAULT x'',
    paid TEXT NOT NULL DEFAULT '0',                  -- by the newest voucher
    voucher_seq INTEGER NOT NULL DEFAULT 0,
    redeemed TEXT NOT NULL DEFAULT '0',
    state TEXT NOT NULL                              -- opening, open, refunded
);
CREATE INDEX escrows_open ON escrows (state) WHERE state != 'refunded';

CREATE TABLE vouchers (
    job_id BLOB NOT NULL REFERENCES escrows (job_id),
    seq INTEGER NOT NULL,
    cumulative TEXT NOT NULL,
    results_root BLOB NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;

CREATE TABLE bills (
    job_id BLOB NOT NULL REFERENCES escrows (job_id),
    position INTEGER NOT NULL,                       -- from 0
    row INTEGER NOT NULL REFERENCES rows (key),
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    exact TEXT NOT NULL,
    leaf BLOB NOT NULL,                              -- of the result
    root BLOB NOT NULL,                              -- of all results of the job so far
    covered INTEGER NOT NULL DEFAULT 0,              -- a voucher pays for it
    decided INTEGER NOT NULL DEFAULT 0,              -- no audit of it is open
    void INTEGER NOT NULL DEFAULT 0,                 -- refuted: neither charged nor paid
    PRIMARY KEY (job_id, position)
) WITHOUT ROWID;
CREATE INDEX bills_uncovered ON bills (job_id, position) WHERE covered = 0 AND void = 0;
CREATE INDEX bills_undecided ON bills (job_id, position) WHERE decided = 0 AND void = 0;
CREATE INDEX bills_by_row ON bills (row);

CREATE TABLE earnings (
    id INTEGER PRIMARY KEY,
    job_id BLOB NOT NULL,
    position INTEGER NOT NULL,                       -- of the bill
    node_id BLOB NOT NULL,
    lease INTEGER NOT NULL,
    micros TEXT NOT NULL,
    units INTEGER NOT NULL,                          -- layer-tokens that receipts must show for it
    state TEXT NOT NULL DEFAULT 'held'               -- held, released, credited, void
);
CREATE INDEX earnings_by_bill ON earnings (job_id, position);
CREATE INDEX earnings_by_node ON earnings (node_id, state, id);

-- What one node earned of one job so far, and how much of it its credits hold.
CREATE TABLE earned (
    job_id BLOB NOT NULL,
    node_id BLOB NOT NULL,
    micros TEXT NOT NULL DEFAULT '0',
    PRIMARY KEY (job_id, node_id)
) WITHOUT ROWID;

-- Layer-tokens of one node under one lease: shown by sound receipts, and credited.
CREATE TABLE shown_work (
    job_id BLOB NOT NULL,
    lease INTEGER NOT NULL,
    node_id BLOB NOT NULL,
    receipted INTEGER NOT NULL DEFAULT 0,
    credited INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, lease, node_id)
) WITHOUT ROWID;

CREATE TABLE receipts (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    work_id BLOB NOT NULL,
    node_id BLOB NOT NULL,
    job_id BLOB NOT NULL,
    ring TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    stage INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    in_root BLOB NOT NULL,
    out_root BLOB NOT NULL,
    units INTEGER NOT NULL,
    prefill_units INTEGER NOT NULL,
    signature BLOB NOT NULL,
    wire_root BLOB NOT NULL,
    print_root BLOB NOT NULL,
    first_row INTEGER NOT NULL,
    last_row INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    chained TEXT NOT NULL DEFAULT 'open',            -- open, sound, broken
    anchor INTEGER,                                  -- whose root holds it
    credit INTEGER,                                  -- seq of the credit that covers it
    UNIQUE (node_id, work_id)
);
CREATE INDEX receipts_of_chunk ON receipts (job_id, lease, attempt, chunk, ring, epoch, stage);
CREATE INDEX receipts_loose ON receipts (position) WHERE anchor IS NULL;
CREATE INDEX receipts_uncovered ON receipts (node_id, position) WHERE credit IS NULL;
CREATE INDEX receipts_by_credit ON receipts (node_id, credit) WHERE credit IS NOT NULL;

CREATE TABLE anchors (
    number INTEGER PRIMARY KEY,
    root BLOB NOT NULL,
    position INTEGER                                 -- on the ledger; NULL until it is settled there
);

-- What one node is owed since the beginning. The content of a seq is here before anybody can have its signature.
CREATE TABLE credits (
    node_id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    cumulative TEXT NOT NULL,
    receipts_root BLOB NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0,                 -- handed to a session of the node
    PRIMARY KEY (node_id, seq)
) WITHOUT ROWID;

CREATE TABLE epochs (
    epoch INTEGER PRIMARY KEY,
    root BLOB NOT NULL,
    posted_at INTEGER                                -- NULL until it is settled
);
CREATE TABLE epoch_credits (
    epoch INTEGER NOT NULL REFERENCES epochs (epoch),
    leaf INTEGER NOT NULL,
    node_id BLOB NOT NULL,
    cumulative TEXT NOT NULL,
    PRIMARY KEY (epoch, leaf)
) WITHOUT ROWID;

CREATE TABLE accounts (
    name TEXT PRIMARY KEY,
    balance TEXT NOT NULL DEFAULT '0'
) WITHOUT ROWID;
