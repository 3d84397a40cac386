-- Recharges: policies, the months whose caps count, recharges with their PaymentIntents and attempts, Stripe's events.
--
-- Lock order: wallet, recharge, month. All of it changes only under a lock of the wallet's row, save the inbox.

-- migrate:up

-- Tells this database's charges from those of another at the same Stripe account. One row for all organisations.
CREATE TABLE installation (
    one boolean NOT NULL DEFAULT true CHECK (one),
    id text NOT NULL CHECK (char_length(id) BETWEEN 1 AND 36),
    PRIMARY KEY (one)
);
INSERT INTO installation (id) VALUES (gen_random_uuid());

CREATE TABLE recharge_policies (
    org text NOT NULL,
    wallet text NOT NULL,
    enabled boolean NOT NULL,
    threshold_nanos bigint NOT NULL CHECK (threshold_nanos > 0),
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    max_count bigint NOT NULL CHECK (max_count BETWEEN 1 AND 1000),
    -- NULL where only the count limits.
    max_amount_nanos bigint CHECK (max_amount_nanos >= amount_nanos),
    cooldown_us bigint NOT NULL CHECK (cooldown_us >= 0),
    paused_reason text NOT NULL DEFAULT '' CHECK (char_length(paused_reason) <= 256),
    -- A recharge that failed paused it, not a human: another card ends such a pause.
    paused_by_failure boolean NOT NULL DEFAULT FALSE,
    -- When the sweep looks next; the hook in the ledger's transactions only ever moves it earlier.
    check_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (org, wallet),
    FOREIGN KEY (org, wallet) REFERENCES wallets (org, name)
);
CREATE INDEX recharge_policies_due ON recharge_policies (check_at) WHERE enabled;

-- What counts against a month's caps: pending and succeeded recharges. Locked by every creation and authorisation.
CREATE TABLE recharge_months (
    org text NOT NULL,
    wallet text NOT NULL,
    month text NOT NULL CHECK (month ~ '^[0-9]{4}-[0-9]{2}$'),
    -- The zone that the month was opened in; a change of the wallet's zone takes effect with the next month.
    zone text NOT NULL,
    last_number bigint NOT NULL DEFAULT 0 CHECK (last_number >= 0),
    count bigint NOT NULL DEFAULT 0 CHECK (count >= 0),
    amount_nanos bigint NOT NULL DEFAULT 0 CHECK (amount_nanos >= 0),
    -- The caps in force when something was last let in.
    cap_count bigint NOT NULL DEFAULT 0,
    cap_amount_nanos bigint,
    count_alerted boolean NOT NULL DEFAULT FALSE,
    amount_alerted boolean NOT NULL DEFAULT FALSE,
    PRIMARY KEY (org, wallet, month),
    FOREIGN KEY (org, wallet) REFERENCES wallets (org, name),
    CONSTRAINT count_within_cap CHECK (count <= cap_count),
    CONSTRAINT amount_within_cap CHECK (amount_nanos <= cap_amount_nanos)
);

CREATE TABLE recharges (
    org text NOT NULL,
    name text NOT NULL,
    wallet text NOT NULL,
    state text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'SUCCEEDED', 'FAILED')),
    currency text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    -- The month and number of its name; the month that it counts in may be a later one.
    named_month text NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    month text NOT NULL,
    reason text NOT NULL,
    failure_reason text NOT NULL DEFAULT '',
    -- What was charged and does not fit; a person looks, nothing is granted until then.
    problem text NOT NULL DEFAULT '',
    -- amount_received, in nano-units, once it succeeded.
    received_nanos bigint CHECK (received_nanos > 0),
    grant_name text,
    -- Raised by every change, so that a look at Stripe from before a change is not taken for one from after.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    -- When the sweep looks at it, unless it moves before.
    check_at timestamptz NOT NULL,
    PRIMARY KEY (org, name),
    UNIQUE (org, wallet, named_month, number),
    FOREIGN KEY (org, wallet) REFERENCES wallets (org, name),
    FOREIGN KEY (org, wallet, month) REFERENCES recharge_months (org, wallet, month),
    CONSTRAINT ended_is_ended CHECK ((state = 'PENDING') = (ended_at IS NULL)),
    CONSTRAINT succeeded_is_granted CHECK ((state = 'SUCCEEDED') = (grant_name IS NOT NULL AND received_nanos IS NOT NULL))
);
CREATE UNIQUE INDEX recharges_one_pending ON recharges (org, wallet) WHERE state = 'PENDING';
CREATE INDEX recharges_of_wallet ON recharges (org, wallet, created_at);
CREATE INDEX recharges_due ON recharges (check_at) WHERE state = 'PENDING';

