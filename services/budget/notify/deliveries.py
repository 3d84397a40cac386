"""Deliveries as people see them: listed, sent again, tried out."""

from collections.abc import Callable, Sequence
from typing import Final

import asyncpg

from services.budget import paging
from services.budget.domain.subscriptions import EventKind, Subscription
from services.budget.notify import telling, wakes
from services.budget.notify.domain import lanes as rules
from services.budget.notify.domain.events import Event
from services.budget.notify.domain.lanes import Channel, Lane
from services.budget.notify.store import lanes
from services.budget.notify.store.lanes import DeliveryRow
from services.budget.notify.telling import Telling
from services.budget.store import budgets, subscriptions
from services.kit.database import transact
from services.kit.errors import conflict, not_found
from services.kit.subject import Subject

NAMES_MAX: Final = 100
_ALL_US: Final = 2**62
_TEST_TYPE: Final = "subscription.test"


class Deliveries:
    """What the methods do, on plain values.

    Args:
        pool: Budget's database.
        wake: Called when workflows are to be woken.
    """

    def __init__(self, pool: asyncpg.Pool, wake: Callable[[], None]) -> None:
        self._pool = pool
        self._wake = wake

    async def list_page(
        self,
        subject: Subject,
        id_: str,
        page_size: int,
        page_token: str,
        *,
        state: int,
        channels: Sequence[Channel],
    ) -> tuple[list[DeliveryRow], str]:
        """Deliveries, webhooks before mails, each the newest first, and the next page's token; NOT_FOUND.

        Args:
            subject: The subscription's.
            id_: The subscription's.
            page_size: How many.
            page_token: The next page's token; empty: the first page.
            state: Only these; 0: all.
            channels: Only by these.
        """
        size = paging.size_of(page_size)
        scope = f"{subject.name}/{id_} {state} {[int(one) for one in channels]}"
        first, before = paging.after_of(page_token, scope, (0, _ALL_US))
        found: list[DeliveryRow] = []
        async with self._pool.acquire() as connection:
            to = await _found(connection, subject, id_)
            for channel in channels:
                if channel < first or len(found) > size:
                    continue
                found += await lanes.list_page(
                    connection,
                    (to.org, to.no, int(channel)),
                    state,
                    before=before if channel == first else _ALL_US,
                    limit=size + 1 - len(found),
                )
        if len(found) <= size:
            return found, ""
        last = found[size - 1]
        return found[:size], paging.token_of(scope, (int(last.channel), last.number))

    async def redeliver(
        self, subject: Subject, id_: str, numbers: Sequence[tuple[Channel, int]], *, all_dead: bool
    ) -> int:
        """Makes deliveries pending again; how many.

        Raises:
            PurseError: NOT_FOUND, CHANNEL_OFF, or there is no room.
        """
        wanted: dict[Channel, list[int]] = {}
        for channel, number in numbers:
            wanted.setdefault(channel, []).append(number)

        async def run(connection: asyncpg.Connection) -> int:
            to = await _found(connection, subject, id_)
            channels = list(Channel) if all_dead else list(wanted)
            locked = await lanes.lock(connection, [(to.org, to.no, int(one)) for one in channels], make=False)
            now_us = await budgets.now_us(connection)
            count = 0
            for channel in channels:
                lane = locked.get((to.org, to.no, int(channel)))
                if lane is None and not all_dead:
                    raise not_found(f"a {channel.word} delivery of {to.name}", "DELIVERY_UNKNOWN")
                if lane is not None:
                    count += await _revive(connection, to, lane, wanted.get(channel, []), now_us, all_dead=all_dead)
            return count

        count = await transact(self._pool, run)
        self._wake()
        return count

    async def test(self, subject: Subject, id_: str, *, by: str) -> list[DeliveryRow]:
        """Sends a test event to one subscription.

        Raises:
            PurseError: NOT_FOUND, SUBSCRIPTION_DISABLED, CHANNEL_OFF, or there is no room.
        """

        async def run(connection: asyncpg.Connection) -> list[DeliveryRow]:
            to = await _found(connection, subject, id_)
            if to.disabled:
                raise conflict("SUBSCRIPTION_DISABLED", f"{to.name} is disabled; switch it on first")
            now_us = await budgets.now_us(connection)
            event = Event(
                to.org, f"test:{now_us}", to.subject, EventKind.NOTICE, _TEST_TYPE, {"subscription": to.name, "by": by}
            )
            payload = event.payload(now_us)
            new = await telling.tell(
                connection, [Telling(to, event.key, event.kind, event.type, event.subject, payload)], now_us
            )
            if not new:
                raise conflict(
                    "CHANNEL_OFF", f"{to.name} takes nothing: {to.webhook_off or to.email_off or 'it is full'}"
                )
            rows = []
            for one in new:
                rows += await lanes.list_page(connection, one.lane, 0, before=one.number + 1, limit=1)
            return rows

        rows = await transact(self._pool, run)
        self._wake()
        return rows


async def switched_on(connection: asyncpg.Connection, to: Subscription, mask: Sequence[str], now_us: int) -> None:
    """Follows an update of a subscription: channels that it names are on again, and what waits is tried at once."""
    named = {
        Channel.WEBHOOK: {"webhook_url", "disabled"} & set(mask),
        Channel.MAIL: {"email", "disabled"} & set(mask),
    }
    keys = [(to.org, to.no, int(channel)) for channel, names in named.items() if names]
    for lane in (await lanes.lock(connection, keys, make=False)).values():
        if lane.off_us is not None:
            lane.off_us, lane.off_reason, lane.failing_since_us = None, "", None
        await _try_at_once(connection, to, lane, now_us)


async def _revive(
    connection: asyncpg.Connection, to: Subscription, lane: Lane, numbers: Sequence[int], now_us: int, *, all_dead: bool
) -> int:
    if lane.off_us is not None:
        if all_dead:
            return 0
        raise conflict(
            "CHANNEL_OFF",
            f"{to.name} takes nothing by {lane.channel.word}: {lane.off_reason}; mend it, then name its address in an "
            "update of the subscription, which switches it on",
        )
    room = rules.PENDING_MAX - lane.waiting
    if all_dead:
        numbers = await lanes.dead(connection, lane, room)
    elif await lanes.known(connection, lane, numbers) < len(set(numbers)):
        raise not_found(f"one of these {lane.channel.word} deliveries of {to.name}", "DELIVERY_UNKNOWN")
    if len(numbers) > room:
        raise conflict("TOO_MANY_PENDING", f"{lane.waiting} deliveries wait for {to.name}, which is the limit")
    revived = await lanes.revive(connection, lane, numbers, now_us)
    lane.waiting += revived
    await _try_at_once(connection, to, lane, now_us)
    return revived


async def _try_at_once(connection: asyncpg.Connection, to: Subscription, lane: Lane, now_us: int) -> None:
    """Ends a lane's rest and writes it; its workflow may sleep for hours, so it is woken."""
    await lanes.try_soon(connection, lane, now_us)
    lane.due_us = await lanes.head_us(connection, lane)
    if lane.due_us is not None and not to.disabled:
        lane.woken_us = now_us
        await wakes.put(connection, [(to, lane.channel)])
    await lanes.write(connection, [lane])


async def _found(connection: asyncpg.Connection, subject: Subject, id_: str) -> Subscription:
    found = await subscriptions.find(connection, subject.org, subject.name, id_)
    if found is None:
        raise not_found(f"subscription {subject.name}/subscriptions/{id_}", "SUBSCRIPTION_UNKNOWN")
    return found
