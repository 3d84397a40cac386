"""Reservations and what decides on their expiry, outside of batches."""

from typing import Final

import asyncpg

from services.budget.domain.model import Reservation
from services.budget.store.batch import reservation_of

_GET: Final = "SELECT * FROM reservations WHERE org = $1 AND id = $2"
_OVERDUE: Final = """
SELECT org, id FROM reservations WHERE state = 1 AND expires_us < $1 ORDER BY expires_us LIMIT $2
"""
_WATERMARK: Final = """
INSERT INTO relay_watermark AS w (relay, delivered_through_us, updated_us)
VALUES ($1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ON CONFLICT (relay) DO UPDATE
SET delivered_through_us = greatest(w.delivered_through_us, excluded.delivered_through_us),
    updated_us = excluded.updated_us
"""
_DELIVERED: Final = """
SELECT min(delivered_through_us) AS through_us, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us
FROM relay_watermark
"""


async def get(connection: asyncpg.Connection, org: str, id_: str) -> Reservation | None:
    """A reservation as it stands."""
    row = await connection.fetchrow(_GET, org, id_)
    return reservation_of(row) if row else None


async def overdue(connection: asyncpg.Connection, before_us: int, limit: int) -> list[tuple[str, str]]:
    """Open reservations whose time ran out before this instant, the oldest first."""
    return [(row["org"], row["id"]) for row in await connection.fetch(_OVERDUE, before_us, limit)]


async def set_delivered(connection: asyncpg.Connection, relay: str, through_us: int) -> None:
    """Notes that a relay has delivered all usage that began to be recorded before this instant; it never goes back."""
    await connection.execute(_WATERMARK, relay, through_us)


async def delivered(connection: asyncpg.Connection) -> tuple[int | None, int]:
    """Up to when every relay that was ever heard of has delivered; None: none was. And the time, in microseconds."""
    row = await connection.fetchrow(_DELIVERED)
    return row["through_us"], row["now_us"]
