"""Reviews of caps: a cap has stopped a recharge, and somebody decides whether more is allowed."""

# ruff: noqa: S608 - statements are put together from constants of this module

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from services.kit import money, outbox
from services.kit.outbox import OutboxRow
from services.wallet.recharge.domain.policy import Block, MonthKey
from services.wallet.recharge.names import review_name
from services.wallet.recharge.store import months
from services.wallet.recharge.store.topics import TOPIC_REVIEW, TOPIC_SIGNAL

LOOK_EVERY = timedelta(minutes=30)
"""How often the sweep sees to it that an open review has its workflow."""
_DUE_AGAIN = timedelta(minutes=1)

_COLUMNS = """
org, name, wallet, month, number, state, cap, currency, charge_nanos, month_end, decided_by, reason, extra, request,
payload_hash, created_at, ended_at
"""
_GET = f"SELECT {_COLUMNS} FROM recharge_reviews WHERE org = $1 AND name = $2"
_OPEN_OF = f"SELECT {_COLUMNS} FROM recharge_reviews WHERE org = $1 AND wallet = $2 AND state = 'OPEN'"
# Everything under a subject lies between "{subject}/" and "{subject}0", since "0" follows "/".
_LIST = f"""
SELECT {_COLUMNS} FROM recharge_reviews
WHERE org = $1 AND wallet >= $2 || '/' AND wallet < $2 || '0' AND (NOT $3 OR state = 'OPEN')
  AND ($4::timestamptz IS NULL OR (created_at, name) < ($4, $5))
ORDER BY created_at DESC, name DESC LIMIT $6
"""
_NEW = """
INSERT INTO recharge_reviews
    (org, name, wallet, month, number, cap, currency, charge_nanos, month_end, created_at, check_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
_LAST = "SELECT coalesce(max(number), 0) FROM recharge_reviews WHERE org = $1 AND wallet = $2 AND month = $3"
_END = """
UPDATE recharge_reviews
SET state = $3, decided_by = $4, reason = $5, extra = $6, request = $7, payload_hash = $8, ended_at = $9
WHERE org = $1 AND name = $2 AND state = 'OPEN'
"""
_DUE = """
UPDATE recharge_reviews r
SET check_at = $1 + CASE WHEN r.month_end > $1 THEN least($3::interval, r.month_end - $1) ELSE $4 END
FROM (
    SELECT org, name FROM recharge_reviews WHERE state = 'OPEN' AND check_at <= $1
    ORDER BY check_at LIMIT $2 FOR UPDATE SKIP LOCKED
) due
WHERE r.org = due.org AND r.name = due.name
RETURNING r.org, r.name
"""
_WAITS = "SELECT EXISTS (SELECT FROM outbox WHERE org = $1 AND topic = $2 AND key = $3)"
_SPENT = """
SELECT coalesce(sum(amount_nanos), 0)::bigint FROM capture_lines
WHERE org = $1 AND wallet = $2 AND posted_at >= $3 AND posted_at < $4
"""


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """A review as stored.

    Attributes:
        state: OPEN, ALLOWED, KEPT_PAUSED or ENDED.
        cap: COUNT_CAP or AMOUNT_CAP.
        charge_nanos: What the recharge that was stopped would have charged.
        month_end: When the month ends, and with it the review.
        reason: Of the decision; what ended it where nobody decided.
        extra: What was allowed, by name; None: nothing.
        request: The request that decided it; None: none did.
    """

    org: str
    name: str
    wallet: str
    month: str
    number: int
    state: str
    cap: str
    currency: str
    charge_nanos: int
    month_end: datetime
    decided_by: str
    reason: str
    extra: str | None
    request: str | None
    payload_hash: bytes | None
    created_at: datetime
    ended_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Whether it waits for a decision."""
        return self.state == "OPEN"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a review ends.

    Attributes:
        state: ALLOWED, KEPT_PAUSED or ENDED.
        reason: For people.
        by: Who decided; empty: nobody.
        extra: What was allowed, by name.
        request: The request that decides, with the digest of what it asks.
    """

    state: str
    reason: str
    by: str = ""
    extra: str | None = None
    request: tuple[str, bytes] | None = None


ROOM_AGAIN = Ending("ENDED", "the caps leave room again")
MONTH_OVER = Ending("ENDED", "the month is over: a new one has begun, with its own caps")
CAPS_CHANGED = Ending("ENDED", "the policy was changed")


async def get(connection: asyncpg.Connection, org: str, name: str) -> ReviewRow | None:
    """One review; under the wallet's lock it does not change meanwhile."""
    row = await connection.fetchrow(_GET, org, name)
    return None if row is None else ReviewRow(*row)


