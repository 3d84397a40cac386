-- migrate:up

-- Applied usage that is forgotten leaves its sums, so that every counter and lease can still be recomputed.
CREATE TABLE usage_trimmed (
    org text COLLATE "C" NOT NULL,
    budget_no bigint NOT NULL,
    window_key bigint NOT NULL,
    amount numeric NOT NULL,
    PRIMARY KEY (org, budget_no, window_key)
);
CREATE TABLE usage_trimmed_totals (
    org text COLLATE "C" NOT NULL,
    wallet text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    events bigint NOT NULL,
    cost_nanos numeric NOT NULL,
    drawn_nanos numeric NOT NULL,
    reversal_nanos numeric NOT NULL,
    PRIMARY KEY (org, wallet, currency)
);
COMMENT ON COLUMN usage_trimmed_totals.wallet IS 'what paid; empty: unfunded';
-- What may be forgotten, the oldest first: events with a price, and corrections. The few others stay.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX applied_usage_age ON applied_usage (applied_us) WHERE rated AND corrects_id IS NULL;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX applied_usage_corrections_age ON applied_usage (applied_us) WHERE corrects_id IS NOT NULL;
UPDATE reservations SET closed_us = greatest(created_us, expires_us) WHERE state <> 1 AND closed_us IS NULL;

GRANT SELECT, INSERT, UPDATE ON usage_trimmed, usage_trimmed_totals TO budget_service;
GRANT DELETE ON applied_usage, reservations TO budget_service;

-- migrate:down
REVOKE DELETE ON applied_usage, reservations FROM budget_service;
-- squawk-ignore ban-drop-table
DROP TABLE usage_trimmed, usage_trimmed_totals;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX applied_usage_age, applied_usage_corrections_age;
