"""The SQL of parked usage: what the budget service refused so often that it waits for an operator."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from services.metering.store.recording import TOPIC

_PAGE: Final = """
SELECT o.org, o.id AS row_id, coalesce(e.source, '') AS source, coalesce(e.id, '') AS id, o.tries, o.last_error,
       o.parked_at
FROM outbox o
LEFT JOIN usage_events e ON e.org = o.org AND e.occurred_at = o.event_times[1] AND e.seq = o.event_seqs[1]
WHERE o.topic = $1 AND o.parked_at IS NOT NULL AND ($2::text IS NULL OR o.org = $2) AND (o.org, o.id) > ($3, $4)
ORDER BY o.org, o.id LIMIT $5
"""
# The error stays: until it is delivered, the row holds its organisation back.
_REQUEUE: Final = """
UPDATE outbox SET parked_at = NULL, tries = 0, due_at = clock_timestamp()
WHERE topic = $1 AND parked_at IS NOT NULL AND ($2::text IS NULL OR org = $2)
"""


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked event; `row_id` is its place in the outbox."""

    org: str
    row_id: int
    source: str
    id: str
    tries: int
    last_error: str
    parked_at: datetime


async def page(pool: asyncpg.Pool, org: str | None, after: tuple[str, int], limit: int) -> Sequence[Parked]:
    """The next parked events after a row; of all organisations where none is given."""
    return [Parked(*row) for row in await pool.fetch(_PAGE, TOPIC, org, *after, limit)]


async def requeue(pool: asyncpg.Pool, org: str | None) -> int:
    """Sends parked events again; returns how many."""
    status: str = await pool.execute(_REQUEUE, TOPIC, org)
    return int(status.rpartition(" ")[2])
