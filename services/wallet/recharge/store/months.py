"""The months whose caps count: their rows, what is held in them, and what was allowed beyond."""

# ruff: noqa: S608 - statements are put together from constants of this module

from dataclasses import astuple, dataclass
from datetime import datetime

import asyncpg

from services.wallet.recharge.domain.policy import Block, Extras, MonthKey, Policy, Usage

_LOCK_MONTH = """
SELECT month, zone, last_number, count, amount_nanos FROM recharge_months
WHERE org = $1 AND wallet = $2 AND month = $3 FOR UPDATE
"""
_OPEN_MONTH = """
INSERT INTO recharge_months (org, wallet, month, zone) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
"""
_KEPT = """
SELECT zone, count, amount_nanos, cap_count, cap_amount_nanos, extra_count, extra_amount_nanos FROM recharge_months
WHERE org = $1 AND wallet = $2 AND month = $3
"""
_HOLD = """
UPDATE recharge_months
SET count = count + 1, amount_nanos = amount_nanos + $4, last_number = last_number + $5,
    cap_count = $6, cap_amount_nanos = $7, extra_count = $8, extra_amount_nanos = $9
WHERE org = $1 AND wallet = $2 AND month = $3
RETURNING last_number
"""
_RELEASE = """
UPDATE recharge_months SET count = count - $5, amount_nanos = amount_nanos - $4
WHERE org = $1 AND wallet = $2 AND month = $3
"""
# A cap can stop the first recharge of a month, which has no row then.
_ALERTED = {
    Block.COUNT_CAP: """
INSERT INTO recharge_months AS m (org, wallet, month, zone, count_alerted) VALUES ($1, $2, $3, $4, TRUE)
ON CONFLICT (org, wallet, month) DO UPDATE SET count_alerted = TRUE WHERE NOT m.count_alerted RETURNING 1
""",
    Block.AMOUNT_CAP: """
INSERT INTO recharge_months AS m (org, wallet, month, zone, amount_alerted) VALUES ($1, $2, $3, $4, TRUE)
ON CONFLICT (org, wallet, month) DO UPDATE SET amount_alerted = TRUE WHERE NOT m.amount_alerted RETURNING 1
""",
}
_FORGET_ALERTS = """
UPDATE recharge_months SET count_alerted = FALSE, amount_alerted = FALSE
WHERE org = $1 AND wallet = $2 AND (count_alerted OR amount_alerted)
"""
_EXTRA_COLUMNS = """
org, name, wallet, month, number, extra_count, extra_nanos, used_count, used_nanos, until_at, reason, approval,
allowed_by, request, payload_hash, created_at
"""
_ADD_EXTRA = f"""
INSERT INTO recharge_extras ({_EXTRA_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""
_LAST_EXTRA = """
SELECT coalesce(max(number), 0) FROM recharge_extras WHERE org = $1 AND wallet = $2 AND month = $3
"""
_EXTRA_OF = f"SELECT {_EXTRA_COLUMNS} FROM recharge_extras WHERE org = $1 AND wallet = $2 AND request = $3"
_EXTRAS = f"""
SELECT {_EXTRA_COLUMNS} FROM recharge_extras
WHERE org = $1 AND wallet = $2 AND (month = $3 OR month < $3 AND until_at > $4) ORDER BY created_at, number LIMIT $5
"""


@dataclass(frozen=True, slots=True)
class ExtraRow:
    """An extra as stored: so many recharges, and so much money in nano-units, more.

    Attributes:
        used_count: What counted in the month when it was allowed.
        request: The request's id, or the review that it was allowed in.
    """

    org: str
    name: str
    wallet: str
    month: str
    number: int
    extra_count: int
    extra_nanos: int
    used_count: int
    used_nanos: int
    until_at: datetime
    reason: str
    approval: str
    allowed_by: str
    request: str
    payload_hash: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeptMonth:
    """A month as stored.

    Attributes:
        zone: That it was opened in.
        cap_count: In force when something was last let in, as `cap_nanos`; 0: nothing ever was.
        extras: In force beyond the caps then.
    """

    zone: str
    usage: Usage
    cap_count: int
    cap_nanos: int | None
    extras: Extras


async def kept(connection: asyncpg.Connection, org: str, wallet: str, month: str) -> KeptMonth:
    """A month that has a row, as the month of a review has."""
    row = await connection.fetchrow(_KEPT, org, wallet, month)
    zone, count, nanos, cap_count, cap_nanos, extra_count, extra_nanos = row
    return KeptMonth(zone, Usage(count, nanos), cap_count, cap_nanos, Extras(extra_count, extra_nanos))


async def lock_month(connection: asyncpg.Connection, org: str, wallet: str, month: MonthKey) -> None:
    """Locks the row of a month, opening it where it is new."""
    await connection.execute(_OPEN_MONTH, org, wallet, month.key, month.zone)
    await connection.fetchrow(_LOCK_MONTH, org, wallet, month.key)


async def hold(
    connection: asyncpg.Connection,
    org: str,
    wallet: str,
    month: str,
    amount_nanos: int,
    *,
    policy: Policy,
    extras: Extras,
    new: bool,
) -> int:
    """Counts one recharge in a locked month under the caps and extras in force; returns the month's last number.

    A recharge that would pass a cap is refused by the table itself.
    """
    number: int = await connection.fetchval(
        _HOLD,
        org,
        wallet,
        month,
        amount_nanos,
        int(new),
        policy.max_count,
        policy.max_amount_nanos,
        extras.count,
        extras.amount_nanos,
    )
    return number


async def release(
    connection: asyncpg.Connection, org: str, wallet: str, month: str, amount_nanos: int, *, count: int = 1
) -> None:
    """Gives back what a recharge held in a month."""
    await connection.execute(_RELEASE, org, wallet, month, amount_nanos, count)


async def alerted(connection: asyncpg.Connection, org: str, wallet: str, month: MonthKey, cap: Block) -> bool:
    """Notes that somebody is told of a cap; returns whether nobody was yet."""
    return await connection.fetchval(_ALERTED[cap], org, wallet, month.key, month.zone) is not None


async def forget_alerts(connection: asyncpg.Connection, org: str, wallet: str) -> None:
    """What is in force has changed: whoever is stopped by a cap again is told again."""
    await connection.execute(_FORGET_ALERTS, org, wallet)


async def next_extra(connection: asyncpg.Connection, org: str, wallet: str, month: str) -> int:
    """The number of a new extra of a month, under the wallet's lock."""
    last: int = await connection.fetchval(_LAST_EXTRA, org, wallet, month)
    return last + 1


async def add_extra(connection: asyncpg.Connection, row: ExtraRow) -> None:
    """Stores what is allowed."""
    await connection.execute(_ADD_EXTRA, *astuple(row))


async def extra_of(connection: asyncpg.Connection, org: str, wallet: str, request: str) -> ExtraRow | None:
    """What a request allowed, if it did."""
    row = await connection.fetchrow(_EXTRA_OF, org, wallet, request)
    return None if row is None else ExtraRow(*row)


async def extras(
    connection: asyncpg.Connection, org: str, wallet: str, month: str, now: datetime, *, limit: int
) -> list[ExtraRow]:
    """What was allowed in a month, and what of the month before lasts, oldest first."""
    return [ExtraRow(*row) for row in await connection.fetch(_EXTRAS, org, wallet, month, now, limit)]
