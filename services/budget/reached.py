"""What follows from a changed limit: alerts where use has reached a threshold, pauses that begin, pauses that end."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import asyncpg

from services.budget import standing
from services.budget.domain import alerts as rules
from services.budget.domain.budgets import Budget, OnExceed
from services.budget.domain.decide import Batch
from services.budget.domain.exceed import is_lifted, note_use
from services.budget.domain.model import Counter
from services.budget.domain.pauses import Pause
from services.budget.standing import Standing
from services.budget.store import alerts, pauses
from services.budget.store import batch as store


async def limits(connection: asyncpg.Connection, found: Sequence[Budget], now_us: int) -> dict[str, int]:
    """The limits in force of these definitions' running windows, by the budgets' names."""
    return {one.budget.name: one.budget.limit for one in await standing.of(connection, found, now_us)}


async def follow(
    connection: asyncpg.Connection, before: Mapping[str, int], changed: Sequence[Budget], now_us: int, *, by: str = ""
) -> None:
    """Alerts of what the running windows of these definitions have reached, pauses where they must, and ends pauses.

    The caller holds the organisation's row against decisions, so what is read here stays.

    Args:
        connection: In the transaction of the change.
        before: The limits in force before the change, as `limits` has them.
        changed: The definitions that decide now, of one organisation.
        now_us: The time.
        by: Who changed them.
    """
    running = await standing.of(connection, changed, now_us)
    found = [
        crossing
        for one in running
        for crossing in rules.all_reached(one.budget, one.key, one.spent, one.start_us, one.end_us)
    ]
    await alerts.add_crossings(connection, found, now_us)
    if running:
        await _end_lifted(connection, before, running, now_us, by)
    pausing = [one for one in running if one.budget.on_exceed is OnExceed.PAUSE and one.spent > 0]
    if pausing:
        await _pause(connection, pausing, now_us)


async def _end_lifted(
    connection: asyncpg.Connection, before: Mapping[str, int], running: Sequence[Standing], now_us: int, by: str
) -> None:
    found = await pauses.of_budgets(connection, running[0].budget.org, [one.budget for one in running], now_us)
    lifted, undone = [], []
    for one in running:
        for pause in found.get(one.budget.name, ()):
            if one.budget.on_exceed is not OnExceed.PAUSE:
                undone.append(pause)
            elif is_lifted(before.get(one.budget.name, one.budget.limit), one.budget.limit, one.spent + one.reserved):
                lifted.append(pause)
    await _end(connection, lifted, by, "the limit was raised above use", now_us)
    await _end(connection, undone, by, "the budget pauses no more", now_us)


async def _pause(connection: asyncpg.Connection, pausing: Sequence[Standing], now_us: int) -> None:
    counters = {}
    for one in pausing:
        counter = counters[(one.budget.no, one.key)] = Counter(one.budget.org, one.budget.no, one.key)
        counter.define(one.budget)
        counter.end_us = counter.window_end_us = one.end_us
    await store.lock_counters(connection, counters)
    batch = Batch(now_us)
    for counter in counters.values():
        note_use(batch, counter)
    if batch.marked:
        await store.mark_counters(connection, list(batch.marked.values()))
        await pauses.begin(connection, batch.begun, now_us)


async def end_pauses(connection: asyncpg.Connection, budget: Budget, now_us: int, *, by: str, note: str) -> None:
    """Ends the active pauses that a budget made."""
    found = await pauses.of_budgets(connection, budget.org, [budget], now_us)
    await _end(connection, found.get(budget.name, ()), by, note, now_us)


async def _end(connection: asyncpg.Connection, found: Sequence[Pause], by: str, note: str, now_us: int) -> None:
    ended = [replace(pause, ended_us=now_us, ended_by=by, end_note=note) for pause in found]
    await pauses.end(connection, ended, now_us)
