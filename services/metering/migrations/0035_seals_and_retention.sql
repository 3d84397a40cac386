-- Sums of closed hours as their events said them, so that an audit need not read ten million events again, and months
-- of events may be dropped when they are old.

-- migrate:up

-- What the events of an hour that is over and folded say, one row a currency ('' is UNRATED). `rollups` is the sum of
-- the hashes of the rollups that they make: it equals that of the rollups kept, or one of them is not its events' sum.
CREATE TABLE usage_seals (
    org text COLLATE "C" NOT NULL,
    hour timestamptz NOT NULL,
    currency text COLLATE "C" NOT NULL,
    -- Rows, corrections included; `operations` are calls.
    events bigint NOT NULL,
    operations bigint NOT NULL,
    cost_nanos numeric NOT NULL,
    -- What corrections took away, a positive number; the cost is without it.
    credit_nanos numeric NOT NULL,
    rollups numeric NOT NULL,
    PRIMARY KEY (org, hour, currency)
);
-- The same for what has no currency: the sums of the hashes of its sessions and of its sums of further kinds.
CREATE TABLE usage_seal_lists (
    org text COLLATE "C" NOT NULL,
    hour timestamptz NOT NULL,
    sessions numeric NOT NULL,
    kinds numeric NOT NULL,
    PRIMARY KEY (org, hour)
);

-- Folded hours that are to be sealed, anew or for the first time. Each transaction leaves marks of its own, so sealing
-- removes exactly those whose usage it has seen.
CREATE TABLE usage_unsealed (
    org text COLLATE "C" NOT NULL,
    hour timestamptz NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (org, hour, xid)
);
INSERT INTO usage_unsealed (org, hour)
SELECT DISTINCT r.org, date_bin('1 hour', r.bucket, 'epoch'::timestamptz) AS hour
FROM usage_rollups r, usage_fold f WHERE f.org = '-' AND r.bucket < f.folded;

-- From when on there are events; one row. What happened before is in the sums alone.
CREATE TABLE usage_retention (
    org text COLLATE "C" NOT NULL,
    events_from timestamptz NOT NULL,
    PRIMARY KEY (org)
);
INSERT INTO usage_retention (org, events_from) VALUES ('-', 'epoch');

-- Drops the oldest month of events if it ended longer ago than `kept`, and says what became of it: NONE_DUE, DROPPED,
-- BUSY (others read or write; ask again), or why it must stay: UNDELIVERED, UNRATED, UNSEALED, SUMS_DIFFER.
--
-- The service's role may call it but can delete no event: at most the oldest month goes, never one that ended within
-- 120 days, and only where the seals hold each of its events. Whoever writes to the month is waited for, and waits.
CREATE FUNCTION drop_usage_month(kept interval, OUT outcome text, OUT month timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET timezone = 'UTC' SET lock_timeout = '100ms'
AS $$
DECLARE
    upper_at timestamptz;
    part_name text;
    in_default boolean;
    attempt integer := 0;
BEGIN
    IF kept IS NULL OR kept < interval '120 days' THEN
        RAISE EXCEPTION 'events are kept for at least 120 days' USING ERRCODE = '22023';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'must see what is committed while it waits: READ COMMITTED' USING ERRCODE = '25000';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext('drop_usage_month')) THEN
        outcome := 'BUSY';
        RETURN;
    END IF;
    SELECT min(to_timestamp(substr(c.relname, 14), 'YYYY_MM')) INTO month
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'public.usage_events'::regclass AND c.relname ~ '^usage_events_[0-9]{4}_[0-9]{2}$';
    month := least(month, date_trunc('month', (SELECT min(occurred_at) FROM public.usage_events_default)));
    upper_at := month + interval '1 month';
    IF month IS NULL OR upper_at > clock_timestamp() - kept THEN
        outcome := 'NONE_DUE';
        month := NULL;
        RETURN;
    END IF;

    part_name := 'usage_events_' || to_char(month, 'YYYY_MM');
    IF to_regclass('public.' || part_name) IS NULL THEN
        part_name := NULL;
    END IF;
    in_default := EXISTS (
        SELECT FROM public.usage_events_default WHERE occurred_at >= month AND occurred_at < upper_at
    );
    BEGIN
        IF part_name IS NOT NULL THEN
            EXECUTE format('LOCK TABLE public.%I IN SHARE ROW EXCLUSIVE MODE', part_name);
        END IF;
        IF in_default THEN
            LOCK TABLE public.usage_events_default IN SHARE ROW EXCLUSIVE MODE;
        END IF;
    EXCEPTION WHEN lock_not_available THEN
        outcome := 'BUSY';
        RETURN;
    END;

    IF EXISTS (
        SELECT FROM public.outbox o CROSS JOIN unnest(o.event_times) AS told (at)
        WHERE o.topic = 'usage' AND told.at >= month AND told.at < upper_at
    ) THEN
        outcome := 'UNDELIVERED';
    ELSIF EXISTS (SELECT FROM public.unrated_usage WHERE occurred_at >= month AND occurred_at < upper_at) THEN
        outcome := 'UNRATED';
    ELSIF NOT EXISTS (SELECT FROM public.usage_fold WHERE org = '-' AND folded >= upper_at)
        OR EXISTS (SELECT FROM public.usage_late WHERE hour >= month AND hour < upper_at)
        OR EXISTS (SELECT FROM public.usage_unsealed WHERE hour >= month AND hour < upper_at) THEN
        outcome := 'UNSEALED';
    ELSIF EXISTS (
        SELECT FROM (
            SELECT org, currency, count(*) AS events, coalesce(sum(cost_nanos), 0) AS cost_nanos
            FROM public.usage_events WHERE occurred_at >= month AND occurred_at < upper_at GROUP BY org, currency
        ) AS said FULL JOIN (
            SELECT org, currency, sum(events) AS events, sum(cost_nanos) AS cost_nanos
            FROM public.usage_seals WHERE hour >= month AND hour < upper_at GROUP BY org, currency
        ) AS kept_sums USING (org, currency)
        WHERE said.events IS DISTINCT FROM kept_sums.events OR said.cost_nanos IS DISTINCT FROM kept_sums.cost_nanos
    ) THEN
        outcome := 'SUMS_DIFFER';
    END IF;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;

    -- Everyone who records stands behind whoever waits for this lock, so it waits for moments only, again and again.
    LOOP
        BEGIN
            LOCK TABLE ONLY public.usage_events, public.usage_events_default IN ACCESS EXCLUSIVE MODE;
            IF part_name IS NOT NULL THEN
                EXECUTE format('DROP TABLE public.%I', part_name);
            END IF;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            attempt := attempt + 1;
            IF attempt = 20 THEN
                outcome := 'BUSY';
                RETURN;
            END IF;
            PERFORM pg_sleep(0.25);
        END;
    END LOOP;
    IF in_default THEN
        DELETE FROM public.usage_events_default WHERE occurred_at >= month AND occurred_at < upper_at;
    END IF;
    UPDATE public.usage_retention SET events_from = greatest(events_from, upper_at) WHERE org = '-';
    outcome := 'DROPPED';
END
$$;
REVOKE ALL ON FUNCTION drop_usage_month(interval) FROM public;
GRANT EXECUTE ON FUNCTION drop_usage_month(interval) TO metering_service;

GRANT SELECT, INSERT, DELETE ON usage_seals, usage_seal_lists, usage_unsealed TO metering_service;
GRANT SELECT ON usage_retention TO metering_service;

-- migrate:down

-- Books are not dropped: what undoes this migration is a restore.
