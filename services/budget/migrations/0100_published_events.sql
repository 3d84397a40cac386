-- Events that other services told of, so that each is told once; the events themselves are in the outbox.

-- migrate:up

CREATE TABLE published_events (
    org text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    published_us bigint NOT NULL,
    PRIMARY KEY (org, key)
);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX published_events_age ON published_events (published_us);
GRANT SELECT, INSERT, DELETE ON published_events TO budget_service;

-- migrate:down

-- squawk-ignore ban-drop-table
DROP TABLE published_events;
