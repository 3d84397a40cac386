"""Rows of months that people were told of, and what their reports read."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget.domain.budgets import Budget
from services.budget.months.domain import CALENDAR_KINDS, Month
from services.budget.store import budgets
from services.budget.store.alerts import TOPIC
from services.kit import outbox
from services.kit.outbox import OutboxRow

_KINDS: Final = [kind.value for kind in CALENDAR_KINDS]
_ORGS: Final = "SELECT org FROM org_policy WHERE org > $1 ORDER BY org LIMIT $2"
_ZONES: Final = """
SELECT org, time_zone, min(effective_from_us) AS since_us FROM budgets
WHERE org = ANY($1::text[]) AND window_kind = ANY($2::text[]) AND deleted_us IS NULL
GROUP BY org, time_zone ORDER BY org, time_zone
"""
_CLOSED: Final = """
SELECT c.org, c.time_zone, c.month FROM unnest($1::text[], $2::text[], $3::text[]) AS k (org, time_zone, month)
JOIN month_closes c ON c.org = k.org AND c.time_zone = k.time_zone AND c.month = k.month
"""
_CLOSED_AT: Final = "SELECT closed_us FROM month_closes WHERE org = $1 AND time_zone = $2 AND month = $3"
_CLOSE: Final = """
INSERT INTO month_closes (org, time_zone, month, closed_us) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
RETURNING closed_us
"""
# A pause that its budget's window ended: nobody had ended it before.
_RESUMED: Final = """
SELECT DISTINCT budget_no, window_key FROM pauses
WHERE org = $1 AND budget_no = ANY($2::bigint[]) AND ended_us IS NULL AND until_us > $3 AND until_us <= $4
"""

Key = tuple[str, str, str]
"""Org's bare id, zone, month."""


async def orgs(connection: asyncpg.Connection, after: str, limit: int) -> list[str]:
    """Organisations by id, from behind `after`."""
    return [row[0] for row in await connection.fetch(_ORGS, after, limit)]


async def zones(connection: asyncpg.Connection, of: Sequence[str]) -> list[tuple[str, str, int]]:
    """Org, zone and since when, of these organisations' budgets by month or quarter."""
    return [(org, zone, since_us) for org, zone, since_us in await connection.fetch(_ZONES, of, _KINDS)]


async def closed(connection: asyncpg.Connection, keys: Sequence[Key]) -> set[Key]:
    """Those of the months that people were told of."""
    rows = await connection.fetch(_CLOSED, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys])
    return {(org, zone, month) for org, zone, month in rows}


async def closed_at(connection: asyncpg.Connection, month: Month) -> int | None:
    """When people were told of it; None: not yet."""
    found: int | None = await connection.fetchval(_CLOSED_AT, month.org, month.zone, month.label)
    return found


async def close(connection: asyncpg.Connection, month: Month, payload: bytes | None, now_us: int) -> bool:
    """Notes that the month is closed and writes its event, if any, to the outbox; False: it was closed before."""
    if await connection.fetchval(_CLOSE, month.org, month.zone, month.label, now_us) is None:
        return False
    if payload is not None:
        await outbox.put(connection, [OutboxRow(month.org, TOPIC, month.key, payload)])
    return True


async def budgets_after(connection: asyncpg.Connection, month: Month, after_no: int, limit: int) -> list[Budget]:
    """Definitions by month or quarter of the zone that counted in the month, by number from behind `after_no`."""
    return await budgets.of_zone(
        connection, month.org, (month.zone, _KINDS), (month.start_us, month.end_us), after_no=after_no, limit=limit
    )


async def resumed(connection: asyncpg.Connection, month: Month, numbers: Sequence[int]) -> set[tuple[int, int]]:
    """Budget and window of pauses that the end of a window ended in the month."""
    rows = await connection.fetch(_RESUMED, month.org, numbers, month.start_us, month.end_us)
    return {(no, key) for no, key in rows}
