"""Writes deliveries of events into the lanes of subscriptions, in the caller's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget.domain.subscriptions import EventKind, Subscription
from services.budget.notify import wakes
from services.budget.notify.domain.lanes import PENDING_MAX, Channel
from services.budget.notify.store import lanes
from services.budget.notify.store.lanes import LaneKey, NewDelivery
from services.budget.store import alerts

_DAY_US: Final = 86_400_000_000


@dataclass(slots=True, frozen=True)
class Telling:
    """One event for one subscription."""

    to: Subscription
    key: str
    kind: EventKind
    type: str
    subject: str
    payload: bytes


def channels_of(one: Subscription) -> list[Channel]:
    """By which channels a subscription is told."""
    wanted = ((Channel.WEBHOOK, one.webhook_url), (Channel.MAIL, one.email))
    return [channel for channel, target in wanted if target]


async def tell(connection: asyncpg.Connection, tellings: Sequence[Telling], now_us: int) -> list[NewDelivery]:
    """Adds deliveries in the order given, and wakes the workflows that must know. What finds no room is told of.

    Args:
        connection: In a transaction.
        tellings: Events and whom to tell.
        now_us: The time.

    Returns:
        What was written.
    """
    wanted: dict[LaneKey, list[Telling]] = {}
    for one in tellings:
        for channel in channels_of(one.to):
            wanted.setdefault((one.to.org, one.to.no, int(channel)), []).append(one)
    locked = await lanes.lock(connection, wanted, make=True)
    new: list[NewDelivery] = []
    waking: list[tuple[Subscription, Channel]] = []
    full: dict[LaneKey, Subscription] = {}
    for key, lane in locked.items():
        all_ = wanted[key]
        admitted = all_[: lane.admit(len(all_))]
        if len(admitted) < len(all_) and lane.off_us is None:
            full[key] = all_[0].to
        if not admitted:
            continue
        if lane.must_wake(now_us):
            lane.woken_us = now_us
            waking.append((all_[0].to, lane.channel))
        for one in admitted:
            lane.last_number += 1
            new.append(NewDelivery(key, lane.last_number, one.key, int(one.kind), one.type, one.subject, one.payload))
        lane.waiting += len(admitted)
        lane.due_us = now_us if lane.due_us is None else lane.due_us
    await lanes.add(connection, new, now_us)
    await lanes.write(connection, list(locked.values()))
    await wakes.put(connection, waking)
    # Once a channel and day; it goes to whoever else subscribed, for this one has no room.
    notices = [
        (
            one.org,
            "DELIVERIES_DROPPED",
            f"{one.subject}:{one.id}:{Channel(channel).word}:{now_us // _DAY_US}",
            f"{PENDING_MAX} deliveries wait for {one.name} by {Channel(channel).word}: what comes now is not kept",
        )
        for (_, _, channel), one in full.items()
    ]
    await alerts.add_notices(connection, notices, now_us)
    return new
