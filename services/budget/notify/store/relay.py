"""The outbox's events, taken by one replica at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget.store.alerts import TOPIC

# Two replicas would number what they took in the order of their commits.
_ALONE: Final = "SELECT pg_try_advisory_xact_lock(7405, 0)"
_TAKE: Final = """
SELECT org, id, key, payload FROM outbox WHERE topic = $1 AND parked_at IS NULL
ORDER BY due_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_DELETE: Final = """
DELETE FROM outbox o USING unnest($1::text[], $2::bigint[]) AS n (org, id) WHERE o.org = n.org AND o.id = n.id
"""
_PARK: Final = """
UPDATE outbox o SET parked_at = clock_timestamp(), last_error = 'it cannot be read'
FROM unnest($1::text[], $2::bigint[]) AS n (org, id) WHERE o.org = n.org AND o.id = n.id
"""


@dataclass(slots=True, frozen=True)
class Row:
    """An event in the outbox."""

    org: str
    id: int
    key: str
    payload: bytes


async def take(connection: asyncpg.Connection, limit: int) -> list[Row]:
    """The oldest events, in the order of writing; none while another replica is at it. In a transaction."""
    if not await connection.fetchval(_ALONE):
        return []
    # Whoever writes under one lock writes in the order of ids; the times of due rows only find them.
    return sorted((Row(*row) for row in await connection.fetch(_TAKE, TOPIC, limit)), key=lambda row: row.id)


async def delete(connection: asyncpg.Connection, rows: Sequence[Row]) -> None:
    """Removes events that are in their lanes."""
    await connection.execute(_DELETE, [row.org for row in rows], [row.id for row in rows])


async def park(connection: asyncpg.Connection, rows: Sequence[Row]) -> None:
    """Sets events aside that cannot be read, until someone looks."""
    if rows:
        await connection.execute(_PARK, [row.org for row in rows], [row.id for row in rows])
