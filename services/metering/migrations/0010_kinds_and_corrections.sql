-- What usage events say beside the tokens that nearly all have, what later words adjust them, and what still has no
-- price. The new columns of events are empty for nearly every call, and an empty one takes no room.

-- migrate:up

ALTER TABLE usage_events
ADD COLUMN service_tier text NOT NULL DEFAULT '',
-- Further kinds of use by name ({"output_audio_tokens": 50}); NULL for none.
ADD COLUMN extra jsonb,
-- How many calls the row stands for: 1; 0 where it only adjusts sums; -1 where it takes back what an UNRATED event
-- said, so that another row can say it with a price.
ADD COLUMN operations bigint NOT NULL DEFAULT 1,
-- The event that the row adjusts; NULL for a call of its own. Counts and cost are signed differences then.
ADD COLUMN corrects_source text COLLATE "C",
ADD COLUMN corrects_id text COLLATE "C";

-- Sums of further kinds of use, beside `usage_rollups`.
CREATE TABLE usage_kind_rollups (
    org text COLLATE "C" NOT NULL,
    bucket timestamptz NOT NULL,
    subject text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    operation text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    quantity numeric NOT NULL,
    PRIMARY KEY (org, bucket, subject, provider, model, operation, kind)
) WITH (fillfactor = 80);
CREATE INDEX usage_kind_rollups_subject ON usage_kind_rollups (org, subject, bucket);

-- What is said of an event now, where that is not what the event itself says; never changed, the last one counts.
CREATE TABLE usage_corrections (
    org text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    n bigint NOT NULL,
    -- The adjusting row in usage_events.
    correction_source text COLLATE "C" NOT NULL,
    correction_id text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    tokens bigint [] NOT NULL,
    requests bigint NOT NULL,
    extra jsonb,
    cost_nanos bigint,
    currency text COLLATE "C" NOT NULL,
    rate_card_version text NOT NULL,
    reason text NOT NULL,
    corrected_by text NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (org, source, id, n),
    UNIQUE (org, correction_source, correction_id)
);

-- Events without a price, until they have one. By the names that were given, since these are looked up again.
CREATE TABLE unrated_usage (
    org text COLLATE "C" NOT NULL,
    given_provider text COLLATE "C" NOT NULL,
    given_model text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    PRIMARY KEY (org, given_provider, given_model, occurred_at, source, id)
);
-- One row a model without a price: alerted once, and looked up again whenever prices changed.
CREATE TABLE unrated_models (
    org text COLLATE "C" NOT NULL,
    given_provider text COLLATE "C" NOT NULL,
    given_model text COLLATE "C" NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The prices that were last looked at in vain.
    checked text NOT NULL DEFAULT '',
    PRIMARY KEY (org, given_provider, given_model)
);

-- A price card's place in the order of publishing, and from when on every replica knows it. '-' are the prices of
-- the pinned list, '*' those of this installation; an organisation's own come before both.
ALTER TABLE rate_cards
ADD COLUMN revision bigint NOT NULL DEFAULT 0,
ADD COLUMN usable_from timestamptz NOT NULL DEFAULT 'epoch',
ADD COLUMN description text NOT NULL DEFAULT '',
ADD COLUMN published_by text NOT NULL DEFAULT '';

GRANT SELECT, INSERT ON usage_corrections TO metering_service;
GRANT SELECT, INSERT, UPDATE ON usage_kind_rollups TO metering_service;
GRANT SELECT, INSERT, DELETE ON unrated_usage TO metering_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON unrated_models TO metering_service;

-- migrate:down

-- Books are not dropped: what undoes this migration is a restore.
