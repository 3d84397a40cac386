"""What the worker does with a lane: turns that end in time, and events that come in storms."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from pursestrings.budget.v1 import deliveries_pb2 as pb
from pursestrings.budget.v1 import subscriptions_pb2
from services.budget.notify.relay import DELIVERIES_MAX, Matching
from tests.support.budget import TEAM, Budgets, running_budget
from workflows.notify import carrier
from workflows.notify.carrier import Carrier, Sent
from workflows.notify.types import Progress

URL = "https://hooks.example.com/x"


class Lane:
    """A subscription's webhook, carried by hand.

    Attributes:
        sent: The numbers that were sent, in order.
    """

    def __init__(self, budget: Budgets, pool: asyncpg.Pool) -> None:
        self.budget = budget
        self.service = budget.stub_for("orgs/-", "service")
        self.matching = Matching(pool, lambda: None)
        self.pool = pool
        self.sent: list[int] = []

    async def subscribe(self, id_: str = "s", email: str = "") -> str:
        wanted = subscriptions_pb2.Subscription(webhook_url=URL, email=email)
        made = await self.budget.admin.CreateSubscription(
            subscriptions_pb2.CreateSubscriptionRequest(parent=TEAM, subscription_id=id_, subscription=wanted)
        )
        return str(made.subscription.name)

    async def publish(self, count: int) -> None:
        kind = subscriptions_pb2.EVENT_KIND_RECHARGE
        events = [pb.Event(key=f"{n}", subject=TEAM, event=kind, type="recharge.failed") for n in range(count)]
        await self.service.PublishEvents(pb.PublishEventsRequest(events=events))

    async def carry(self, name: str, holder: str, send: Any, stopping: Any = lambda: False) -> Progress:
        carrying = Carrier(
            self.service,
            name,
            pb.DELIVERY_CHANNEL_WEBHOOK,
            holder,
            send_max_s=1.0,
            stopping=stopping,
            lingering=asyncio.Semaphore(0),
        )
        return await carrying.run(send)

    async def send(self, _subscription: str, taken: pb.TakeDeliveriesResponse) -> AsyncIterator[Sent]:
        for one in taken.deliveries:
            self.sent.append(one.number)
            yield Sent((one.number,), pb.DELIVERY_OUTCOME_DELIVERED)


@pytest.fixture
async def lane(database: Any, tmp_path: Path) -> AsyncIterator[Lane]:
    async with (
        running_budget(database("budget"), tmp_path) as budget,
        asyncpg.create_pool(budget.database.service_dsn, min_size=1, max_size=4) as pool,
    ):
        yield Lane(budget, pool)


async def test_whoever_is_next_goes_on_at_once_where_a_turn_has_ended(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await lane.subscribe()
    await lane.publish(20)
    await lane.matching.step()
    # A worker that drains ends between two sendings, and keeps nobody from the rest.
    progress = await lane.carry(name, "a", lane.send, stopping=lambda: len(lane.sent) >= 5)
    assert (progress.delivered, progress.rest_s, lane.sent) == (5, 0.0, [1, 2, 3, 4, 5])
    # So does one whose time is over, however much it has taken: an activity must not outlive its own time-out.
    late = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0])
    monkeypatch.setattr(carrier, "time", clock)

    async def slow(subscription: str, taken: pb.TakeDeliveriesResponse) -> AsyncIterator[Sent]:
        async for one in lane.send(subscription, taken):
            late[0] += carrier.WORK_S / 4
            yield one

    progress = await lane.carry(name, "b", slow)
    assert progress.rest_s == 0.0
    assert 0 < progress.delivered < 15
    progress = await lane.carry(name, "c", lane.send)
    assert (progress.rest_s, lane.sent) == (-1.0, list(range(1, 21)))


async def test_a_slow_receiver_has_one_sending_a_turn_so_that_many_keep_no_quick_one_waiting(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await lane.subscribe()
    await lane.publish(5)
    await lane.matching.step()
    late = [0.0]
    monkeypatch.setattr(carrier, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late[0]))

    async def slow(subscription: str, taken: pb.TakeDeliveriesResponse) -> AsyncIterator[Sent]:
        async for one in lane.send(subscription, taken):
            late[0] += carrier.SLOW_S
            yield one

    progress = await lane.carry(name, "a", slow)
    assert (progress.delivered, progress.rest_s) == (1, 0.0)
    await lane.carry(name, "b", lane.send)
    assert lane.sent == [1, 2, 3, 4, 5]


async def test_what_was_sent_is_told_and_the_lane_given_back_where_the_activity_is_cancelled(lane: Lane) -> None:
    name = await lane.subscribe()
    await lane.publish(3)
    await lane.matching.step()
    hangs = asyncio.Event()

    async def hang(subscription: str, taken: pb.TakeDeliveriesResponse) -> AsyncIterator[Sent]:
        async for one in lane.send(subscription, taken):
            yield one
            hangs.set()
            await asyncio.Event().wait()

    carrying = asyncio.create_task(lane.carry(name, "a", hang))
    await hangs.wait()
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carrying
    await lane.carry(name, "b", lane.send)
    assert lane.sent == [1, 2, 3]


async def test_a_storm_is_moved_in_bounded_steps_and_keeps_its_order(lane: Lane) -> None:
    for n in range(20):
        await lane.subscribe(f"s{n}", email="ops@example.com")
    await lane.publish(100)
    count = "SELECT count(*) FROM deliveries"
    assert await lane.matching.step()
    assert await lane.pool.fetchval(count) <= DELIVERIES_MAX
    while await lane.matching.step():
        pass
    assert await lane.pool.fetchval(count) == 20 * 2 * 100
    order = "SELECT count(*) FROM deliveries WHERE key <> (number - 1)::text"
    assert await lane.pool.fetchval(order) == 0
