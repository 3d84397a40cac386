"""Takes what other services tell people of, each event once."""

from collections.abc import Callable, Sequence

import asyncpg

from services.budget.notify.domain.events import Event
from services.budget.notify.store import events as store
from services.budget.store import budgets
from services.kit.database import transact


class Publisher:
    """Stores events for the subscriptions.

    Args:
        pool: Budget's database.
        wake: Called when there are events to tell.
    """

    def __init__(self, pool: asyncpg.Pool, wake: Callable[[], None]) -> None:
        self._pool = pool
        self._wake = wake

    async def publish(self, events: Sequence[Event]) -> list[bool]:
        """Stores all that are new in one transaction; event by event whether it was."""
        if not events:
            return []

        async def run(connection: asyncpg.Connection) -> set[tuple[str, str]]:
            return await store.add(connection, events, await budgets.now_us(connection))

        new = await transact(self._pool, run)
        if new:
            self._wake()
        stored = []
        for one in events:
            stored.append((one.org, one.key) in new)
            new.discard((one.org, one.key))
        return stored
