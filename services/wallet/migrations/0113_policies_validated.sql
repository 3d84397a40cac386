-- What the migration before has promised of new rows, shown of all rows.

-- migrate:up

ALTER TABLE recharge_policies VALIDATE CONSTRAINT a_threshold_or_a_floor;
ALTER TABLE recharge_policies VALIDATE CONSTRAINT an_amount_or_a_target;
ALTER TABLE recharge_policies VALIDATE CONSTRAINT target_above_threshold;
ALTER TABLE recharge_policies VALIDATE CONSTRAINT least_within_most;
ALTER TABLE recharge_policies VALIDATE CONSTRAINT hours_with_quantile;
ALTER TABLE recharges VALIDATE CONSTRAINT a_forecast_is_whole;

-- migrate:down

SELECT 1;
