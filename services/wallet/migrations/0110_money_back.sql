-- Money that goes back: what was charged, the refunds of it, and the disputes about it.
--
-- All of it changes only under the lock of the wallet's row.

-- migrate:up

-- Every charge that became a grant. The table itself keeps refunds and disputes within what was charged.
CREATE TABLE charges (
    org text NOT NULL,
    payment_intent text NOT NULL,
    wallet text NOT NULL,
    -- The recharge or top-up that charged.
    source text NOT NULL,
    grant_name text NOT NULL,
    currency text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    refunded_nanos bigint NOT NULL DEFAULT 0 CHECK (refunded_nanos >= 0),
    disputed_nanos bigint NOT NULL DEFAULT 0 CHECK (disputed_nanos >= 0),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org, payment_intent),
    UNIQUE (org, source),
    FOREIGN KEY (org, wallet, currency) REFERENCES wallets (org, name, currency),
    CONSTRAINT no_more_back_than_was_charged CHECK (refunded_nanos + disputed_nanos <= amount_nanos)
);
CREATE INDEX charges_of_wallet ON charges (org, wallet, created_at);
-- Stripe names no organisation in a dispute.
CREATE INDEX charges_by_stripe_id ON charges (payment_intent);

CREATE TABLE refunds (
    org text NOT NULL,
    name text NOT NULL,
    wallet text NOT NULL,
    payment_intent text NOT NULL,
    state text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'SUCCEEDED', 'FAILED')),
    currency text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    reason text NOT NULL CHECK (char_length(reason) <= 256),
    -- The number of the idempotency key in use, and since when: past its life a list is asked before there is another.
    key_number bigint NOT NULL DEFAULT 1 CHECK (key_number > 0),
    key_since timestamptz NOT NULL,
    -- As Stripe names it; NULL while Stripe is not known to have it.
    stripe_refund text,
    failure_reason text NOT NULL DEFAULT '',
    -- Raised by every change, so that a look at Stripe from before a change is not taken for one from after.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    -- When the sweep looks next; NULL: never again.
    check_at timestamptz,
    PRIMARY KEY (org, name),
    FOREIGN KEY (org, payment_intent) REFERENCES charges (org, payment_intent),
    CONSTRAINT ended_is_ended CHECK ((state = 'PENDING') = (ended_at IS NULL))
);
CREATE INDEX refunds_of_wallet ON refunds (org, wallet, created_at);
CREATE INDEX refunds_of_charge ON refunds (org, payment_intent);
CREATE INDEX refunds_due ON refunds (check_at) WHERE check_at IS NOT NULL;

CREATE TABLE disputes (
    org text NOT NULL,
    -- As Stripe names it.
    id text NOT NULL,
    wallet text NOT NULL,
    payment_intent text NOT NULL,
    currency text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    status text NOT NULL,
    reason text NOT NULL,
    -- What was debited, and what of that was given back.
    withdrawn_nanos bigint NOT NULL DEFAULT 0 CHECK (withdrawn_nanos BETWEEN 0 AND amount_nanos),
    restored_nanos bigint NOT NULL DEFAULT 0 CHECK (restored_nanos BETWEEN 0 AND withdrawn_nanos),
    -- Whether the wallet is frozen for it.
    froze boolean NOT NULL DEFAULT false,
    opened_at timestamptz NOT NULL,
    check_at timestamptz,
    PRIMARY KEY (org, id),
    FOREIGN KEY (org, payment_intent) REFERENCES charges (org, payment_intent)
);
CREATE INDEX disputes_of_wallet ON disputes (org, wallet, opened_at);
CREATE INDEX disputes_due ON disputes (check_at) WHERE check_at IS NOT NULL;

-- Which lots gave the money of a refund or a dispute, in the order of giving; what they did not give was debt.
CREATE TABLE withdrawals (
    org text NOT NULL,
    reference text NOT NULL,
    place bigint NOT NULL,
    lot text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    restored_nanos bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (org, reference, place),
    FOREIGN KEY (org, lot) REFERENCES grants (org, name),
    CHECK (restored_nanos BETWEEN 0 AND amount_nanos)
);

-- How far Stripe's list of disputes was looked through. One row for all organisations.
CREATE TABLE dispute_sweep (
    one boolean NOT NULL DEFAULT true CHECK (one),
    through timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (one)
);
INSERT INTO dispute_sweep (through, due_at) VALUES (clock_timestamp(), clock_timestamp());

INSERT INTO charges (org, payment_intent, wallet, source, grant_name, currency, amount_nanos, created_at)
SELECT r.org, min(i.payment_intent), r.wallet, r.name, r.grant_name, r.currency, r.received_nanos, r.ended_at
FROM recharges r JOIN recharge_intents i ON i.org = r.org AND i.recharge = r.name AND i.status = 'succeeded'
WHERE r.state = 'SUCCEEDED' GROUP BY r.org, r.name;

GRANT SELECT, INSERT, UPDATE ON charges, refunds, disputes, withdrawals TO wallet_service;
GRANT SELECT, UPDATE ON dispute_sweep TO wallet_service;

-- migrate:down

-- squawk-ignore ban-drop-table
DROP TABLE withdrawals, dispute_sweep, disputes, refunds, charges;
