-- migrate:up

-- Everything is keyed by org first, so that a distributed PostgreSQL can spread it without a code change.
-- Times that the hot path reads or writes are whole microseconds since 1970 (`…_us`): no conversion, no rounding.
-- One row an organisation that was ever seen. Decisions hold it FOR SHARE, policy writes FOR UPDATE and raise `epoch`,
-- so a decision is never made on definitions that another replica has changed.
CREATE TABLE org_policy (
    org text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    require_wallet boolean NOT NULL DEFAULT false,
    PRIMARY KEY (org)
);

-- One row a budget and calendar: a change of the window ends a row at its window's edge and begins another there under
-- the same name, so that keys of different calendars never meet in one counter.
CREATE TABLE budgets (
    org text COLLATE "C" NOT NULL,
    budget_no bigint GENERATED ALWAYS AS IDENTITY,
    subject text COLLATE "C" NOT NULL,
    budget_id text COLLATE "C" NOT NULL,
    display_name text NOT NULL DEFAULT '',
    dimension bigint NOT NULL CHECK (dimension BETWEEN 1 AND 5),
    currency text NOT NULL DEFAULT '',
    limit_amount bigint NOT NULL CHECK (limit_amount >= 0),
    window_kind text NOT NULL,
    time_zone text NOT NULL,
    week_start bigint NOT NULL,
    anchor_day bigint NOT NULL,
    on_exceed bigint NOT NULL CHECK (on_exceed BETWEEN 1 AND 4),
    thresholds bigint [] NOT NULL,
    selector text NOT NULL DEFAULT '',
    generation bigint NOT NULL DEFAULT 1,
    revision bigint NOT NULL DEFAULT 1,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL,
    effective_from_us bigint NOT NULL,
    effective_until_us bigint,
    deleted_us bigint,
    PRIMARY KEY (org, budget_no)
);
COMMENT ON COLUMN budgets.selector IS 'JSON; empty: every call';
COMMENT ON COLUMN budgets.generation IS 'grows when the limit rises: alerts are once per generation';
CREATE UNIQUE INDEX budgets_live ON budgets (org, subject, budget_id)
WHERE deleted_us IS NULL AND effective_until_us IS NULL;

