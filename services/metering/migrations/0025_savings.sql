-- What could be saved: which calls asked the same, and which work other models could do.

-- migrate:up

-- A hash of the prompt, by the caller; NULL where none was given, which takes no room.
ALTER TABLE usage_events ADD COLUMN prompt_hash bytea;

CREATE TABLE routing_rules (
    org text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    rules jsonb NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_by text NOT NULL,
    PRIMARY KEY (org)
);
GRANT SELECT, INSERT, UPDATE ON routing_rules TO metering_service;

-- migrate:down

-- Books are not dropped: what undoes this migration is a restore.
