"""Alerts where a change of a limit has made use reach a threshold."""

from collections.abc import Sequence

import asyncpg

from services.budget import standing
from services.budget.domain import alerts as rules
from services.budget.domain.model import Budget
from services.budget.store import alerts


async def alert(connection: asyncpg.Connection, changed: Sequence[Budget], now_us: int) -> None:
    """Writes what the running windows of these definitions have reached and what has not been written.

    The caller holds the organisation's row against decisions, so what is read here stays.
    """
    found = [
        crossing
        for one in await standing.of(connection, changed, now_us)
        for crossing in rules.all_reached(one.budget, one.key, one.spent, one.end_us)
    ]
    await alerts.add_crossings(connection, found, now_us)