-- What a window has used and holds. The hottest rows: no index but the key, room on the page, so updates stay HOT.
CREATE TABLE counters (
    org text COLLATE "C" NOT NULL,
    budget_no bigint NOT NULL,
    window_key bigint NOT NULL,
    spent bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    PRIMARY KEY (org, budget_no, window_key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON COLUMN counters.window_key IS 'local date of the start as yyyymmdd; 0 for LIFETIME';

CREATE TABLE reservations (
    org text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    state bigint NOT NULL,
    payload_hash bytea NOT NULL,
    wallet text COLLATE "C",
    currency text NOT NULL,
    cost_nanos bigint,
    funding_held bigint NOT NULL CHECK (funding_held >= 0),
    settled_nanos bigint NOT NULL DEFAULT 0,
    created_us bigint NOT NULL,
    expires_us bigint NOT NULL,
    rate_version text NOT NULL,
    model text NOT NULL,
    holds bigint [] NOT NULL,
    PRIMARY KEY (org, id)
) WITH (fillfactor = 85);
COMMENT ON COLUMN reservations.state IS '1 open, 2 settled, 3 released, 4 expired';
COMMENT ON COLUMN reservations.wallet IS 'the lease it holds on and settles on; null: unfunded';
COMMENT ON COLUMN reservations.holds IS 'four a hold: budget_no, window_key, placed, held';
CREATE INDEX reservations_expiry ON reservations (expires_us) WHERE state = 1;

-- The usage key and what was applied where, so that an audit can recompute every counter.
CREATE TABLE applied_usage (
    org text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    payload_hash bytea NOT NULL,
    occurred_us bigint NOT NULL,
    applied_us bigint NOT NULL,
    currency text NOT NULL,
    cost_nanos bigint NOT NULL,
    rated boolean NOT NULL,
    wallet text COLLATE "C",
    drawn_nanos bigint NOT NULL,
    reservation text COLLATE "C",
    unreserved boolean NOT NULL,
    effects bigint [] NOT NULL,
    PRIMARY KEY (org, source, id)
);
COMMENT ON COLUMN applied_usage.cost_nanos IS 'what counted as cost; for unrated usage the estimate of its reservation';
COMMENT ON COLUMN applied_usage.drawn_nanos IS 'drawn on the lease; below 0: to be reversed';
COMMENT ON COLUMN applied_usage.effects IS 'three an effect: budget_no, window_key, amount';

-- The account of one lease on this side. All totals are cumulative.
CREATE TABLE leases (
    org text COLLATE "C" NOT NULL,
    wallet text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    last_n bigint NOT NULL DEFAULT 0,
    extended_total bigint NOT NULL DEFAULT 0,
    returned_total bigint NOT NULL DEFAULT 0,
    captured_total bigint NOT NULL DEFAULT 0,
    reversed_total bigint NOT NULL DEFAULT 0,
    drawn_total bigint NOT NULL DEFAULT 0,
    reversal_total bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    target_nanos bigint,
    wallet_state bigint NOT NULL DEFAULT 0,
    quarantined text,
    active_us bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (org, wallet)
) WITH (fillfactor = 50);
COMMENT ON COLUMN leases.captured_total IS 'of all captures written to lease_ops, sent or not';
COMMENT ON COLUMN leases.reversal_total IS 'of all negative corrections; reversed_total of those written to lease_ops';
COMMENT ON COLUMN leases.quarantined IS 'why nothing moves until an operator has looked';

-- Numbered operations, written before they are sent. The totals are those after the operation.
CREATE TABLE lease_ops (
    org text COLLATE "C" NOT NULL,
    wallet text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    n bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('EXTEND', 'CAPTURE', 'RETURN', 'REVERSE')),
    ask_nanos bigint NOT NULL DEFAULT 0,
    need_nanos bigint NOT NULL DEFAULT 0,
    captured_total bigint NOT NULL,
    returned_total bigint NOT NULL,
    reversed_total bigint NOT NULL,
    lines text NOT NULL DEFAULT '',
    written_us bigint NOT NULL,
    answered_us bigint,
    granted_nanos bigint,
    extended_total bigint,
    PRIMARY KEY (org, wallet, epoch, n)
);
-- At most one open EXTEND a lease; every replica's waiters share it.
CREATE UNIQUE INDEX lease_ops_one_extend ON lease_ops (org, wallet) WHERE kind = 'EXTEND' AND answered_us IS NULL;
CREATE INDEX lease_ops_open ON lease_ops (org, wallet, n) WHERE answered_us IS NULL;

-- Where a lease stood when an operator ended its epoch by force. What was drawn until then is what was captured; draws
-- that waited went over to the next epoch.
CREATE TABLE lease_epochs (
    org text COLLATE "C" NOT NULL,
    wallet text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    last_n bigint NOT NULL,
    extended_total bigint NOT NULL,
    returned_total bigint NOT NULL,
    captured_total bigint NOT NULL,
    reversed_total bigint NOT NULL,
    reserved bigint NOT NULL,
    ended_us bigint NOT NULL,
    PRIMARY KEY (org, wallet, epoch)
);
COMMENT ON COLUMN lease_epochs.captured_total IS 'of all captures written, whether they reached the wallet or not';

-- Drawn and not yet captured, a line a batch, wallet, model and month. The capture writer consumes them.
CREATE TABLE lease_draws (
    org text COLLATE "C" NOT NULL,
    wallet text COLLATE "C" NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    reversal boolean NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    month text NOT NULL,
    amount_nanos bigint NOT NULL CHECK (amount_nanos > 0),
    calls bigint NOT NULL,
    PRIMARY KEY (org, wallet, seq)
);

CREATE TABLE wallet_directory (
    org text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    wallets text NOT NULL,
    synced_us bigint NOT NULL,
    PRIMARY KEY (org)
);

-- One row a threshold that a window's use has reached, and its outbox row in the same transaction.
CREATE TABLE crossings (
    org text COLLATE "C" NOT NULL,
    budget_no bigint NOT NULL,
    window_key bigint NOT NULL,
    threshold bigint NOT NULL,
    generation bigint NOT NULL,
    limit_amount bigint NOT NULL,
    spent_amount bigint NOT NULL,
    crossed_us bigint NOT NULL,
    PRIMARY KEY (org, budget_no, window_key, threshold, generation)
);

-- What a person should look at, once per kind and reference.
CREATE TABLE alerts (
    org text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    reference text COLLATE "C" NOT NULL,
    detail text NOT NULL,
    raised_us bigint NOT NULL,
    PRIMARY KEY (org, kind, reference)
);

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

-- The three below belong to no organisation: what metering has delivered, prices, and this database's own name.
CREATE TABLE relay_watermark (
    relay text NOT NULL,
    delivered_through_us bigint NOT NULL,
    updated_us bigint NOT NULL,
    PRIMARY KEY (relay)
);

-- What some organisations wait for longer than the others: usage of theirs that metering could not deliver.
CREATE TABLE relay_held_back (
    org text COLLATE "C" NOT NULL,
    relay text NOT NULL,
    delivered_through_us bigint NOT NULL,
    PRIMARY KEY (org, relay)
);

CREATE TABLE rate_table (
    one boolean NOT NULL DEFAULT true CHECK (one),
    version text NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (one)
);

CREATE TABLE holder (
    one boolean NOT NULL DEFAULT true CHECK (one),
    id text NOT NULL,
    PRIMARY KEY (one)
);
INSERT INTO holder (id) VALUES ('budget-' || gen_random_uuid());

GRANT SELECT, INSERT, UPDATE ON org_policy, budgets, counters, reservations, leases, lease_ops, wallet_directory,
alerts, relay_watermark, rate_table TO budget_service;
GRANT SELECT, INSERT ON applied_usage, crossings, lease_epochs TO budget_service;
GRANT SELECT, INSERT, DELETE ON lease_draws TO budget_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO budget_service;
GRANT SELECT ON holder TO budget_service;
GRANT DELETE ON lease_ops TO budget_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON relay_held_back TO budget_service;

-- migrate:down
-- squawk-ignore ban-drop-table
DROP TABLE holder, rate_table, relay_held_back, relay_watermark, outbox, alerts, crossings, wallet_directory, lease_draws, lease_epochs, lease_ops,
leases, applied_usage, reservations, counters, budgets, org_policy;
