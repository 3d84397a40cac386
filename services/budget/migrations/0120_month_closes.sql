-- Of which months people were told, so that each is told once. Nothing else depends on a row of this.

-- migrate:up

CREATE TABLE month_closes (
    org text COLLATE "C" NOT NULL,
    time_zone text COLLATE "C" NOT NULL,
    month text COLLATE "C" NOT NULL CHECK (month ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    closed_us bigint NOT NULL,
    PRIMARY KEY (org, time_zone, month)
);
GRANT SELECT, INSERT ON month_closes TO budget_service;

-- migrate:down

-- squawk-ignore ban-drop-table
DROP TABLE month_closes;
