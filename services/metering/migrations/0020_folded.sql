-- Coarser sums, folded from the 15 minutes by a background loop, so that a question about months reads few rows.
--
-- They are exact at every instant: an answer takes an hour from here only where `usage_fold` says that it is folded and
-- no mark in `usage_late` says that usage came to it afterwards; the rest it takes from the 15 minutes.

-- migrate:up

-- Sums by subject: hours and days of UTC, told apart by `hours`.
CREATE TABLE usage_periods (
    org text COLLATE "C" NOT NULL,
    -- 1 or 24.
    hours bigint NOT NULL,
    bucket timestamptz NOT NULL,
    subject text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    operation text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    input_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    requests bigint NOT NULL,
    operations bigint NOT NULL,
    errors bigint NOT NULL,
    cost_nanos numeric NOT NULL,
    PRIMARY KEY (org, hours, bucket, subject, provider, model, operation, currency)
);
CREATE INDEX usage_periods_bucket ON usage_periods USING brin (bucket)
WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX usage_periods_subject ON usage_periods (org, hours, subject, bucket);

-- The same by scope: a subject with everything below it, so that a question about a subtree reads the rows of one name.
CREATE TABLE usage_scopes (
    org text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    -- 1 or 24.
    hours bigint NOT NULL,
    bucket timestamptz NOT NULL,
    provider text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    operation text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    input_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    requests bigint NOT NULL,
    operations bigint NOT NULL,
    errors bigint NOT NULL,
    cost_nanos numeric NOT NULL,
    PRIMARY KEY (org, scope, hours, bucket, provider, model, operation, currency)
);
CREATE INDEX usage_scopes_bucket ON usage_scopes (org, hours, bucket);

-- How far folding has come; one row.
CREATE TABLE usage_fold (
    org text COLLATE "C" NOT NULL,
    -- Who writes usage of an hour before this one leaves a mark in `usage_late`.
    closing timestamptz NOT NULL,
    -- All hours before this one are folded.
    folded timestamptz NOT NULL,
    -- Every transaction that may have missed `closing` is older than this one; NULL: not known yet.
    barrier xid8,
    PRIMARY KEY (org),
    CONSTRAINT usage_fold_order CHECK (folded <= closing)
);
INSERT INTO usage_fold (org, closing, folded) VALUES ('-', 'epoch', 'epoch');

-- Hours that got usage when they were closing or closed. Each transaction leaves marks of its own, so folding removes
-- exactly those whose usage it has seen.
CREATE TABLE usage_late (
    org text COLLATE "C" NOT NULL,
    hour timestamptz NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (org, hour, xid)
);

-- Folding reads all organisations' rollups of an hour. They arrive in the order of time, nearly.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX usage_rollups_bucket ON usage_rollups USING brin (bucket)
WITH (pages_per_range = 16, autosummarize = on);
-- Subtrees are read from `usage_scopes`; of the 15 minutes only the last hour's are.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX usage_rollups_subject;

GRANT SELECT, INSERT, DELETE ON usage_periods, usage_scopes, usage_late TO metering_service;
GRANT SELECT, UPDATE ON usage_fold TO metering_service;

-- migrate:down

-- Books are not dropped: what undoes this migration is a restore.
