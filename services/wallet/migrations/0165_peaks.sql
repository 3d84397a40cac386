-- What a forecast by lead time goes by besides its quantile: the most ever spent while a recharge was on its way.

-- migrate:up

-- NULL where there is no forecast, or one from before there were peaks.
ALTER TABLE recharges
ADD COLUMN forecast_peak_nanos bigint CHECK (forecast_peak_nanos >= 0);

-- migrate:down

-- squawk-ignore ban-drop-column
ALTER TABLE recharges DROP COLUMN forecast_peak_nanos;
