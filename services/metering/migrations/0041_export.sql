-- Where an export is cut.

-- migrate:up
GRANT SELECT ON SEQUENCE usage_seq TO metering_service;

-- Returns the highest number of an event that an export which begins now holds. It waits for an instant until nobody
-- records, so every event up to that number is committed or never will be, and every later one has a higher number.
CREATE FUNCTION usage_cut() RETURNS bigint
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('usage_seq'));
    RETURN (
        SELECT CASE WHEN s.is_called THEN s.last_value + q.increment_by - 1 ELSE 0 END
        FROM public.usage_seq s, pg_catalog.pg_sequences q
        WHERE q.schemaname = 'public' AND q.sequencename = 'usage_seq'
    );
END
$$;

-- migrate:down
-- squawk-ignore ban-drop-function
DROP FUNCTION usage_cut();
REVOKE SELECT ON SEQUENCE usage_seq FROM metering_service;