-- The PaymentIntents of a recharge, one in use at a time. payment_intent is NULL while its creation is unknown.
CREATE TABLE recharge_intents (
    org text NOT NULL,
    recharge text NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    create_key text NOT NULL,
    customer text NOT NULL,
    payment_intent text,
    status text NOT NULL DEFAULT '',
    error_code text NOT NULL DEFAULT '',
    error_mark text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org, recharge, number),
    UNIQUE (org, payment_intent),
    FOREIGN KEY (org, recharge) REFERENCES recharges (org, name)
);
CREATE INDEX recharge_intents_by_stripe_id ON recharge_intents (payment_intent);

CREATE TABLE recharge_attempts (
    org text NOT NULL,
    recharge text NOT NULL,
    number bigint NOT NULL CHECK (number BETWEEN 1 AND 15),
    intent_number bigint NOT NULL,
    confirm_key text NOT NULL,
    payment_method text NOT NULL,
    state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'DECLINED', 'SUCCEEDED', 'CANCELED')),
    decline_code text NOT NULL DEFAULT '',
    -- The PaymentIntent's error_mark when this was authorised: a new one is this attempt's.
    mark text NOT NULL,
    -- Whether Stripe is known to have answered the confirmation, and with which error.
    answered boolean NOT NULL DEFAULT FALSE,
    answered_code text NOT NULL DEFAULT '',
    authorized_at timestamptz NOT NULL,
    ended_at timestamptz,
    PRIMARY KEY (org, recharge, number),
    FOREIGN KEY (org, recharge, intent_number) REFERENCES recharge_intents (org, recharge, number),
    CONSTRAINT ended_is_ended CHECK ((state = 'OPEN') = (ended_at IS NULL))
);
CREATE UNIQUE INDEX recharge_attempts_one_open ON recharge_attempts (org, recharge) WHERE state = 'OPEN';

-- The inbox of Stripe's webhook events. org is '-' where an event names none. The key and the hash stay for ever;
-- the payload goes once it was processed, since the truth is asked from Stripe anyway.
CREATE TABLE stripe_events (
    org text NOT NULL,
    id text NOT NULL,
    type text NOT NULL,
    payload_hash bytea NOT NULL CHECK (octet_length(payload_hash) = 32),
    payload bytea,
    livemode boolean NOT NULL,
    payment_intent text,
    recharge text,
    received_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    tries bigint NOT NULL DEFAULT 0,
    -- How often processing it failed for no foreseen reason, and when it was therefore put aside. It keeps its payload.
    failures bigint NOT NULL DEFAULT 0,
    parked_at timestamptz,
    done_at timestamptz,
    outcome text NOT NULL DEFAULT '',
    PRIMARY KEY (org, id)
);
CREATE INDEX stripe_events_due ON stripe_events (due_at) WHERE done_at IS NULL AND parked_at IS NULL;
CREATE INDEX stripe_events_parked ON stripe_events (org, id) WHERE parked_at IS NOT NULL;

GRANT SELECT, INSERT, UPDATE ON recharge_policies, recharge_months, recharges, recharge_intents, recharge_attempts,
stripe_events TO wallet_service;
GRANT SELECT ON installation TO wallet_service;

-- migrate:down

-- squawk-ignore ban-drop-table
-- squawk-ignore ban-drop-table
DROP TABLE stripe_events, recharge_attempts, recharge_intents, recharges, recharge_months, recharge_policies,
installation;
