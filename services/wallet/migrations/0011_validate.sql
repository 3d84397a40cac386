-- What the migration before has promised of new rows, shown of all rows: in a transaction of its own, so that nobody
-- waits meanwhile.

-- migrate:up

ALTER TABLE accounts VALIDATE CONSTRAINT accounts_kind_check;
ALTER TABLE accounts VALIDATE CONSTRAINT money_is_never_below_zero;
ALTER TABLE accounts VALIDATE CONSTRAINT sources_never_hold_money;
ALTER TABLE transfers VALIDATE CONSTRAINT transfers_kind_check;
ALTER TABLE wallets VALIDATE CONSTRAINT wallets_state_check;
ALTER TABLE grants VALIDATE CONSTRAINT grants_pending_and_gone;
ALTER TABLE grants VALIDATE CONSTRAINT a_nano_is_in_one_place;

-- migrate:down

SELECT 1;
