-- More recharges than a policy's caps allow: what was allowed, and the reviews in which somebody decides on it.
--
-- Lock order: wallet, recharge, month. Extras and reviews change only under the wallet's lock.

-- migrate:up

-- What was in force beyond the caps when something was last let in, as the caps themselves.
ALTER TABLE recharge_months
ADD COLUMN extra_count bigint NOT NULL DEFAULT 0,
ADD COLUMN extra_amount_nanos bigint NOT NULL DEFAULT 0;

ALTER TABLE recharge_months
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT count_within_cap,
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT amount_within_cap,
ADD CONSTRAINT extras_not_negative CHECK (extra_count >= 0 AND extra_amount_nanos >= 0) NOT VALID,
ADD CONSTRAINT count_within_cap CHECK (count - extra_count <= cap_count) NOT VALID,
-- Subtracted, since a sum of two amounts may pass what a number holds.
ADD CONSTRAINT amount_within_cap CHECK (amount_nanos - extra_amount_nanos <= cap_amount_nanos) NOT VALID;

-- Whoever stands at a cap now is told once more, and has a review from then on.
UPDATE recharge_months SET count_alerted = FALSE, amount_alerted = FALSE WHERE count_alerted OR amount_alerted;

-- What was allowed, by whom and why. Never changed.
CREATE TABLE recharge_extras (
    org text NOT NULL,
    name text NOT NULL,
    wallet text NOT NULL,
    month text NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    extra_count bigint NOT NULL CHECK (extra_count BETWEEN 0 AND 1000),
    extra_nanos bigint NOT NULL CHECK (extra_nanos >= 0),
    -- What counted in the month when it was allowed: it is so much more than that, whatever the caps are then.
    used_count bigint NOT NULL CHECK (used_count >= 0),
    used_nanos bigint NOT NULL CHECK (used_nanos >= 0),
    -- Recharges begun before it count against this.
    until_at timestamptz NOT NULL,
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 256),
    approval text NOT NULL CHECK (char_length(approval) <= 256),
    allowed_by text NOT NULL CHECK (char_length(allowed_by) <= 512),
    -- The request's id, or the name of the review that it was allowed in.
    request text NOT NULL,
    payload_hash bytea NOT NULL CHECK (octet_length(payload_hash) = 32),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org, name),
    UNIQUE (org, wallet, month, number),
    UNIQUE (org, wallet, request),
    FOREIGN KEY (org, wallet, month) REFERENCES recharge_months (org, wallet, month),
    CONSTRAINT something_is_allowed CHECK (extra_count > 0 OR extra_nanos > 0)
);

CREATE TABLE recharge_reviews (
    org text NOT NULL,
    name text NOT NULL,
    wallet text NOT NULL,
    month text NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'ALLOWED', 'KEPT_PAUSED', 'ENDED')),
    cap text NOT NULL CHECK (cap IN ('COUNT_CAP', 'AMOUNT_CAP')),
    currency text NOT NULL,
    -- What the recharge that was stopped would have charged.
    charge_nanos bigint NOT NULL CHECK (charge_nanos > 0),
    month_end timestamptz NOT NULL,
    decided_by text NOT NULL DEFAULT '' CHECK (char_length(decided_by) <= 512),
    reason text NOT NULL DEFAULT '' CHECK (char_length(reason) <= 256),
    extra text,
    -- The request that decided it.
    request text,
    payload_hash bytea CHECK (octet_length(payload_hash) = 32),
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    -- When the sweep looks at it.
    check_at timestamptz NOT NULL,
    PRIMARY KEY (org, name),
    UNIQUE (org, wallet, month, number),
    FOREIGN KEY (org, wallet, month) REFERENCES recharge_months (org, wallet, month),
    FOREIGN KEY (org, extra) REFERENCES recharge_extras (org, name),
    CONSTRAINT ended_is_ended CHECK ((state = 'OPEN') = (ended_at IS NULL)),
    CONSTRAINT allowed_is_an_extra CHECK ((state = 'ALLOWED') = (extra IS NOT NULL))
);
CREATE UNIQUE INDEX recharge_reviews_one_open ON recharge_reviews (org, wallet) WHERE state = 'OPEN';
CREATE INDEX recharge_reviews_listed ON recharge_reviews (org, created_at, name);
CREATE INDEX recharge_reviews_due ON recharge_reviews (check_at) WHERE state = 'OPEN';

GRANT SELECT, INSERT ON recharge_extras TO wallet_service;
GRANT SELECT, INSERT, UPDATE ON recharge_reviews TO wallet_service;

-- migrate:down

-- squawk-ignore ban-drop-table
-- squawk-ignore ban-drop-table
DROP TABLE recharge_reviews, recharge_extras;

-- What was let in by extras stays, under caps that say so.
UPDATE recharge_months SET
    cap_count = greatest(cap_count, count),
    cap_amount_nanos = greatest(cap_amount_nanos, amount_nanos)
WHERE count > cap_count OR amount_nanos > cap_amount_nanos;

ALTER TABLE recharge_months
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT count_within_cap,
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT amount_within_cap,
ADD CONSTRAINT count_within_cap CHECK (count <= cap_count) NOT VALID,
ADD CONSTRAINT amount_within_cap CHECK (amount_nanos <= cap_amount_nanos) NOT VALID,
-- squawk-ignore ban-drop-column
DROP COLUMN extra_count,
-- squawk-ignore ban-drop-column
DROP COLUMN extra_amount_nanos;
