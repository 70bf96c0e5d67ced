-- Wire codecs of a batch: those that it allows, and the one that its first lease fixed.

ALTER TABLE batches ADD COLUMN codecs TEXT NOT NULL DEFAULT '["raw"]';
ALTER TABLE batches ADD COLUMN codec TEXT;
UPDATE batches SET codec = 'raw' WHERE in_progress_at IS NOT NULL;
