-- Payments by a person: top-ups, pages to enter a card on, and what is known of the cards on file.
--
-- Lock order: wallet, top-up or card setup, month.

-- migrate:up

-- Money that somebody puts in by paying once. The truth is Stripe's; the row says what was asked for and what came of it.
CREATE TABLE top_ups (
    org text NOT NULL,
    name text NOT NULL,
    wallet text NOT NULL,
    on_session boolean NOT NULL,
    state text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'SUCCEEDED', 'FAILED')),
    currency text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    payload_hash bytea NOT NULL CHECK (octet_length(payload_hash) = 32),
    customer text NOT NULL,
    -- What is charged, off session.
    payment_method text,
    -- The month whose caps count it; NULL where none does.
    month text,
    session text,
    url text NOT NULL DEFAULT '',
    payment_intent text,
    intent_status text NOT NULL DEFAULT '',
    decline_code text NOT NULL DEFAULT '',
    failure_reason text NOT NULL DEFAULT '',
    problem text NOT NULL DEFAULT '',
    received_nanos bigint CHECK (received_nanos > 0),
    grant_name text,
    -- Raised by every change, so that a look at Stripe from before a change is not taken for one from after.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    check_at timestamptz NOT NULL,
    PRIMARY KEY (org, name),
    FOREIGN KEY (org, wallet) REFERENCES wallets (org, name),
    FOREIGN KEY (org, wallet, month) REFERENCES recharge_months (org, wallet, month),
    CONSTRAINT ended_is_ended CHECK ((state = 'PENDING') = (ended_at IS NULL)),
    CONSTRAINT succeeded_is_granted CHECK ((state = 'SUCCEEDED') = (grant_name IS NOT NULL AND received_nanos IS NOT NULL)),
    CONSTRAINT a_page_or_a_card CHECK (on_session = (payment_method IS NULL))
);
CREATE INDEX top_ups_of_wallet ON top_ups (org, wallet, created_at);
CREATE INDEX top_ups_due ON top_ups (check_at) WHERE state = 'PENDING';

-- Pages to enter a card on. The card that is saved becomes the wallet's default, once.
CREATE TABLE card_setups (
    org text NOT NULL,
    name text NOT NULL,
    wallet text NOT NULL,
    state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'DONE', 'EXPIRED')),
    payload_hash bytea NOT NULL CHECK (octet_length(payload_hash) = 32),
    customer text NOT NULL,
    session text,
    url text NOT NULL DEFAULT '',
    payment_method text,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    check_at timestamptz NOT NULL,
    PRIMARY KEY (org, name),
    FOREIGN KEY (org, wallet) REFERENCES wallets (org, name),
    CONSTRAINT ended_is_ended CHECK ((state = 'OPEN') = (ended_at IS NULL))
);
CREATE INDEX card_setups_due ON card_setups (check_at) WHERE state = 'OPEN';

-- When the card that a wallet charges by default is looked at again, and which one was warned of.
CREATE TABLE card_checks (
    org text NOT NULL,
    wallet text NOT NULL,
    check_at timestamptz NOT NULL,
    -- The method and expiry that a person was warned of last.
    warned_of text NOT NULL DEFAULT '',
    PRIMARY KEY (org, wallet),
    FOREIGN KEY (org, wallet) REFERENCES wallets (org, name)
);
CREATE INDEX card_checks_due ON card_checks (check_at);
INSERT INTO card_checks (org, wallet, check_at)
SELECT org, name, clock_timestamp() FROM wallets WHERE payment_method IS NOT NULL;

-- Whose default a payment method is that Stripe tells of.
-- One row a wallet: made in a moment.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX wallets_of_payment_method ON wallets (payment_method) WHERE payment_method IS NOT NULL;

-- The id of the object that an event is about.
ALTER TABLE stripe_events ADD COLUMN object_id text;

GRANT SELECT, INSERT, UPDATE ON top_ups, card_setups, card_checks TO wallet_service;

-- migrate:down

-- squawk-ignore ban-drop-column
ALTER TABLE stripe_events DROP COLUMN object_id;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX wallets_of_payment_method;
-- squawk-ignore ban-drop-table
DROP TABLE card_checks, card_setups, top_ups;
