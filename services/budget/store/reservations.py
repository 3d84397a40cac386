"""Reservations and what decides on their expiry, outside of batches."""

from collections.abc import Mapping
from typing import Final

import asyncpg

from services.budget.domain.model import Reservation
from services.budget.store.batch import reservation_of

_GET: Final = "SELECT * FROM reservations WHERE org = $1 AND id = $2"
_OVERDUE: Final = """
SELECT r.org, r.id, r.expires_us < coalesce(least($1, h.through_us - $3), $1) AS proved
FROM reservations r LEFT JOIN (
    SELECT org, min(delivered_through_us) AS through_us FROM relay_held_back GROUP BY org
) AS h ON h.org = r.org
WHERE r.state = 1 AND r.expires_us < greatest($1, $2)
    AND r.expires_us < greatest(coalesce(least($1, h.through_us - $3), $1), $2)
ORDER BY r.expires_us LIMIT $4
"""
_WATERMARK: Final = """
INSERT INTO relay_watermark AS w (relay, delivered_through_us, updated_us)
VALUES ($1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ON CONFLICT (relay) DO UPDATE
SET delivered_through_us = greatest(w.delivered_through_us, excluded.delivered_through_us),
    updated_us = excluded.updated_us
RETURNING w.delivered_through_us
"""
_FREE: Final = "DELETE FROM relay_held_back WHERE relay = $1 AND org <> ALL($2::text[])"
_HOLD_BACK: Final = """
INSERT INTO relay_held_back (relay, org, delivered_through_us)
SELECT $1, * FROM unnest($2::text[], $3::bigint[]) AS n (org, through_us) ORDER BY org
ON CONFLICT (org, relay) DO UPDATE SET delivered_through_us = excluded.delivered_through_us
"""
_DELIVERED: Final = """
SELECT min(delivered_through_us) AS through_us, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us
FROM relay_watermark
"""


async def get(connection: asyncpg.Connection, org: str, id_: str) -> Reservation | None:
    """A reservation as it stands."""
    row = await connection.fetchrow(_GET, org, id_)
    return reservation_of(row) if row else None


async def overdue(
    connection: asyncpg.Connection, delivered_us: int, forced_us: int, grace_us: int, limit: int
) -> list[tuple[str, str, bool]]:
    """Open reservations to expire, the oldest first: org, id, and whether all usage that could settle it is applied.

    Args:
        connection: A connection.
        delivered_us: What ran out before it is proved, but in organisations that are held back.
        forced_us: What ran out before it has waited long enough, proved or not.
        grace_us: How long an organisation that is held back waits beyond its own instant.
        limit: The most.
    """
    return [tuple(row) for row in await connection.fetch(_OVERDUE, delivered_us, forced_us, grace_us, limit)]


async def set_delivered(
    connection: asyncpg.Connection, relay: str, through_us: int, held_back: Mapping[str, int]
) -> None:
    """Notes that a relay has delivered all usage that began to be recorded before this instant; it never goes back.

    Args:
        connection: In a transaction.
        relay: Whose word it is.
        through_us: The instant.
        held_back: Organisations with usage that was not delivered, and their own instants. They replace those of an
            earlier word; a word that is older than the last one changes nothing.
    """
    if await connection.fetchval(_WATERMARK, relay, through_us) != through_us:
        return
    await connection.execute(_FREE, relay, list(held_back))
    if held_back:
        await connection.execute(_HOLD_BACK, relay, list(held_back), list(held_back.values()))


async def delivered(connection: asyncpg.Connection) -> tuple[int | None, int]:
    """Up to when every relay that was ever heard of has delivered; None: none was. And the time, in microseconds."""
    row = await connection.fetchrow(_DELIVERED)
    return row["through_us"], row["now_us"]
