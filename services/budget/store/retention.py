"""Forgets what is old: applied usage, whose sums stay, closed reservations, and ids of extensions."""

from collections.abc import Sequence
from typing import Final

import asyncpg

# One replica at a time: several would only wait for each other's rows.
_ALONE: Final = "SELECT pg_try_advisory_xact_lock(7404, 0)"
_EVENTS: Final = """
SELECT org, source, id FROM applied_usage WHERE rated AND corrects_id IS NULL AND applied_us < $1
ORDER BY applied_us LIMIT $2
"""
# A correction stays while its event does: the two are counted together.
_CORRECTIONS: Final = """
SELECT c.org, c.source, c.id FROM applied_usage c
WHERE c.corrects_id IS NOT NULL AND c.applied_us < $1 AND NOT EXISTS (
    SELECT FROM applied_usage e WHERE e.org = c.org AND e.source = c.corrects_source AND e.id = c.corrects_id)
ORDER BY c.applied_us LIMIT $2
"""
_KEYS: Final = """
SELECT u.org, u.source, u.id FROM unnest($1::text[], $2::text[], $3::text[]) AS k (org, source, id)
JOIN applied_usage u ON u.org = k.org AND u.source = k.source AND u.id = k.id
WHERE u.rated AND u.corrects_id IS NULL
"""
_TRIM: Final = """
WITH old AS (SELECT * FROM ({keys}) AS k),
gone AS (
    DELETE FROM applied_usage u USING old WHERE u.org = old.org AND u.source = old.source AND u.id = old.id
    RETURNING u.*
), windows AS (
    INSERT INTO usage_trimmed AS t (org, budget_no, window_key, amount)
    SELECT org, effects[1 + 3 * i], effects[2 + 3 * i], sum(effects[3 + 3 * i])
    FROM gone, generate_series(0, cardinality(effects) / 3 - 1) AS i GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (org, budget_no, window_key) DO UPDATE SET amount = t.amount + excluded.amount
), totals AS (
    INSERT INTO usage_trimmed_totals AS t (org, wallet, currency, events, cost_nanos, drawn_nanos, reversal_nanos)
    SELECT org, coalesce(wallet, ''), currency, count(*) FILTER (WHERE corrects_id IS NULL), sum(cost_nanos),
        sum(greatest(drawn_nanos, 0)), sum(greatest(-drawn_nanos, 0))
    FROM gone GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (org, wallet, currency) DO UPDATE SET events = t.events + excluded.events,
        cost_nanos = t.cost_nanos + excluded.cost_nanos, drawn_nanos = t.drawn_nanos + excluded.drawn_nanos,
        reversal_nanos = t.reversal_nanos + excluded.reversal_nanos
)
SELECT count(*) FROM gone
"""
_RESERVATIONS: Final = """
WITH old AS (SELECT org, id FROM reservations WHERE closed_us < $1 AND state <> 5 ORDER BY closed_us LIMIT $2),
gone AS (
    DELETE FROM reservations r USING old
    WHERE r.org = old.org AND r.id = old.id AND r.closed_us IS NOT NULL AND r.state <> 5 RETURNING 1
)
SELECT count(*) FROM gone
"""
_EXTENSIONS: Final = """
WITH old AS (
    SELECT org, request_id FROM reservation_extensions WHERE extended_us < $1 ORDER BY extended_us LIMIT $2
), gone AS (
    DELETE FROM reservation_extensions e USING old WHERE e.org = old.org AND e.request_id = old.request_id RETURNING 1
)
SELECT count(*) FROM gone
"""
_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


async def begin(connection: asyncpg.Connection) -> int | None:
    """The time in microseconds; None: another replica is at it. In a transaction."""
    if not await connection.fetchval(_ALONE):
        return None
    now_us: int = await connection.fetchval(_NOW)
    return now_us


async def trim_events(connection: asyncpg.Connection, before_us: int, limit: int) -> int:
    """Forgets events with a price that were applied before; how many."""
    return await _count(connection, _TRIM.format(keys=_EVENTS), before_us, limit)


async def trim_corrections(connection: asyncpg.Connection, before_us: int, limit: int) -> int:
    """Forgets corrections that were applied before and whose events are forgotten; how many."""
    return await _count(connection, _TRIM.format(keys=_CORRECTIONS), before_us, limit)


async def trim_keys(connection: asyncpg.Connection, keys: Sequence[tuple[str, str, str]]) -> int:
    """Forgets these events, where they have a price; how many."""
    return await _count(connection, _TRIM.format(keys=_KEYS), *zip(*keys, strict=True))


async def forget_reservations(connection: asyncpg.Connection, before_us: int, limit: int) -> int:
    """Forgets reservations that were closed before; how many. What is charged stays, for usage to correct."""
    return await _count(connection, _RESERVATIONS, before_us, limit)


async def forget_extensions(connection: asyncpg.Connection, before_us: int, limit: int) -> int:
    """Forgets ids of extensions that were made before; how many."""
    return await _count(connection, _EXTENSIONS, before_us, limit)


async def _count(connection: asyncpg.Connection, statement: str, *values: object) -> int:
    count: int = await connection.fetchval(statement, *values)
    return count
