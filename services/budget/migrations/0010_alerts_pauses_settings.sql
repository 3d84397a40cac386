-- migrate:up

-- How a pause that a budget made ends: 1 a person ends it, 2 the window's end does.
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE budgets ADD COLUMN resume bigint NOT NULL DEFAULT 1 CHECK (resume IN (1, 2));

-- For which limit generation the window has told of a denial and has paused; both are done once a generation.
ALTER TABLE counters
ADD COLUMN denied_generation bigint NOT NULL DEFAULT 0,
ADD COLUMN paused_generation bigint NOT NULL DEFAULT 0;

-- What an alert says, as it was when it was raised, and who has seen it. The rest of a row is never changed.
ALTER TABLE crossings
ADD COLUMN subject text COLLATE "C" NOT NULL DEFAULT '',
ADD COLUMN cause bigint NOT NULL DEFAULT 1,
ADD COLUMN on_exceed bigint NOT NULL DEFAULT 1,
ADD COLUMN reserved_amount bigint NOT NULL DEFAULT 0,
ADD COLUMN asked_amount bigint NOT NULL DEFAULT 0,
ADD COLUMN window_start_us bigint,
ADD COLUMN window_end_us bigint,
ADD COLUMN acknowledged_us bigint,
ADD COLUMN acknowledged_by text,
ADD COLUMN note text;
COMMENT ON COLUMN crossings.cause IS '1 use, 2 a denied estimate, 3 a changed definition';
COMMENT ON COLUMN crossings.window_end_us IS 'null: the window has no end';
-- The tables are as old as the service, whose first start makes both.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX crossings_time ON crossings (org, crossed_us);

-- Who may not spend. A person's pause is policy; a budget's is written by the decision or the use that caused it, under
-- the lock of the window's counter. Rows stay as the history.
CREATE TABLE pauses (
    org text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    budget_no bigint NOT NULL DEFAULT 0,
    window_key bigint NOT NULL DEFAULT 0,
    generation bigint NOT NULL,
    cause bigint NOT NULL,
    reason text NOT NULL,
    paused_by text NOT NULL DEFAULT '',
    paused_us bigint NOT NULL,
    until_us bigint NOT NULL,
    limit_amount bigint NOT NULL DEFAULT 0,
    ended_us bigint,
    ended_by text,
    end_note text,
    PRIMARY KEY (org, subject, budget_no, window_key, generation)
);
COMMENT ON COLUMN pauses.budget_no IS '0: a person paused it, and generation counts the pauses of the subject';
COMMENT ON COLUMN pauses.cause IS '1 a person, 2 use reached the limit, 3 a denied estimate';
COMMENT ON COLUMN pauses.until_us IS 'the end of the window where that ends it, else 2^62';
CREATE INDEX pauses_active ON pauses (org, budget_no, until_us) WHERE ended_us IS NULL;

-- What a subject and those below it are told about, and where.
CREATE TABLE subscriptions (
    org text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    display_name text NOT NULL DEFAULT '',
    webhook_url text NOT NULL DEFAULT '',
    secret text NOT NULL DEFAULT '',
    email text NOT NULL DEFAULT '',
    events bigint [] NOT NULL,
    disabled boolean NOT NULL DEFAULT false,
    revision bigint NOT NULL DEFAULT 1,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL,
    PRIMARY KEY (org, subject, subscription_id)
);
COMMENT ON COLUMN subscriptions.secret IS 'signs deliveries, so it is kept as it is; shown to its maker once';
COMMENT ON COLUMN subscriptions.events IS 'numbers of the contract; empty: all';

-- What holds for a whole organisation; read with its budgets under the same epoch.
ALTER TABLE org_policy
ADD COLUMN default_on_exceed bigint NOT NULL DEFAULT 1,
ADD COLUMN default_resume bigint NOT NULL DEFAULT 1,
ADD COLUMN default_thresholds bigint [] NOT NULL DEFAULT '{50,80,95,100}',
ADD COLUMN deny_unbudgeted boolean NOT NULL DEFAULT false,
ADD COLUMN expired_hold bigint NOT NULL DEFAULT 1,
ADD COLUMN unrated_model bigint NOT NULL DEFAULT 1,
ADD COLUMN settings_revision bigint NOT NULL DEFAULT 0,
ADD COLUMN settings_by text NOT NULL DEFAULT '',
ADD COLUMN settings_us bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN org_policy.expired_hold IS 'a hold that expires unsettled: 1 is released, 2 is charged';
COMMENT ON COLUMN org_policy.unrated_model IS 'a model without a price: 1 may be used, 2 may not';

GRANT UPDATE (acknowledged_us, acknowledged_by, note) ON crossings TO budget_service;
GRANT SELECT, INSERT ON pauses TO budget_service;
GRANT UPDATE (ended_us, ended_by, end_note) ON pauses TO budget_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON subscriptions TO budget_service;

-- migrate:down
-- squawk-ignore-file ban-drop-column
-- squawk-ignore ban-drop-table
DROP TABLE subscriptions, pauses;
ALTER TABLE org_policy DROP COLUMN default_on_exceed, DROP COLUMN default_resume, DROP COLUMN default_thresholds,
DROP COLUMN deny_unbudgeted, DROP COLUMN expired_hold, DROP COLUMN unrated_model, DROP COLUMN settings_revision,
DROP COLUMN settings_by, DROP COLUMN settings_us;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX crossings_time;
ALTER TABLE crossings DROP COLUMN subject, DROP COLUMN cause, DROP COLUMN on_exceed, DROP COLUMN reserved_amount,
DROP COLUMN asked_amount, DROP COLUMN window_start_us, DROP COLUMN window_end_us, DROP COLUMN acknowledged_us,
DROP COLUMN acknowledged_by, DROP COLUMN note;
ALTER TABLE counters DROP COLUMN denied_generation, DROP COLUMN paused_generation;
ALTER TABLE budgets DROP COLUMN resume;
