-- migrate:up

-- What a person must look at is asked for every hour; there is next to nothing of it among all recharges.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX recharges_with_a_problem ON recharges (org, wallet, name) WHERE problem <> '';

-- migrate:down

-- squawk-ignore require-concurrent-index-deletion
DROP INDEX recharges_with_a_problem;
