-- Distinct sessions of a month, without reading a month's list of them.

-- migrate:up

-- Which sessions a subject or those below it had in which hours, folded from `usage_sessions` with the hours' sums.
-- Rows are only ever added: no later word takes a session from an hour.
CREATE TABLE usage_scope_sessions (
    org text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    -- The hour, of UTC.
    bucket timestamptz NOT NULL,
    session text COLLATE "C" NOT NULL,
    PRIMARY KEY (org, scope, bucket, session)
);
-- Whether a session was there before.
CREATE INDEX usage_scope_sessions_session ON usage_scope_sessions (org, scope, session, bucket);

-- How often a session was added to an hour after it had been folded, so that who remembers a count sees that it changed.
CREATE TABLE usage_session_changes (
    org text COLLATE "C" NOT NULL,
    changes bigint NOT NULL,
    PRIMARY KEY (org)
);

INSERT INTO usage_scope_sessions (org, scope, bucket, session)
SELECT DISTINCT s.org, array_to_string(n.parts[1:2 * n.depth], '/'), date_bin('1 hour', s.bucket, 'epoch'::timestamptz),
    s.session
FROM usage_sessions s CROSS JOIN LATERAL (
    SELECT p.parts, generate_series(1, cardinality(p.parts) / 2) AS depth
    FROM (SELECT string_to_array(s.subject, '/') AS parts) AS p
) AS n
WHERE s.bucket < (SELECT folded FROM usage_fold WHERE org = '-');

GRANT SELECT, INSERT ON usage_scope_sessions TO metering_service;
GRANT SELECT, INSERT, UPDATE ON usage_session_changes TO metering_service;

-- migrate:down

-- Books are not dropped: what undoes this migration is a restore.