async def page(
    connection: asyncpg.Connection,
    org: str,
    subject: str,
    after: tuple[datetime, str] | None,
    limit: int,
    *,
    only_open: bool,
) -> list[ReviewRow]:
    """Reviews of the wallets of a subject and of those below it, newest first."""
    before_at, before_name = after or (None, None)
    rows = await connection.fetch(_LIST, org, subject, only_open, before_at, before_name, limit)
    return [ReviewRow(*row) for row in rows]


async def start(
    connection: asyncpg.Connection,
    org: str,
    wallet: str,
    month: MonthKey,
    *,
    cap: Block,
    charge_nanos: int,
    currency: str,
    now: datetime,
) -> str:
    """A review of a wallet that a cap has stopped, under its lock: the one that is open, or a new one; its name."""
    known = await connection.fetchrow(_OPEN_OF, org, wallet)
    if known is not None:
        row = ReviewRow(*known)
        if row.month == month.key:
            return row.name
        await end(connection, row, MONTH_OVER, now)
    number: int = await connection.fetchval(_LAST, org, wallet, month.key) + 1
    name = review_name(wallet, month.key, number)
    check_at = min(now + LOOK_EVERY, month.end)
    await connection.execute(
        *(_NEW, org, name, wallet, month.key, number),
        *(cap.value, currency, charge_nanos, month.end, now, check_at),
    )
    new = await get(connection, org, name)
    assert new is not None, "it was stored just now"
    await outbox.put(connection, [OutboxRow(org, TOPIC_REVIEW, name, _start_message(new))])
    return name


async def end(connection: asyncpg.Connection, row: ReviewRow, ending: Ending, now: datetime) -> None:
    """Ends an open review, and tells its workflow."""
    request, digest = ending.request or (None, None)
    await connection.execute(
        *(_END, row.org, row.name, ending.state, ending.by, ending.reason),
        *(ending.extra, request, digest, now),
    )
    await outbox.put(connection, [OutboxRow(row.org, TOPIC_SIGNAL, row.name, ending.state.lower().encode())])


async def end_open(connection: asyncpg.Connection, org: str, wallet: str, ending: Ending, now: datetime) -> bool:
    """Ends the review of a wallet that is open, under its lock, since what is in force has changed.

    Whoever is stopped by a cap again is told again. Returns whether there was one.
    """
    row = await connection.fetchrow(_OPEN_OF, org, wallet)
    if row is None:
        return False
    await end(connection, ReviewRow(*row), ending, now)
    await months.forget_alerts(connection, org, wallet)
    return True


async def take_due(connection: asyncpg.Connection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """(org, name) of open reviews to look after; the next look is put off."""
    return [(row[0], row[1]) for row in await connection.fetch(_DUE, now, limit, LOOK_EVERY, _DUE_AGAIN)]


async def start_again(connection: asyncpg.Connection, row: ReviewRow) -> None:
    """Starts a review's workflow where it does not run, unless a row that will, or is parked, is there."""
    if not await connection.fetchval(_WAITS, row.org, TOPIC_REVIEW, row.name):
        await outbox.put(connection, [OutboxRow(row.org, TOPIC_REVIEW, row.name, _start_message(row))])


async def spent(connection: asyncpg.Connection, org: str, wallet: str, start_at: datetime, end_at: datetime) -> int:
    """What was captured, less what was given back, from one instant on and before the other, in nano-units."""
    found: int = await connection.fetchval(_SPENT, org, wallet, start_at, end_at)
    return found


def _start_message(row: ReviewRow) -> bytes:
    """What the outbox row that starts a workflow says of the review, for people."""
    about = {
        "wallet": row.wallet,
        "month": row.month,
        "cap": row.cap,
        "charge": money.format_nanos(row.charge_nanos, row.currency),
        "month_end": row.month_end.isoformat(),
    }
    return json.dumps(about).encode()
