-- Money that leaves a wallet otherwise than by being spent: refunded, disputed, moved to another wallet. Grants that
-- take effect later. Wallets that are being closed.

-- migrate:up

-- What is refunded or disputed leaves through accounts of its own; what moves between wallets through one on each side,
-- whose sums are equal in every organisation and currency.
-- squawk-ignore ban-drop-constraint
ALTER TABLE accounts DROP CONSTRAINT accounts_kind_check;
ALTER TABLE accounts ADD CONSTRAINT accounts_kind_check CHECK (
    kind IN (
        'funding', 'promotion', 'available', 'escrow', 'spent', 'debt', 'expired', 'refunded', 'disputed',
        'moved_in', 'moved_out'
    )
) NOT VALID;
-- squawk-ignore ban-drop-constraint
ALTER TABLE accounts DROP CONSTRAINT money_is_never_below_zero;
ALTER TABLE accounts ADD CONSTRAINT money_is_never_below_zero CHECK (
    kind IN ('funding', 'promotion', 'debt', 'moved_in') OR credits_nanos >= debits_nanos
) NOT VALID;
-- squawk-ignore ban-drop-constraint
ALTER TABLE accounts DROP CONSTRAINT sources_never_hold_money;
ALTER TABLE accounts ADD CONSTRAINT sources_never_hold_money CHECK (
    kind NOT IN ('funding', 'promotion', 'debt', 'moved_in') OR debits_nanos >= credits_nanos
) NOT VALID;

-- squawk-ignore ban-drop-constraint
ALTER TABLE transfers DROP CONSTRAINT transfers_kind_check;
ALTER TABLE transfers ADD CONSTRAINT transfers_kind_check CHECK (
    kind IN (
        'grant', 'extend', 'capture', 'return', 'reverse', 'expire', 'debt', 'repay', 'refund', 'refund_failed',
        'dispute', 'reinstate', 'move'
    )
) NOT VALID;
-- A balance as of any time is the sum of a wallet's transfers until then.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX transfers_by_time ON transfers (org, wallet, posted_at);

-- squawk-ignore ban-drop-constraint
ALTER TABLE wallets DROP CONSTRAINT wallets_state_check;
ALTER TABLE wallets ADD CONSTRAINT wallets_state_check
CHECK (state IN ('OPEN', 'FROZEN', 'CLOSING', 'CLOSED')) NOT VALID;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX wallets_closing ON wallets (org, name) WHERE state = 'CLOSING';

-- Every nano is not yet in effect, free, leased, spent, expired, or gone: refunded, disputed or moved.
ALTER TABLE grants ADD COLUMN pending_nanos bigint NOT NULL DEFAULT 0;
ALTER TABLE grants ADD COLUMN gone_nanos bigint NOT NULL DEFAULT 0;
ALTER TABLE grants ADD COLUMN effective_at timestamptz;
-- The grant that a moved lot was before, in its first wallet.
ALTER TABLE grants ADD COLUMN origin text;
ALTER TABLE grants ADD CONSTRAINT grants_pending_and_gone CHECK (pending_nanos >= 0 AND gone_nanos >= 0) NOT VALID;
-- squawk-ignore ban-drop-constraint
ALTER TABLE grants DROP CONSTRAINT a_nano_is_in_one_place;
ALTER TABLE grants ADD CONSTRAINT a_nano_is_in_one_place CHECK (
    amount_nanos = pending_nanos + free_nanos + leased_nanos + spent_nanos + expired_nanos + gone_nanos
) NOT VALID;
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX grants_left;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX grants_left ON grants (org, wallet) WHERE free_nanos > 0 OR leased_nanos > 0 OR pending_nanos > 0;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX grants_maturing ON grants (effective_at) WHERE pending_nanos > 0;

-- migrate:down

SELECT 1;
