-- migrate:up

-- What waits is listed without a look at all that has ended. The table is young: a moment's lock does no harm.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX approvals_by_state ON approvals (org, state, expires_us, id);

-- migrate:down

-- squawk-ignore require-concurrent-index-deletion
DROP INDEX approvals_by_state;
