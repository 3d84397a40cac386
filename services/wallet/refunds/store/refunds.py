"""Refunds as stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from services.wallet.refunds.domain.rules import RefundState

_COLUMNS = """
r.org, r.name, r.wallet, r.payment_intent, c.source, r.state, r.currency, r.amount_nanos, r.amount_minor, r.reason,
r.key_number, r.key_since, coalesce(r.stripe_refund, ''), r.failure_reason, r.version, r.created_at, r.ended_at
"""
_FROM = "FROM refunds r JOIN charges c USING (org, payment_intent)"
_GET = f"SELECT {_COLUMNS} {_FROM} WHERE r.org = $1 AND r.name = $2"
_PAGE = f"""
SELECT {_COLUMNS} {_FROM}
WHERE r.org = $1 AND r.wallet = $2 AND ($3::timestamptz IS NULL OR (r.created_at, r.name) < ($3, $4))
ORDER BY r.created_at DESC, r.name DESC LIMIT $5
"""
_OF_CHARGES = f"""
SELECT {_COLUMNS} {_FROM} WHERE r.org = $1 AND r.payment_intent = ANY($2::text[]) ORDER BY r.created_at, r.name
"""
_ANY_OPEN = """
SELECT EXISTS (SELECT FROM refunds WHERE org = $1 AND payment_intent = $2 AND check_at IS NOT NULL)
"""
_PUT = """
INSERT INTO refunds
    (org, name, wallet, payment_intent, currency, amount_nanos, amount_minor, reason, key_since, created_at, check_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)
"""
_MOVE = """
UPDATE refunds SET state = $3, stripe_refund = nullif($4, ''), failure_reason = $5, check_at = $6,
    version = version + 1, ended_at = CASE WHEN $3 = 'PENDING' THEN NULL ELSE coalesce(ended_at, $7) END
WHERE org = $1 AND name = $2
"""
_NEW_KEY = """
UPDATE refunds SET key_number = key_number + 1, key_since = $3, version = version + 1 WHERE org = $1 AND name = $2
"""
_DUE = """
UPDATE refunds r SET check_at = clock_timestamp() + $2::interval
FROM (
    SELECT org, name FROM refunds WHERE check_at <= clock_timestamp() ORDER BY check_at LIMIT $1 FOR UPDATE SKIP LOCKED
) AS due
WHERE r.org = due.org AND r.name = due.name RETURNING r.org, r.name
"""
_KNOWN = "SELECT stripe_refund FROM refunds WHERE stripe_refund = ANY($1::text[])"
_SWEEP = """
UPDATE refund_sweep SET due_at = clock_timestamp() + $1::interval
WHERE due_at <= clock_timestamp() RETURNING through, clock_timestamp()
"""
_SWEPT = "UPDATE refund_sweep SET through = greatest(through, $1)"
_AGAIN = timedelta(minutes=1)
_NO_ROOM = """
INSERT INTO refunds_without_room (org, stripe_refund, payment_intent, seen_at, check_at)
VALUES ($1, $2, $3, $4, $4::timestamptz + $5::interval) ON CONFLICT DO NOTHING RETURNING 1
"""
_ROOM = "UPDATE refunds_without_room SET taken_at = $3 WHERE org = $1 AND stripe_refund = $2 AND taken_at IS NULL"
_DUE_WITHOUT_ROOM = """
UPDATE refunds_without_room r SET check_at = clock_timestamp() + $2::interval
FROM (
    SELECT org, stripe_refund FROM refunds_without_room
    WHERE taken_at IS NULL AND check_at <= clock_timestamp() AND seen_at > clock_timestamp() - $3::interval
    ORDER BY check_at LIMIT $1 FOR UPDATE SKIP LOCKED
) AS due
WHERE r.org = due.org AND r.stripe_refund = due.stripe_refund RETURNING r.payment_intent
"""
_ROOM_AGAIN = timedelta(hours=1)
_ROOM_PATIENCE = timedelta(days=35)


@dataclass(frozen=True, slots=True)
class RefundRow:
    """A refund; the amount in nano-units."""

    org: str
    name: str
    wallet: str
    payment_intent: str
    source: str
    state: RefundState
    currency: str
    amount: int
    amount_minor: int
    reason: str
    key_number: int
    key_since: datetime
    stripe_refund: str
    failure_reason: str
    version: int
    created_at: datetime
    ended_at: datetime | None


def _row(row: asyncpg.Record) -> RefundRow:
    values = list(row)
    values[5] = RefundState(values[5])
    return RefundRow(*values)


async def get(connection: asyncpg.Connection, org: str, name: str) -> RefundRow | None:
    """One refund."""
    row = await connection.fetchrow(_GET, org, name)
    return _row(row) if row else None


async def page(
    connection: asyncpg.Connection, org: str, wallet: str, after: tuple[datetime, str] | None, limit: int
) -> list[RefundRow]:
    """A wallet's refunds, newest first, after the one of this creation time and name."""
    before_at, before_name = after or (None, None)
    return [_row(row) for row in await connection.fetch(_PAGE, org, wallet, before_at, before_name, limit)]


