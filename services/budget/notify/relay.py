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
DELIVERIES_MAX: Final = 2_000
"""The most deliveries that one step writes, whatever the events and whoever subscribed; one event's may be more."""
_BYTES_MAX: Final = 16 * 1024 * 1024
"""The most that they hold together, likewise: a statement has a limit, and no organisation's storm may meet it."""


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
            unread = len(rows) - len(told)
            pairs = sorted({(row.org, subject) for row, one in told for subject in one.subjects})
            found = await subscriptions.of_pairs(connection, pairs)
            now_us = await budgets.now_us(connection)
            moved, tellings = _fitting(told, found)
            new = await telling.tell(connection, tellings, now_us)
            await store.delete(connection, moved)
        OUTBOX_SENT.labels(TOPIC).inc(len(moved))
        if unread:
            OUTBOX_PARKED.labels(TOPIC).inc(unread)
            _log.error("events cannot be read", rows=unread)
        if new:
            self._wake()
        return len(rows) == _BATCH or len(moved) < len(told)


def _fitting(told: list[tuple[Row, Told]], found: list[Subscription]) -> tuple[list[Row], list[Telling]]:
    """The first events, as many as one step may tell, at least one; and whom to tell."""
    of_subject: dict[tuple[str, str], list[Subscription]] = {}
    for to in found:
        of_subject.setdefault((to.org, to.subject), []).append(to)
    moved: list[Row] = []
    tellings: list[Telling] = []
    deliveries = size = 0
    for row, one in told:
        of_row = [
            Telling(subscription, row.key, one.kind, one.type, one.subject, row.payload)
            for subject in one.subjects
            for subscription in of_subject.get((row.org, subject), ())
            if subscription.wants(one.kind)
        ]
        count = sum(len(telling.channels_of(each.to)) for each in of_row)
        deliveries, size = deliveries + count, size + count * len(row.payload)
        if moved and (deliveries > DELIVERIES_MAX or size > _BYTES_MAX):
            break
        moved.append(row)
        tellings += of_row
    return moved, tellings
