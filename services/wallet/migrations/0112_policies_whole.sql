-- Policies: up to a target, the least and the most of one recharge, by forecast; who paused one, and since when.

-- migrate:up

ALTER TABLE recharge_policies
-- squawk-ignore ban-drop-constraint
DROP CONSTRAINT recharge_policies_threshold_nanos_check,
-- squawk-ignore ban-drop-not-null
ALTER COLUMN amount_nanos DROP NOT NULL,
ADD COLUMN target_nanos bigint,
ADD COLUMN min_nanos bigint NOT NULL DEFAULT 0,
-- NULL: the most that Stripe takes at once.
ADD COLUMN max_nanos bigint,
-- NULL: by threshold. Else threshold_nanos is the floor: below it there is a recharge whatever the forecast is.
ADD COLUMN hours_ahead bigint,
ADD COLUMN quantile_percent bigint,
ADD COLUMN lead_time boolean NOT NULL DEFAULT FALSE,
ADD COLUMN paused_by text NOT NULL DEFAULT '',
ADD COLUMN paused_at timestamptz;

ALTER TABLE recharge_policies
ADD CONSTRAINT a_threshold_or_a_floor
CHECK (threshold_nanos > 0 OR hours_ahead IS NOT NULL AND threshold_nanos = 0) NOT VALID,
ADD CONSTRAINT an_amount_or_a_target CHECK (num_nonnulls(amount_nanos, target_nanos) = 1) NOT VALID,
ADD CONSTRAINT target_above_threshold CHECK (target_nanos > threshold_nanos) NOT VALID,
ADD CONSTRAINT least_within_most CHECK (min_nanos >= 0 AND min_nanos <= max_nanos) NOT VALID,
ADD CONSTRAINT hours_with_quantile CHECK (
    num_nonnulls(hours_ahead, quantile_percent) IN (0, 2)
    AND hours_ahead BETWEEN 1 AND 720 AND quantile_percent IN (50, 90, 99)
) NOT VALID;

-- The forecast that a recharge was started for; all NULL where the balance was below the threshold.
ALTER TABLE recharges
ADD COLUMN forecast_spend_nanos bigint,
ADD COLUMN forecast_percent bigint,
ADD COLUMN forecast_hours bigint,
ADD COLUMN forecast_at timestamptz,
ADD COLUMN forecast_balance_nanos bigint,
ADD COLUMN forecast_floor_nanos bigint,
-- NULL too where the forecast does not reach so far.
ADD COLUMN forecast_depletes_at timestamptz;

ALTER TABLE recharges
ADD CONSTRAINT a_forecast_is_whole CHECK (
    num_nonnulls(
        forecast_spend_nanos, forecast_percent, forecast_hours, forecast_at, forecast_balance_nanos,
        forecast_floor_nanos
    ) IN (0, 6)
    AND (forecast_spend_nanos IS NOT NULL OR forecast_depletes_at IS NULL)
) NOT VALID;

-- migrate:down

ALTER TABLE recharges
-- squawk-ignore ban-drop-column
DROP COLUMN forecast_spend_nanos,
-- squawk-ignore ban-drop-column
DROP COLUMN forecast_percent,
-- squawk-ignore ban-drop-column
DROP COLUMN forecast_hours,
-- squawk-ignore ban-drop-column
DROP COLUMN forecast_at,
-- squawk-ignore ban-drop-column
DROP COLUMN forecast_balance_nanos,
-- squawk-ignore ban-drop-column
DROP COLUMN forecast_floor_nanos,
-- squawk-ignore ban-drop-column
DROP COLUMN forecast_depletes_at;

DELETE FROM recharge_policies WHERE amount_nanos IS NULL OR threshold_nanos <= 0;

ALTER TABLE recharge_policies
-- squawk-ignore ban-drop-column
DROP COLUMN target_nanos,
-- squawk-ignore ban-drop-column
DROP COLUMN min_nanos,
-- squawk-ignore ban-drop-column
DROP COLUMN max_nanos,
-- squawk-ignore ban-drop-column
DROP COLUMN hours_ahead,
-- squawk-ignore ban-drop-column
DROP COLUMN quantile_percent,
-- squawk-ignore ban-drop-column
DROP COLUMN lead_time,
-- squawk-ignore ban-drop-column
DROP COLUMN paused_by,
-- squawk-ignore ban-drop-column
DROP COLUMN paused_at,
-- squawk-ignore adding-not-nullable-field
ALTER COLUMN amount_nanos SET NOT NULL,
ADD CONSTRAINT recharge_policies_threshold_nanos_check CHECK (threshold_nanos > 0) NOT VALID;
