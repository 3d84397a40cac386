-- Events on their way to subscriptions, in order by subscription and channel, and what became of them.

-- migrate:up

-- A subscription that is deleted and made anew is another one: what was sent to the first is none of the second's.
-- Subscriptions are few, so writing them anew does no harm.
-- squawk-ignore adding-field-with-default
ALTER TABLE subscriptions ADD COLUMN no bigint GENERATED ALWAYS AS IDENTITY;
ALTER TABLE subscriptions
ADD COLUMN payload bigint NOT NULL DEFAULT 1,
ADD COLUMN old_secret text NOT NULL DEFAULT '',
ADD COLUMN old_secret_until_us bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN subscriptions.payload IS 'the shape of a webhook''s body: 1 event, 2 warning';
COMMENT ON COLUMN subscriptions.old_secret IS 'signs beside the new one until old_secret_until_us';
-- Subscriptions are few: a moment's lock does no harm.
-- squawk-ignore require-concurrent-index-creation
CREATE UNIQUE INDEX subscriptions_no ON subscriptions (org, no);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX subscriptions_old_secrets ON subscriptions (old_secret_until_us) WHERE old_secret <> '';

-- One channel of one subscription. Whoever changes its deliveries locks its row first.
CREATE TABLE delivery_lanes (
    org text COLLATE "C" NOT NULL,
    subscription_no bigint NOT NULL,
    channel bigint NOT NULL,
    last_number bigint NOT NULL DEFAULT 0,
    waiting bigint NOT NULL DEFAULT 0,
    due_us bigint,
    woken_us bigint,
    held_by text NOT NULL DEFAULT '',
    held_until_us bigint NOT NULL DEFAULT 0,
    sent_us bigint NOT NULL DEFAULT 0,
    failing_since_us bigint,
    off_us bigint,
    off_reason text NOT NULL DEFAULT '',
    PRIMARY KEY (org, subscription_no, channel)
);
COMMENT ON COLUMN delivery_lanes.channel IS '1 webhook, 2 mail';
COMMENT ON COLUMN delivery_lanes.waiting IS 'how many deliveries are pending';
COMMENT ON COLUMN delivery_lanes.due_us IS 'when the first pending one may be tried; null: none is pending';
COMMENT ON COLUMN delivery_lanes.woken_us IS 'when its workflow was last woken; null: it has asked since';
COMMENT ON COLUMN delivery_lanes.failing_since_us IS 'the first failure after the last success';
CREATE INDEX delivery_lanes_due ON delivery_lanes (due_us) WHERE due_us IS NOT NULL;

CREATE TABLE deliveries (
    org text COLLATE "C" NOT NULL,
    subscription_no bigint NOT NULL,
    channel bigint NOT NULL,
    number bigint NOT NULL,
    message_id text NOT NULL,
    key text NOT NULL,
    event bigint NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    payload bytea NOT NULL,
    state bigint NOT NULL DEFAULT 1,
    tries bigint NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    created_us bigint NOT NULL,
    next_try_us bigint NOT NULL,
    first_try_us bigint,
    closed_us bigint,
    PRIMARY KEY (org, subscription_no, channel, number)
);
COMMENT ON COLUMN deliveries.state IS '1 pending, 2 delivered, 3 dead';
CREATE INDEX deliveries_state ON deliveries (org, subscription_no, channel, state, number);
CREATE INDEX deliveries_age ON deliveries (closed_us) WHERE closed_us IS NOT NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON delivery_lanes, deliveries TO budget_service;

-- migrate:down

-- squawk-ignore ban-drop-table
DROP TABLE deliveries, delivery_lanes;
-- squawk-ignore ban-drop-column
ALTER TABLE subscriptions DROP COLUMN no, DROP COLUMN payload, DROP COLUMN old_secret, DROP COLUMN old_secret_until_us;