async def of_charges(connection: asyncpg.Connection, org: str, payment_intents: Sequence[str]) -> list[RefundRow]:
    """The refunds of charges, the oldest first."""
    return [_row(row) for row in await connection.fetch(_OF_CHARGES, org, list(payment_intents))]


async def any_open(connection: asyncpg.Connection, org: str, payment_intent: str) -> bool:
    """Whether a refund of a charge is pending or may still come back from the bank."""
    found: bool = await connection.fetchval(_ANY_OPEN, org, payment_intent)
    return found


async def put(connection: asyncpg.Connection, row: RefundRow, check_at: datetime) -> None:
    """Writes a new refund."""
    await connection.execute(
        _PUT,
        *(row.org, row.name, row.wallet, row.payment_intent, row.currency, row.amount, row.amount_minor, row.reason),
        *(row.created_at, check_at),
    )


async def move(
    connection: asyncpg.Connection,
    row: RefundRow,
    state: RefundState,
    now: datetime,
    *,
    stripe_refund: str,
    failure: str,
    check_at: datetime | None,
) -> None:
    """Stores where a refund stands now."""
    await connection.execute(_MOVE, row.org, row.name, state.value, stripe_refund, failure[:500], check_at, now)


async def new_key(connection: asyncpg.Connection, row: RefundRow, now: datetime) -> None:
    """Takes the next idempotency key into use, once it is certain that the last one made nothing."""
    await connection.execute(_NEW_KEY, row.org, row.name, now)


async def take_due(connection: asyncpg.Connection, limit: int) -> list[tuple[str, str]]:
    """(org, name) of refunds to ask Stripe about; whoever takes one may die, so each comes back a little later."""
    return [(row[0], row[1]) for row in await connection.fetch(_DUE, limit, _AGAIN)]


async def known(connection: asyncpg.Connection, stripe_refunds: Sequence[str]) -> set[str]:
    """Which of these refunds, as Stripe names them, are stored, whosever they are."""
    return {row[0] for row in await connection.fetch(_KNOWN, list(stripe_refunds))}


async def take_sweep(connection: asyncpg.Connection, every: timedelta) -> tuple[datetime, datetime] | None:
    """Whose turn it is to look through Stripe's list: through when it was looked at, and now; None: another's."""
    row = await connection.fetchrow(_SWEEP, every)
    return (row[0], row[1]) if row else None


async def swept(connection: asyncpg.Connection, through: datetime) -> None:
    """Says that Stripe's list was looked through until then."""
    await connection.execute(_SWEPT, through)


async def no_room(
    connection: asyncpg.Connection, org: str, stripe_refund: str, payment_intent: str, now: datetime
) -> bool:
    """Notes that a refund made at Stripe does not fit its charge; returns whether that is new."""
    return await connection.fetchval(_NO_ROOM, org, stripe_refund, payment_intent, now, _ROOM_AGAIN) is not None


async def has_room(connection: asyncpg.Connection, org: str, stripe_refund: str, now: datetime) -> None:
    """A refund that may not have fitted before was taken in."""
    await connection.execute(_ROOM, org, stripe_refund, now)


async def take_without_room(connection: asyncpg.Connection, limit: int) -> list[str]:
    """PaymentIntents with a refund that did not fit, to be looked at again: hourly, for 35 days."""
    rows = await connection.fetch(_DUE_WITHOUT_ROOM, limit, _ROOM_AGAIN, _ROOM_PATIENCE)
    return sorted({row[0] for row in rows})
