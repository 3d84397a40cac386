-- Refunds that somebody made at Stripe and that do not fit beside what else holds their charge: told once, looked at
-- again until they fit.

-- migrate:up

CREATE TABLE refunds_without_room (
    org text NOT NULL,
    stripe_refund text NOT NULL,
    payment_intent text NOT NULL,
    seen_at timestamptz NOT NULL,
    check_at timestamptz NOT NULL,
    taken_at timestamptz,
    PRIMARY KEY (org, stripe_refund),
    FOREIGN KEY (org, payment_intent) REFERENCES charges (org, payment_intent)
);
CREATE INDEX refunds_without_room_due ON refunds_without_room (check_at) WHERE taken_at IS NULL;
GRANT SELECT, INSERT, UPDATE ON refunds_without_room TO wallet_service;

-- migrate:down

-- squawk-ignore ban-drop-table
DROP TABLE refunds_without_room;
