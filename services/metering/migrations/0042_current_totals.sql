-- What lets a process remember today's and this month's totals, and read only what came since.

-- migrate:up

-- Which transaction named the session: those that a snapshot has not seen are named by later ones, or by some still
-- open when it was taken. NULL: before there was this column.
ALTER TABLE usage_sessions ADD COLUMN xid xid8;
ALTER TABLE usage_sessions ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
-- No row has one yet.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX usage_sessions_xid ON usage_sessions (org, xid) WHERE xid IS NOT NULL;

-- How often hours of an organisation were folded again because usage came to them late, so that who remembers sums of
-- folded hours sees that they changed.
CREATE TABLE usage_refolds (
    org text COLLATE "C" NOT NULL,
    refolds bigint NOT NULL,
    PRIMARY KEY (org)
);
GRANT SELECT, INSERT, UPDATE ON usage_refolds TO metering_service;

-- migrate:down

-- Books are not dropped: what undoes this migration is a restore.
