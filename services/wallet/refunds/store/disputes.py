"""Disputes as stored, and how far Stripe's list of them was looked through."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

LISTED_MAX = 1_000
"""The most disputes of one wallet that are listed."""
_COLUMNS = """
d.org, d.id, d.wallet, d.payment_intent, c.source, d.currency, d.amount_nanos, d.status, d.reason, d.withdrawn_nanos,
d.restored_nanos, d.froze, d.freeze_done, d.opened_at
"""
_FROM = "FROM disputes d JOIN charges c USING (org, payment_intent)"
_GET = f"SELECT {_COLUMNS} {_FROM} WHERE d.org = $1 AND d.id = $2"
_LIST = f"""
SELECT {_COLUMNS} {_FROM} WHERE d.org = $1 AND d.wallet = $2 ORDER BY d.opened_at DESC, d.id DESC LIMIT {LISTED_MAX}
"""
_OF_CHARGES = f"SELECT {_COLUMNS} {_FROM} WHERE d.org = $1 AND d.payment_intent = ANY($2::text[]) ORDER BY d.id"
_PUT = """
INSERT INTO disputes (org, id, wallet, payment_intent, currency, amount_nanos, status, reason, opened_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_MOVE = """
UPDATE disputes SET status = $3, withdrawn_nanos = withdrawn_nanos + $4, restored_nanos = restored_nanos + $5,
    froze = $6, freeze_done = freeze_done OR $7, check_at = $8
WHERE org = $1 AND id = $2
"""
_OTHER_FREEZE = """
UPDATE disputes SET froze = TRUE WHERE org = $1 AND id = (
    SELECT id FROM disputes WHERE org = $1 AND wallet = $2 AND id <> $3
    AND (withdrawn_nanos > restored_nanos OR freeze_done AND restored_nanos = 0)
    AND (check_at IS NOT NULL OR froze) ORDER BY opened_at LIMIT 1
) RETURNING id
"""
_DUE = """
UPDATE disputes d SET check_at = clock_timestamp() + $2::interval
FROM (
    SELECT org, id FROM disputes WHERE check_at <= clock_timestamp() ORDER BY check_at LIMIT $1 FOR UPDATE SKIP LOCKED
) AS due
WHERE d.org = due.org AND d.id = due.id RETURNING d.payment_intent
"""
_LOOK_AGAIN = """
UPDATE disputes SET check_at = clock_timestamp()
WHERE org = $1 AND payment_intent = $2 AND withdrawn_nanos < amount_nanos
"""
_SWEEP = """
UPDATE dispute_sweep SET due_at = clock_timestamp() + $1::interval
WHERE due_at <= clock_timestamp() RETURNING through, clock_timestamp()
"""
_SWEPT = "UPDATE dispute_sweep SET through = greatest(through, $1)"
_AGAIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class DisputeRow:
    """A dispute; amounts in nano-units."""

    org: str
    id: str
    wallet: str
    payment_intent: str
    source: str
    currency: str
    amount: int
    status: str
    reason: str
    withdrawn: int
    restored: int
    froze: bool
    freeze_done: bool
    opened_at: datetime


async def get(connection: asyncpg.Connection, org: str, id_: str) -> DisputeRow | None:
    """One dispute."""
    row = await connection.fetchrow(_GET, org, id_)
    return DisputeRow(*row) if row else None


async def of_wallet(connection: asyncpg.Connection, org: str, wallet: str) -> list[DisputeRow]:
    """A wallet's disputes, newest first."""
    return [DisputeRow(*row) for row in await connection.fetch(_LIST, org, wallet)]


async def of_charges(connection: asyncpg.Connection, org: str, payment_intents: Sequence[str]) -> list[DisputeRow]:
    """The disputes about charges."""
    return [DisputeRow(*row) for row in await connection.fetch(_OF_CHARGES, org, list(payment_intents))]


async def put(connection: asyncpg.Connection, row: DisputeRow) -> None:
    """Writes a dispute that is new here; nothing was moved for it yet."""
    await connection.execute(
        _PUT,
        *(row.org, row.id, row.wallet, row.payment_intent, row.currency, row.amount, row.status, row.reason),
        row.opened_at,
    )


async def move(
    connection: asyncpg.Connection,
    row: DisputeRow,
    status: str,
    *,
    debit: int,
    credit: int,
    froze: bool,
    freeze_done: bool,
    check_at: datetime | None,
) -> None:
    """Stores where a dispute stands now and what was moved for it."""
    await connection.execute(_MOVE, row.org, row.id, status, debit, credit, froze, freeze_done, check_at)


async def hand_over_freeze(connection: asyncpg.Connection, row: DisputeRow) -> str | None:
    """Lets the freeze of an ended dispute go on for another one of the wallet; returns which, None: there is none."""
    found: str | None = await connection.fetchval(_OTHER_FREEZE, row.org, row.wallet, row.id)
    return found


async def look_again(connection: asyncpg.Connection, org: str, payment_intent: str) -> None:
    """Has disputes looked at that found less room in their charge than they need: there is more of it now."""
    await connection.execute(_LOOK_AGAIN, org, payment_intent)


async def take_due(connection: asyncpg.Connection, limit: int) -> list[str]:
    """The PaymentIntents of disputes to ask Stripe about; each comes back a little later should it fail."""
    return [row[0] for row in await connection.fetch(_DUE, limit, _AGAIN)]


async def take_sweep(connection: asyncpg.Connection, every: timedelta) -> tuple[datetime, datetime] | None:
    """Whose turn it is to look through Stripe's list: through when it was looked at, and now; None: another's."""
    row = await connection.fetchrow(_SWEEP, every)
    return (row[0], row[1]) if row else None


async def swept(connection: asyncpg.Connection, through: datetime) -> None:
    """Says that Stripe's list was looked through until then."""
    await connection.execute(_SWEPT, through)
