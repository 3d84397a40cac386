-- The wallet's books: wallets, the double-entry ledger, grants, and the leases given to budget databases.
--
-- `org` (the bare id, `acme` of `orgs/acme`) leads every key, so that the tables can be spread by it. Amounts are
-- nano-units in bigint. All that belongs to a wallet changes only under a lock of the wallet's row.

-- migrate:up

CREATE TABLE directories (
    org text PRIMARY KEY,
    -- Raised by the transaction that changes any wallet of the organisation.
    version bigint NOT NULL CHECK (version > 0),
    wallets bigint NOT NULL DEFAULT 0 CHECK (wallets >= 0)
);

CREATE TABLE wallets (
    org text NOT NULL,
    name text NOT NULL,
    subject text NOT NULL,
    display_name text NOT NULL CHECK (char_length(display_name) <= 128),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'FROZEN', 'CLOSED')),
    state_reason text NOT NULL DEFAULT '' CHECK (char_length(state_reason) <= 256),
    time_zone text NOT NULL DEFAULT 'UTC',
    stripe_customer text,
    payment_method text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org, name),
    UNIQUE (org, name, currency),
    CHECK (name LIKE 'orgs/' || org || '/%' AND name LIKE subject || '/wallets/%')
) WITH (fillfactor = 80);

-- Four counters' worth in two: a balance is credits - debits, in O(1).
CREATE TABLE accounts (
    org text NOT NULL,
    id text NOT NULL,
    wallet text NOT NULL,
    kind text NOT NULL
        CHECK (kind IN ('funding', 'promotion', 'available', 'escrow', 'spent', 'debt', 'expired')),
    currency text NOT NULL,
    debits_nanos bigint NOT NULL DEFAULT 0 CHECK (debits_nanos >= 0),
    credits_nanos bigint NOT NULL DEFAULT 0 CHECK (credits_nanos >= 0),
    PRIMARY KEY (org, id),
    UNIQUE (org, id, currency),
    FOREIGN KEY (org, wallet, currency) REFERENCES wallets (org, name, currency),
    CONSTRAINT money_is_never_below_zero CHECK (
        kind NOT IN ('available', 'escrow', 'spent', 'expired') OR credits_nanos >= debits_nanos
    ),
    CONSTRAINT sources_never_hold_money CHECK (
        kind NOT IN ('funding', 'promotion', 'debt') OR debits_nanos >= credits_nanos
    )
) WITH (fillfactor = 70);
CREATE INDEX accounts_of_wallet ON accounts (org, wallet);

-- A row moves a positive amount from one account to another of the same currency, so every row balances by itself.
CREATE TABLE transfers (
    org text NOT NULL,
    -- Taken under the wallet's lock: within a wallet it is the order of commits.
    sequence bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    transaction_id uuid NOT NULL,
    wallet text NOT NULL,
    kind text NOT NULL
        CHECK (kind IN ('grant', 'extend', 'capture', 'return', 'reverse', 'expire', 'debt', 'repay')),
    from_account text NOT NULL,
    to_account text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    currency text NOT NULL,
    posted_at timestamptz NOT NULL,
    reference text NOT NULL,
    PRIMARY KEY (org, sequence),
    FOREIGN KEY (org, from_account, currency) REFERENCES accounts (org, id, currency),
    FOREIGN KEY (org, to_account, currency) REFERENCES accounts (org, id, currency),
    CHECK (from_account <> to_account)
);
CREATE INDEX transfers_of_wallet ON transfers (org, wallet, sequence);

-- A grant and the lot that is left of it: every nano is free, leased, spent or expired.
CREATE TABLE grants (
    org text NOT NULL,
    name text NOT NULL,
    wallet text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('PAID', 'PROMOTIONAL')),
    currency text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    priority bigint NOT NULL,
    expires_at timestamptz,
    reference text NOT NULL,
    recharge text,
    created_at timestamptz NOT NULL,
    free_nanos bigint NOT NULL CHECK (free_nanos >= 0),
    leased_nanos bigint NOT NULL CHECK (leased_nanos >= 0),
    spent_nanos bigint NOT NULL CHECK (spent_nanos >= 0),
    expired_nanos bigint NOT NULL CHECK (expired_nanos >= 0),
    PRIMARY KEY (org, name),
    FOREIGN KEY (org, wallet, currency) REFERENCES wallets (org, name, currency),
    CONSTRAINT a_nano_is_in_one_place CHECK (
        amount_nanos = free_nanos + leased_nanos + spent_nanos + expired_nanos
    )
) WITH (fillfactor = 70);
-- One recharge becomes at most one grant.
CREATE UNIQUE INDEX grants_of_recharge ON grants (org, recharge) WHERE recharge IS NOT NULL;
CREATE INDEX grants_left ON grants (org, wallet) WHERE free_nanos > 0 OR leased_nanos > 0;
CREATE INDEX grants_expiring ON grants (expires_at) WHERE free_nanos > 0 AND expires_at IS NOT NULL;

-- Which lot pays for what, in the order of tagging. Holder '' is debt that a grant paid off.
CREATE TABLE tags (
    org text NOT NULL,
    wallet text NOT NULL,
    position bigint NOT NULL,
    holder text NOT NULL,
    lot text NOT NULL,
    leased_nanos bigint NOT NULL CHECK (leased_nanos >= 0),
    spent_nanos bigint NOT NULL CHECK (spent_nanos >= 0),
    PRIMARY KEY (org, wallet, position),
    FOREIGN KEY (org, lot) REFERENCES grants (org, name)
) WITH (fillfactor = 70);
CREATE INDEX tags_of_holder ON tags (org, wallet, holder, position);
CREATE INDEX tags_leased ON tags (org, wallet) WHERE leased_nanos > 0;

