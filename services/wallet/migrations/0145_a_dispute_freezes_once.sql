-- A dispute freezes its wallet once, whatever it could debit: who opens the wallet again is heeded.

-- migrate:up

-- Whether its freeze was called for, be it that the wallet was frozen already.
ALTER TABLE disputes ADD COLUMN freeze_done boolean NOT NULL DEFAULT FALSE;
UPDATE disputes SET freeze_done = TRUE WHERE withdrawn_nanos > 0;

-- migrate:down

ALTER TABLE disputes
-- squawk-ignore ban-drop-column
DROP COLUMN freeze_done;
