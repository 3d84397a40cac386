-- The stored copy of price cards that organisations and the installation laid over the rate table.

-- migrate:up

CREATE TABLE own_rates (
    -- The organisation's bare id; '*' is the installation.
    org text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    version text NOT NULL,
    effective_from timestamptz NOT NULL,
    usable_from timestamptz NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (org, revision)
);
GRANT SELECT, INSERT ON own_rates TO budget_service;

-- migrate:down

-- Books are not dropped: what undoes this migration is a restore.
