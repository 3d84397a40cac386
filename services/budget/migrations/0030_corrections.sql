-- migrate:up

-- A correction is a row of its own: what it changes is its effects, so that sums stay sums of rows.
ALTER TABLE applied_usage ADD COLUMN corrects_source text COLLATE "C", ADD COLUMN corrects_id text COLLATE "C";
COMMENT ON COLUMN applied_usage.corrects_id IS 'the event that this row adjusts by signed differences; null: it is a call';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX applied_usage_corrects ON applied_usage (org, corrects_source, corrects_id) WHERE corrects_id IS NOT NULL;

-- migrate:down
-- squawk-ignore ban-drop-column
ALTER TABLE applied_usage DROP COLUMN corrects_source, DROP COLUMN corrects_id;
