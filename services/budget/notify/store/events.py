"""Events of other services, each once by its key."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.notify.domain.events import Event
from services.budget.store.alerts import TOPIC
from services.kit import outbox
from services.kit.outbox import OutboxRow

_ADD: Final = """
INSERT INTO published_events (org, key, published_us)
SELECT org, key, $3 FROM unnest($1::text[], $2::text[]) AS n (org, key) ORDER BY 1, 2
ON CONFLICT DO NOTHING RETURNING org, key
"""
_FORGET: Final = """
WITH old AS (SELECT org, key FROM published_events WHERE published_us < $1 ORDER BY published_us LIMIT $2),
gone AS (DELETE FROM published_events p USING old WHERE p.org = old.org AND p.key = old.key RETURNING 1)
SELECT count(*) FROM gone
"""


async def add(connection: asyncpg.Connection, events: Sequence[Event], now_us: int) -> set[tuple[str, str]]:
    """Writes those with new keys, and an outbox row for each, in their order; returns the new ones' org and key."""
    rows = await connection.fetch(_ADD, [one.org for one in events], [one.key for one in events], now_us)
    new = {(row["org"], row["key"]) for row in rows}
    # Of two with one key in a request, the first is told.
    first = {(one.org, one.key): one for one in reversed(events)}
    await outbox.put(
        connection,
        [
            OutboxRow(one.org, TOPIC, one.key, one.payload(now_us))
            for one in events
            if (one.org, one.key) in new and first[(one.org, one.key)] is one
        ],
    )
    return new


async def forget(connection: asyncpg.Connection, before_us: int, limit: int) -> int:
    """Forgets keys that were stored before; how many."""
    count: int = await connection.fetchval(_FORGET, before_us, limit)
    return count
