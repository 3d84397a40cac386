"""Wakes lanes whose workflow was lost, and forgets what is old."""

from typing import Final

import asyncpg

from services.budget.notify import carrying, wakes
from services.budget.notify.domain.lanes import KEPT_US, S_US, Channel
from services.budget.notify.store import events, lanes
from services.budget.notify.store import upkeep as store
from services.budget.store import budgets, subscriptions
from services.kit.telemetry import get_logger

_log = get_logger(__name__)
_BATCH: Final = 5_000
_LANES: Final = 500
_STUCK_AFTER_US: Final = 60 * S_US
"""How long something may be due without anybody at it before its workflow is woken again."""
_KEYS_KEPT_US: Final = 90 * 86_400 * S_US


class Upkeep:
    """What the loops do; safe with several replicas, of which one works at a time.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def wake_stuck(self) -> bool:
        """Wakes what makes no progress; whether there may be more at once."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await store.begin(connection):
                return False
            now_us = await budgets.now_us(connection)
            found = await store.stuck(connection, now_us - _STUCK_AFTER_US, now_us, _LANES)
            locked = await lanes.lock(connection, [key for key, _ in found], make=False)
            for lane in locked.values():
                lane.woken_us = now_us
            await lanes.write(connection, list(locked.values()))
            await wakes.put(connection, [(to, Channel(key[2])) for key, to in found if key in locked])
        if found:
            _log.warning("deliveries without progress are woken", lanes=len(found))
        return len(found) == _LANES

    async def forget(self) -> bool:
        """Forgets a bounded part of what is old; whether there may be more at once."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await store.begin(connection):
                return False
            now_us = await budgets.now_us(connection)
            await subscriptions.forget_old_secrets(connection, now_us)
            stale = await store.stale(connection, now_us - KEPT_US, _LANES)
            locked = await lanes.lock(connection, stale, make=False)
            for lane in locked.values():
                await carrying.give_up(connection, lane, "it waited for 30 days", now_us, now_us - KEPT_US)
            await lanes.write(connection, list(locked.values()))
            counts = (
                await store.forget(connection, now_us - KEPT_US, _BATCH),
                await store.forget_orphans(connection, _BATCH),
                await events.forget(connection, now_us - _KEYS_KEPT_US, _BATCH),
            )
        if any(counts):
            _log.info("forgot deliveries", old=counts[0], of_nobody=counts[1], keys=counts[2])
        return max(counts) == _BATCH
