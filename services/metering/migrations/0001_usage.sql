-- Usage events, what deduplicates them, their rollups, the rate cards and the outbox.
--
-- Text that is part of a key has the collation "C": subtrees are found by ranges of bytes, and pages are sorted the
-- same whatever the cluster's locale. `org` is the organisation's bare id and leads every key; '-' is no
-- organisation's id and stands for what belongs to all of them.

-- migrate:up

-- Deduplicates (org, source, id) over 90 days, whatever partition the event is in. A key outlives every event that
-- could be sent again: older events are refused before they come here.
CREATE TABLE usage_key (
    org text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    payload_hash bytea NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org, source, id)
);
-- Keys arrive in the order of this time, so a few bytes a range of pages find the ones to forget.
CREATE INDEX usage_key_recorded ON usage_key USING brin (recorded_at);

-- One row a metered call, never changed. A month a partition, by when the call happened.
CREATE TABLE usage_events (
    org text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    given_provider text NOT NULL,
    given_model text NOT NULL,
    operation text COLLATE "C" NOT NULL,
    labels jsonb NOT NULL,
    input_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    requests bigint NOT NULL,
    -- NULL is UNRATED: no rate card priced it; the currency is '' then.
    cost_nanos bigint,
    currency text COLLATE "C" NOT NULL,
    -- '' where the cost was given, or is UNRATED.
    rate_card_version text NOT NULL,
    session text COLLATE "C" NOT NULL,
    run text COLLATE "C" NOT NULL,
    effort text NOT NULL,
    failed boolean NOT NULL,
    status text NOT NULL,
    reservation text NOT NULL,
    final boolean NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (org, occurred_at, source, id),
    CONSTRAINT usage_events_rated CHECK ((cost_nanos IS NULL) = (currency = ''))
) PARTITION BY RANGE (occurred_at);
-- Takes what no month's partition takes, so that a loop that failed never refuses usage.
CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT;

-- Sums of events by 15 minutes, in the transaction that writes the events. Every zone's days begin on a quarter of an
-- hour, so any zone's days are sums of these. The secondary index costs nothing in steady state: no update touches
-- its columns.
CREATE TABLE usage_rollups (
    org text COLLATE "C" NOT NULL,
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
    -- A sum may pass what one event's cost may not.
    cost_nanos numeric NOT NULL,
    PRIMARY KEY (org, bucket, subject, provider, model, operation, currency)
) WITH (fillfactor = 80);
CREATE INDEX usage_rollups_subject ON usage_rollups (org, subject, bucket);

-- Which sessions had events in which 15 minutes: distinct sessions cannot be summed, so they are kept by name.
CREATE TABLE usage_sessions (
    org text COLLATE "C" NOT NULL,
    bucket timestamptz NOT NULL,
    subject text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    operation text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    PRIMARY KEY (org, bucket, subject, provider, model, operation, session)
);
CREATE INDEX usage_sessions_subject ON usage_sessions (org, subject, bucket);

-- Prices, by version. Never changed: what was rated stays as it was.
CREATE TABLE rate_cards (
    org text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    content bytea NOT NULL,
    effective_from timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org, version)
);

-- The name under which this database's usage is relayed.
CREATE TABLE relay_identity (
    org text COLLATE "C" NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (org)
);
INSERT INTO relay_identity (org, name) VALUES ('-', 'metering-' || gen_random_uuid());

CREATE TABLE outbox (
    org text COLLATE "C" NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    topic text NOT NULL,
    key text NOT NULL,
    payload bytea NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries bigint NOT NULL DEFAULT 0,
    last_error text,
    parked_at timestamptz,
    PRIMARY KEY (org, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX outbox_due ON outbox (topic, due_at, id) WHERE parked_at IS NULL;
CREATE INDEX outbox_failed ON outbox (topic, org, created_at) WHERE last_error IS NOT NULL;

-- Makes the partitions of the months from `first_at` to `last_at`, both included, and returns how many were missing.
-- The service's role may call it but owns no table. A month that already has rows in the default partition stays
-- there: moving them would be a change of events.
CREATE FUNCTION ensure_usage_partitions(first_at timestamptz, last_at timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET timezone = 'UTC' SET lock_timeout = '2s'
AS $$
DECLARE
    lower_at timestamptz := date_trunc('month', first_at);
    upper_at timestamptz;
    part_name text;
    made integer := 0;
BEGIN
    IF last_at < first_at OR last_at > first_at + interval '2 years' THEN
        RAISE EXCEPTION 'the range of partitions must be 0 to 2 years' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ensure_usage_partitions'));
    WHILE lower_at <= last_at LOOP
        upper_at := lower_at + interval '1 month';
        part_name := 'usage_events_' || to_char(lower_at, 'YYYY_MM');
        IF to_regclass('public.' || part_name) IS NULL AND NOT EXISTS (
            SELECT FROM public.usage_events_default WHERE occurred_at >= lower_at AND occurred_at < upper_at
        ) THEN
            -- Made apart and attached, which does not stop who reads or writes the other partitions.
            EXECUTE format(
                'CREATE TABLE public.%I (LIKE public.usage_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part_name
            );
            EXECUTE format(
                'ALTER TABLE public.usage_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                part_name, lower_at, upper_at
            );
            made := made + 1;
        END IF;
        lower_at := upper_at;
    END LOOP;
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION ensure_usage_partitions(timestamptz, timestamptz) FROM public;
GRANT EXECUTE ON FUNCTION ensure_usage_partitions(timestamptz, timestamptz) TO metering_service;

GRANT SELECT, INSERT, DELETE ON usage_key TO metering_service;
GRANT SELECT, INSERT ON usage_events, usage_sessions, rate_cards TO metering_service;
GRANT SELECT, INSERT, UPDATE ON usage_rollups TO metering_service;
GRANT SELECT ON relay_identity TO metering_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO metering_service;

-- migrate:down

-- Books are not dropped: what undoes this migration is a restore.