CREATE TABLE leases (
    org text NOT NULL,
    wallet text NOT NULL,
    holder text NOT NULL,
    epoch bigint NOT NULL CHECK (epoch >= 0),
    -- The last operation applied, and the totals after it.
    n bigint NOT NULL CHECK (n >= 0),
    extended_nanos bigint NOT NULL CHECK (extended_nanos >= 0),
    captured_nanos bigint NOT NULL CHECK (captured_nanos >= 0),
    returned_nanos bigint NOT NULL CHECK (returned_nanos >= 0),
    reversed_nanos bigint NOT NULL CHECK (reversed_nanos >= 0),
    -- Why nothing moves until an operator has looked; NULL while it moves.
    quarantine text,
    -- Decayed sums of captures and of extensions, as of flow_at, in nano-units: what sizes the next extension.
    burn_nanos bigint NOT NULL CHECK (burn_nanos >= 0),
    pull_nanos bigint NOT NULL CHECK (pull_nanos >= 0),
    flow_at timestamptz NOT NULL,
    PRIMARY KEY (org, wallet, holder),
    FOREIGN KEY (org, wallet) REFERENCES wallets (org, name),
    CONSTRAINT escrow_is_never_below_zero CHECK (extended_nanos - captured_nanos - returned_nanos >= 0),
    CONSTRAINT reversed_was_captured CHECK (reversed_nanos <= captured_nanos)
) WITH (fillfactor = 70);

-- What each operation was answered, for ever: a repeated number gets the same answer, and an audit can compare
-- totals at any number.
CREATE TABLE lease_ops (
    org text NOT NULL,
    wallet text NOT NULL,
    holder text NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL CHECK (n > 0),
    kind text NOT NULL CHECK (kind IN ('extend', 'capture', 'return', 'reverse')),
    payload_hash bytea NOT NULL CHECK (octet_length(payload_hash) = 32),
    amount_nanos bigint NOT NULL CHECK (amount_nanos >= 0),
    extended_nanos bigint NOT NULL,
    captured_nanos bigint NOT NULL,
    returned_nanos bigint NOT NULL,
    reversed_nanos bigint NOT NULL,
    applied_at timestamptz NOT NULL,
    PRIMARY KEY (org, wallet, holder, epoch, n),
    FOREIGN KEY (org, wallet, holder) REFERENCES leases (org, wallet, holder)
);

-- What captured money went to; negative where a reversal gave it back.
CREATE TABLE capture_lines (
    org text NOT NULL,
    wallet text NOT NULL,
    holder text NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL,
    line bigint NOT NULL CHECK (line >= 0),
    provider text NOT NULL,
    model text NOT NULL,
    use_month text NOT NULL CHECK (use_month ~ '^[0-9]{4}-[0-9]{2}$'),
    amount_nanos bigint NOT NULL,
    calls bigint NOT NULL,
    posted_at timestamptz NOT NULL,
    PRIMARY KEY (org, wallet, holder, epoch, n, line),
    FOREIGN KEY (org, wallet, holder, epoch, n) REFERENCES lease_ops (org, wallet, holder, epoch, n)
);

-- Epochs ended by force, with their last totals; what was in escrow then is part of returned_nanos.
CREATE TABLE lease_epochs (
    org text NOT NULL,
    wallet text NOT NULL,
    holder text NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL,
    extended_nanos bigint NOT NULL,
    captured_nanos bigint NOT NULL,
    returned_nanos bigint NOT NULL,
    reversed_nanos bigint NOT NULL,
    reclaimed_nanos bigint NOT NULL CHECK (reclaimed_nanos >= 0),
    reason text NOT NULL CHECK (char_length(reason) <= 256),
    ended_at timestamptz NOT NULL,
    PRIMARY KEY (org, wallet, holder, epoch),
    FOREIGN KEY (org, wallet, holder) REFERENCES leases (org, wallet, holder),
    CHECK (extended_nanos = captured_nanos + returned_nanos)
);

CREATE TABLE request_keys (
    org text NOT NULL,
    method text NOT NULL,
    id text NOT NULL,
    payload_hash bytea NOT NULL CHECK (octet_length(payload_hash) = 32),
    answer bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org, method, id)
);
CREATE INDEX request_keys_by_age ON request_keys (created_at);

CREATE TABLE outbox (
    org text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    topic text NOT NULL,
    key text NOT NULL,
    payload bytea NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries bigint NOT NULL DEFAULT 0,
    last_error text,
    parked_at timestamptz,
    PRIMARY KEY (org, id)
);
CREATE INDEX outbox_due ON outbox (topic, due_at, id) WHERE parked_at IS NULL;

-- The service's role adds to the books and never rewrites them.
GRANT SELECT, INSERT ON transfers, lease_ops, capture_lines, lease_epochs TO wallet_service;
GRANT SELECT, INSERT, UPDATE ON directories, wallets, accounts, grants, leases TO wallet_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON tags, outbox TO wallet_service;
GRANT SELECT, INSERT, DELETE ON request_keys TO wallet_service;

-- migrate:down

-- squawk-ignore ban-drop-table
DROP TABLE outbox, request_keys, lease_epochs, capture_lines, lease_ops, leases, tags, grants, transfers, accounts,
wallets, directories;
