-- What the migration before has promised of new rows, shown of all rows.

-- migrate:up

ALTER TABLE recharge_months VALIDATE CONSTRAINT extras_not_negative;
ALTER TABLE recharge_months VALIDATE CONSTRAINT count_within_cap;
ALTER TABLE recharge_months VALIDATE CONSTRAINT amount_within_cap;

-- migrate:down

SELECT 1;
