"""Moves events from the outbox into the lanes of the subscriptions that want them."""

from collections.abc import Callable
from typing import Final

import asyncpg

from services.budget.domain.subscriptions import Subscription
from services.budget.notify import telling
from services.budget.notify.domain import events
from services.budget.notify.domain.events import Told
from services.budget.notify.store import relay as store
from services.budget.notify.store.relay import Row
from services.budget.notify.telling import Telling
from services.budget.store import budgets, subscriptions
from services.budget.store.alerts import TOPIC
from services.kit.telemetry import OUTBOX_PARKED, OUTBOX_SENT, get_logger

_log = get_logger(__name__)
_BATCH: Final = 200


class Matching:
    """What the loop does; safe with several replicas, of which one works at a time, so that the order stays.

    Args:
        pool: Budget's database.
        wake: Called when workflows are to be woken.
    """

    def __init__(self, pool: asyncpg.Pool, wake: Callable[[], None]) -> None:
        self._pool = pool
        self._wake = wake

    async def step(self) -> bool:
        """One batch of events; whether there may be more at once."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await store.take(connection, _BATCH)
            if not rows:
                return False
            read = [(row, events.read(row.payload)) for row in rows]
            await store.park(connection, [row for row, told in read if told is None])
            told = [(row, one) for row, one in read if one is not None]
            pairs = sorted({(row.org, subject) for row, one in told for subject in one.subjects})
            found = await subscriptions.of_pairs(connection, pairs)
            now_us = await budgets.now_us(connection)
            new = await telling.tell(connection, _tellings(told, found), now_us)
            await store.delete(connection, [row for row, _ in told])
        OUTBOX_SENT.labels(TOPIC).inc(len(told))
        if len(told) < len(rows):
            OUTBOX_PARKED.labels(TOPIC).inc(len(rows) - len(told))
            _log.error("events cannot be read", rows=len(rows) - len(told))
        if new:
            self._wake()
        return len(rows) == _BATCH


def _tellings(told: list[tuple[Row, Told]], found: list[Subscription]) -> list[Telling]:
    of_subject: dict[tuple[str, str], list[Subscription]] = {}
    for one in found:
        of_subject.setdefault((one.org, one.subject), []).append(one)
    return [
        Telling(subscription, row.key, one.kind, one.type, one.subject, row.payload)
        for row, one in told
        for subject in one.subjects
        for subscription in of_subject.get((row.org, subject), ())
        if subscription.wants(one.kind)
    ]
