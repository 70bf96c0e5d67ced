-- Refuted audits that were brought before the ledger, or need not be any more (audits.challenge says as which).

ALTER TABLE audits ADD COLUMN prosecuted INTEGER NOT NULL DEFAULT 0;
