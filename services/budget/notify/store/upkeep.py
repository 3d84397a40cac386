"""What the sweep looks for: lanes without progress, and what may be forgotten."""

from typing import Final

import asyncpg

from services.budget.domain.subscriptions import Subscription
from services.budget.notify.domain.lanes import Channel
from services.budget.notify.store.lanes import LaneKey
from services.budget.notify.wakes import TOPIC
from services.budget.store import subscriptions

_ALONE: Final = "SELECT pg_try_advisory_xact_lock(7405, 1)"
# Whoever waits for a word of Temporal has a row in the outbox already; another would not help, unless it is parked.
_STUCK: Final = """
SELECT l.org, l.subscription_no, l.channel, s.subject, s.subscription_id FROM delivery_lanes l
JOIN subscriptions s ON s.org = l.org AND s.no = l.subscription_no
WHERE l.due_us < $1 AND l.held_until_us < $2 AND coalesce(l.woken_us, 0) < $1 AND NOT s.disabled
    AND NOT EXISTS (
        SELECT FROM outbox o
        WHERE o.topic = $4 AND o.parked_at IS NULL AND o.org = l.org AND o.key = 'notify/' || s.subject
            || '/subscriptions/' || s.subscription_id || CASE l.channel WHEN 1 THEN '/webhook' ELSE '/mail' END)
ORDER BY l.due_us LIMIT $3
"""
_STALE: Final = """
SELECT org, subscription_no, channel FROM delivery_lanes WHERE due_us < $1 ORDER BY due_us LIMIT $2
"""
_FORGET: Final = """
WITH old AS (
    SELECT org, subscription_no, channel, number FROM deliveries WHERE closed_us < $1 ORDER BY closed_us LIMIT $2
), gone AS (
    DELETE FROM deliveries d USING old
    WHERE d.org = old.org AND d.subscription_no = old.subscription_no AND d.channel = old.channel
        AND d.number = old.number AND d.closed_us < $1
    RETURNING 1
)
SELECT count(*) FROM gone
"""
_ORPHANS: Final = """
SELECT l.org, l.subscription_no, l.channel FROM delivery_lanes l WHERE NOT EXISTS (
    SELECT FROM subscriptions s WHERE s.org = l.org AND s.no = l.subscription_no) LIMIT $1
"""
_FORGET_OF: Final = """
WITH part AS (
    SELECT number FROM deliveries WHERE org = $1 AND subscription_no = $2 AND channel = $3 ORDER BY number LIMIT $4
), gone AS (
    DELETE FROM deliveries d USING part
    WHERE d.org = $1 AND d.subscription_no = $2 AND d.channel = $3 AND d.number = part.number RETURNING 1
)
SELECT count(*) FROM gone
"""
_FORGET_LANE: Final = "DELETE FROM delivery_lanes WHERE org = $1 AND subscription_no = $2 AND channel = $3"


async def begin(connection: asyncpg.Connection) -> bool:
    """Whether no other replica is at it. In a transaction."""
    found: bool = await connection.fetchval(_ALONE)
    return found


async def stuck(
    connection: asyncpg.Connection, before_us: int, now_us: int, limit: int
) -> list[tuple[LaneKey, Subscription]]:
    """Lanes in which something could have been sent since then, and nobody is at it, with their subscriptions."""
    rows = await connection.fetch(_STUCK, before_us, now_us, limit, TOPIC)
    found = []
    for row in rows:
        to = await subscriptions.find(connection, row["org"], row["subject"], row["subscription_id"])
        if to is not None:
            found.append(((row["org"], row["subscription_no"], Channel(row["channel"])), to))
    return [((key[0], key[1], int(key[2])), to) for key, to in found]


async def stale(connection: asyncpg.Connection, before_us: int, limit: int) -> list[LaneKey]:
    """Lanes whose first delivery has been due since before then."""
    return [(row[0], row[1], row[2]) for row in await connection.fetch(_STALE, before_us, limit)]


async def forget(connection: asyncpg.Connection, before_us: int, limit: int) -> int:
    """Forgets deliveries that were closed before; how many."""
    count: int = await connection.fetchval(_FORGET, before_us, limit)
    return count


async def forget_orphans(connection: asyncpg.Connection, limit: int) -> int:
    """Forgets deliveries of subscriptions that were deleted, and their lanes at last; how many."""
    gone = 0
    for row in await connection.fetch(_ORPHANS, limit):
        if gone >= limit:
            break
        count: int = await connection.fetchval(_FORGET_OF, *row, limit - gone)
        gone += count
        if gone < limit:
            await connection.execute(_FORGET_LANE, *row)
    return gone
