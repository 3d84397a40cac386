-- migrate:up

-- A charge is a row of applied usage that corrects itself: no event, and no price. While it stands its reservation is
-- kept, since later usage takes back what that says.
COMMENT ON COLUMN reservations.state IS '1 open, 2 settled, 3 released, 4 expired, 5 expired and charged its estimate';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX reservations_forgettable ON reservations (closed_us) WHERE closed_us IS NOT NULL AND state <> 5;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX reservations_closed;

-- migrate:down
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX reservations_closed ON reservations (closed_us) WHERE closed_us IS NOT NULL;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX reservations_forgettable;
