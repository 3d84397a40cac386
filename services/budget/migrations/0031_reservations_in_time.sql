-- migrate:up

ALTER TABLE reservations ADD COLUMN settled_events bigint NOT NULL DEFAULT 0, ADD COLUMN closed_us bigint;
COMMENT ON COLUMN reservations.settled_events IS 'usage events that settled it; 0 and expired: nobody said what became of it';
COMMENT ON COLUMN reservations.closed_us IS 'null: open, or closed before this was kept';
-- What is closed is written when it is closed: nothing is added to the insert of a spend.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX reservations_closed ON reservations (closed_us) WHERE closed_us IS NOT NULL;

-- Extensions by their request ids, so that one that is sent again extends nothing twice.
CREATE TABLE reservation_extensions (
    org text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    reservation text COLLATE "C" NOT NULL,
    payload_hash bytea NOT NULL,
    extended_us bigint NOT NULL,
    PRIMARY KEY (org, request_id)
);
CREATE INDEX reservation_extensions_age ON reservation_extensions (extended_us);
GRANT SELECT, INSERT, DELETE ON reservation_extensions TO budget_service;

-- migrate:down
-- squawk-ignore ban-drop-table
DROP TABLE reservation_extensions;
-- squawk-ignore ban-drop-column
ALTER TABLE reservations DROP COLUMN settled_events, DROP COLUMN closed_us;
