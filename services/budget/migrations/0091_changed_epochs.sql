-- migrate:up

-- The organisation's epoch at a row's last change, so that a replica reads only what has changed since the epoch it knows.
-- The database stamps it, whatever writes: a replica of an older version that still runs would not.
ALTER TABLE budgets ADD COLUMN changed_epoch bigint NOT NULL DEFAULT 0;
ALTER TABLE pauses ADD COLUMN changed_epoch bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN pauses.changed_epoch IS 'of pauses by persons; what budgets pause is no policy';
-- Definitions are few and change rarely: a moment's lock does no harm.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX budgets_changed ON budgets (org, changed_epoch);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX pauses_changed ON pauses (org, changed_epoch) WHERE budget_no = 0;

CREATE FUNCTION stamp_changed_epoch() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_epoch := coalesce((SELECT p.epoch FROM org_policy p WHERE p.org = NEW.org), 0);
    RETURN NEW;
END
$$;
CREATE TRIGGER budgets_stamp BEFORE INSERT OR UPDATE ON budgets
FOR EACH ROW EXECUTE FUNCTION stamp_changed_epoch();
CREATE TRIGGER pauses_stamp BEFORE INSERT OR UPDATE ON pauses
FOR EACH ROW WHEN (NEW.budget_no = 0) EXECUTE FUNCTION stamp_changed_epoch();

-- migrate:down

DROP TRIGGER budgets_stamp ON budgets;
DROP TRIGGER pauses_stamp ON pauses;
-- squawk-ignore ban-drop-function
DROP FUNCTION stamp_changed_epoch;
-- squawk-ignore ban-drop-column
ALTER TABLE budgets DROP COLUMN changed_epoch;
-- squawk-ignore ban-drop-column
ALTER TABLE pauses DROP COLUMN changed_epoch;
