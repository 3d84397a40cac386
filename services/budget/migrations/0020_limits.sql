-- migrate:up

ALTER TABLE budgets
ADD COLUMN rollover_cap bigint,
ADD COLUMN allocated_from text COLLATE "C" NOT NULL DEFAULT '',
ADD COLUMN over_allocation bigint NOT NULL DEFAULT 1;
COMMENT ON COLUMN budgets.rollover_cap IS 'null: never carried anything; 0: carries nothing any more';
COMMENT ON COLUMN budgets.allocated_from IS 'name of the budget that it was carved from; empty: none';
COMMENT ON COLUMN budgets.over_allocation IS '1 block, 2 alert';
-- Definitions are few and change rarely: a moment's lock does no harm.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX budgets_allocated ON budgets (org, allocated_from)
WHERE allocated_from <> '' AND deleted_us IS NULL AND effective_until_us IS NULL;

-- What a window was carried, and from what: enough to compute it anew when the window before changes.
ALTER TABLE counters
ADD COLUMN carried bigint NOT NULL DEFAULT 0,
ADD COLUMN carry_from bigint,
ADD COLUMN carry_base bigint,
ADD COLUMN carry_cap bigint,
ADD COLUMN rises bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN counters.carry_from IS 'key of the window before; null: nothing was or will be carried';
COMMENT ON COLUMN counters.carry_base IS 'limit of the window before, without overrides and what it was carried';
COMMENT ON COLUMN counters.rises IS 'how often `carried` has risen: part of the limit''s generation';

-- A raise belongs to the budget of the name that was there when it was granted, whatever windows it gets later.
CREATE TABLE overrides (
    org text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    budget_id text COLLATE "C" NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    from_us bigint NOT NULL,
    until_us bigint NOT NULL,
    reason text NOT NULL,
    granted_by text NOT NULL,
    approval text NOT NULL,
    credential text NOT NULL,
    payload_hash bytea NOT NULL,
    PRIMARY KEY (org, id)
);
COMMENT ON COLUMN overrides.id IS 'the id of the request';
COMMENT ON COLUMN overrides.credential IS 'subject and token of the call';
CREATE INDEX overrides_lasting ON overrides (org, until_us);
CREATE INDEX overrides_of_budget ON overrides (org, subject, budget_id, from_us DESC, id DESC);

-- Answers to Allocate by request id, kept 7 days.
CREATE TABLE allocate_requests (
    org text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    payload_hash bytea NOT NULL,
    answer bytea NOT NULL,
    created_us bigint NOT NULL,
    PRIMARY KEY (org, id)
);
CREATE INDEX allocate_requests_age ON allocate_requests (org, created_us);

GRANT SELECT, INSERT ON overrides TO budget_service;
GRANT SELECT, INSERT, DELETE ON allocate_requests TO budget_service;

-- migrate:down
-- squawk-ignore ban-drop-table
DROP TABLE allocate_requests, overrides;
-- squawk-ignore ban-drop-column
ALTER TABLE counters DROP COLUMN carried, DROP COLUMN carry_from, DROP COLUMN carry_base, DROP COLUMN carry_cap;
-- squawk-ignore ban-drop-column
ALTER TABLE counters DROP COLUMN rises;
-- squawk-ignore ban-drop-column
ALTER TABLE budgets DROP COLUMN rollover_cap, DROP COLUMN allocated_from, DROP COLUMN over_allocation;
