-- Refunds that were made at Stripe itself: how far its list was looked through, and which of it is known.

-- migrate:up

-- One row for all organisations.
CREATE TABLE refund_sweep (
    one boolean NOT NULL DEFAULT true CHECK (one),
    through timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (one)
);
INSERT INTO refund_sweep (through, due_at) VALUES (clock_timestamp(), clock_timestamp());
GRANT SELECT, UPDATE ON refund_sweep TO wallet_service;

-- Stripe names no organisation in a refund. Refunds are few: made in a moment.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX refunds_by_stripe_id ON refunds (stripe_refund) WHERE stripe_refund IS NOT NULL;

-- migrate:down

-- squawk-ignore require-concurrent-index-deletion
DROP INDEX refunds_by_stripe_id;
-- squawk-ignore ban-drop-table
DROP TABLE refund_sweep;
