"""Deliveries in budget's books: taken by one holder in order, given up in time, bounded, and looked after."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from pursestrings.budget.v1 import deliveries_pb2 as pb
from pursestrings.budget.v1 import subscriptions_pb2
from services.budget.notify.domain.lanes import DAY_US, PENDING_MAX
from services.budget.notify.relay import Matching
from services.budget.notify.upkeep import Upkeep
from tests.support.budget import BOT, ORG, TEAM, Budgets, alerts, refusal_of, rows, running_budget

URL = "https://hooks.example.com/x"
WEBHOOK = pb.DELIVERY_CHANNEL_WEBHOOK
OUTCOMES = {
    "ok": pb.DELIVERY_OUTCOME_DELIVERED,
    "failed": pb.DELIVERY_OUTCOME_FAILED,
    "refused": pb.DELIVERY_OUTCOME_REFUSED,
    "gone": pb.DELIVERY_OUTCOME_GONE,
}
WAKES = "SELECT key FROM outbox WHERE topic = 'notify' ORDER BY id"


class Desk:
    """A budget service whose loops a test turns by hand."""

    def __init__(self, budget: Budgets, pool: asyncpg.Pool) -> None:
        self.budget = budget
        self.pool = pool
        self.service = budget.stub_for("orgs/-", "service")
        self.published = 0

    async def subscribe(self, subject: str = TEAM, id_: str = "s", **fields: Any) -> str:
        values = {"webhook_url": URL} | fields
        request = subscriptions_pb2.CreateSubscriptionRequest(
            parent=subject, subscription_id=id_, subscription=subscriptions_pb2.Subscription(**values)
        )
        made = await self.budget.admin.CreateSubscription(request)
        return str(made.subscription.name)

    async def update(self, name: str, **fields: Any) -> None:
        wanted = subscriptions_pb2.Subscription(name=name, **fields)
        mask = FieldMask(paths=list(fields))
        await self.budget.admin.UpdateSubscription(
            subscriptions_pb2.UpdateSubscriptionRequest(subscription=wanted, update_mask=mask)
        )

    async def tell(self, count: int, subject: str = TEAM, *, match: bool = True, **fields: Any) -> None:
        """So many events, in their lanes."""
        for _ in range(count):
            self.published += 1
            values: dict[str, Any] = {"subject": subject, "event": 8, "type": "recharge.failed"} | fields
            values["key"] = f"{self.published}"
            await self.service.PublishEvents(pb.PublishEventsRequest(events=[pb.Event(**values)]))
        if match:
            await self.match()

    async def match(self) -> None:
        await Matching(self.pool, lambda: None).step()

    async def take(self, name: str, holder: str = "a", **fields: Any) -> pb.TakeDeliveriesResponse:
        request = pb.TakeDeliveriesRequest(subscription=name, channel=WEBHOOK, holder=holder, **fields)
        taken: pb.TakeDeliveriesResponse = await self.service.TakeDeliveries(request)
        return taken

    async def numbers(self, name: str, holder: str = "a") -> list[int]:
        return [one.number for one in (await self.take(name, holder)).deliveries]

    async def report(self, name: str, said: dict[int, str], holder: str = "a") -> bool:
        """What became of deliveries; whether the lane is still held."""
        reports = [pb.DeliveryReport(number=n, outcome=OUTCOMES[one], error="why") for n, one in said.items()]
        answer = await self.service.ReportDeliveries(
            pb.ReportDeliveriesRequest(subscription=name, channel=WEBHOOK, holder=holder, reports=reports)
        )
        return bool(answer.HasField("hold"))

    async def states(self, name: str) -> list[str]:
        """The states of a subscription's deliveries, the oldest first."""
        page = await self.budget.admin.ListDeliveries(pb.ListDeliveriesRequest(parent=name, page_size=1_000))
        return [pb.DeliveryState.Name(one.state)[15:] for one in reversed(page.deliveries)]

    async def sql(self, query: str, *values: object) -> list[asyncpg.Record]:
        return list(await self.pool.fetch(query, *values))


@pytest.fixture
async def desk(database: Any, tmp_path: Path) -> AsyncIterator[Desk]:
    async with (
        running_budget(database("budget"), tmp_path) as budget,
        asyncpg.create_pool(budget.database.service_dsn, min_size=1, max_size=4) as pool,
    ):
        yield Desk(budget, pool)


async def test_one_holder_at_a_time_gets_what_waits_in_order(desk: Desk) -> None:
    name = await desk.subscribe()
    await desk.tell(3)
    first = await desk.take(name, deliveries_max=2)
    assert [one.number for one in first.deliveries] == [1, 2]
    assert (first.waiting_count, first.webhook_url, len(first.secrets)) == (3, URL, 1)
    other = await desk.take(name, "b")
    assert (list(other.deliveries), list(other.secrets), other.reason) == ([], [], "another worker delivers")
    assert 0 < other.rest.seconds <= 46
    # What was delivered is true whoever says it; another one's failures are of no try that counts.
    assert not await desk.report(name, {1: "ok", 2: "failed"}, "b")
    assert await desk.states(name) == ["DELIVERED", "PENDING", "PENDING"]
    assert [row["tries"] for row in await desk.sql("SELECT tries FROM deliveries ORDER BY number")] == [1, 0, 0]
    assert await desk.report(name, {2: "ok"})
    assert await desk.numbers(name) == [3]
    # Its hold runs out, and another one takes what it had.
    await desk.sql("UPDATE delivery_lanes SET held_until_us = 1")
    assert await desk.numbers(name, "b") == [3]
    assert not await desk.report(name, {3: "failed"})
    assert await desk.report(name, {3: "ok"}, "b")
    idle = await desk.take(name, "b")
    assert (idle.HasField("rest"), idle.HasField("hold"), idle.waiting_count) == (False, False, 0)


async def test_a_receiver_that_asks_to_wait_is_left_alone_for_so_long(desk: Desk) -> None:
    name = await desk.subscribe()
    await desk.tell(1)
    for asked_s, at_least_s, at_most_s in ((3_600, 3_590, 3_960), (-1, 290, 330), (2**31 - 1, 80 * 3_600, 84 * 3_600)):
        assert await desk.numbers(name) == [1]
        report = pb.DeliveryReport(number=1, outcome=pb.DELIVERY_OUTCOME_FAILED, error="429", retry_after_s=asked_s)
        await desk.service.ReportDeliveries(
            pb.ReportDeliveriesRequest(subscription=name, channel=WEBHOOK, holder="a", reports=[report])
        )
        assert at_least_s <= (await desk.take(name)).rest.seconds <= at_most_s
        await desk.sql("UPDATE deliveries SET next_try_us = 1")
        await desk.sql("UPDATE delivery_lanes SET due_us = 1")
    # When the horizon is over, nobody is waited for any longer than by ourselves.
    await desk.sql("UPDATE deliveries SET first_try_us = first_try_us - $1", 4 * DAY_US)
    assert await desk.numbers(name) == [1]
    await desk.service.ReportDeliveries(
        pb.ReportDeliveriesRequest(subscription=name, channel=WEBHOOK, holder="a", reports=[report])
    )
    assert 7_190 <= (await desk.take(name)).rest.seconds <= 7_920


async def test_after_ten_tries_one_is_dead_and_the_next_goes_and_after_five_days_none(desk: Desk) -> None:
    name = await desk.subscribe()
    other = await desk.subscribe(ORG, "other", events=[6])
    await desk.tell(3)
    for number in (1, 2):
        for _ in range(10):
            assert (await desk.numbers(name))[0] == number
            await desk.report(name, {number: "failed"})
            resting = await desk.take(name)
            if number == 1 and resting.HasField("rest") and resting.rest.seconds:
                assert (list(resting.deliveries), resting.reason) == ([], "the last try failed")
            # It is time for the next try; of the second one each a day later.
            await desk.sql("UPDATE deliveries SET next_try_us = 1 WHERE state = 1")
            later = "UPDATE delivery_lanes SET due_us = least(due_us, 1), failing_since_us = failing_since_us - $1"
            await desk.sql(later, DAY_US * (number - 1))
        assert (await desk.states(name))[:number] == ["DEAD"] * number
    assert await desk.states(name) == ["DEAD"] * 3
    await desk.match()
    told = await desk.take(other)
    assert '"type":"subscription.switched_off"' in told.deliveries[0].payload
    await desk.tell(1)
    assert len(await desk.states(name)) == 3
    # Switched on again, what is dead is sent on request, the oldest first.
    await desk.update(name, webhook_url=URL)
    answer = await desk.budget.admin.RedeliverDeliveries(
        pb.RedeliverDeliveriesRequest(subscription=name, all_dead=True)
    )
    assert answer.count == 3
    assert await desk.numbers(name, "c") == [1, 2, 3]


async def test_what_can_never_be_sent_is_dead_at_once_and_counts_as_no_failure(desk: Desk) -> None:
    name = await desk.subscribe()
    await desk.tell(2)
    await desk.take(name)
    await desk.report(name, {1: "refused", 2: "ok"})
    assert await desk.states(name) == ["DEAD", "DELIVERED"]
    assert [row[0] for row in await desk.sql("SELECT failing_since_us FROM delivery_lanes")] == [None]
    # A delivered one is sent again on request, under its id.
    page = await desk.budget.admin.ListDeliveries(pb.ListDeliveriesRequest(parent=name))
    again = pb.RedeliverDeliveriesRequest(subscription=name, deliveries=[page.deliveries[0].name])
    assert (await desk.budget.admin.RedeliverDeliveries(again)).count == 1
    (one,) = (await desk.take(name)).deliveries
    assert (one.number, one.message_id, one.tries) == (2, page.deliveries[0].message_id, 0)


async def test_a_full_lane_keeps_no_more_and_the_others_are_told_once_a_day(desk: Desk) -> None:
    name = await desk.subscribe()
    other = await desk.subscribe(ORG, "other", events=[6])
    await desk.tell(1)
    await desk.sql("UPDATE delivery_lanes SET waiting = $1", PENDING_MAX - 1)
    await desk.tell(3, match=False)
    await desk.match()
    await desk.tell(1)
    await desk.match()
    assert len(await desk.states(name)) == 2
    (told,) = (await desk.take(other)).deliveries
    assert "budget.deliveries_dropped" in told.payload


async def test_an_audience_is_told_alone_and_a_disabled_one_later(desk: Desk) -> None:
    above, own, below = [await desk.subscribe(subject) for subject in (ORG, TEAM, BOT)]
    await desk.tell(1, BOT)
    await desk.tell(1, BOT, audience=TEAM)
    assert [len(await desk.states(one)) for one in (above, own, below)] == [1, 2, 1]
    await desk.update(own, disabled=True)
    held = await desk.take(own)
    assert (list(held.deliveries), held.HasField("rest"), held.reason) == ([], False, "the subscription is disabled")
    await desk.tell(1, BOT)
    await desk.sql("DELETE FROM outbox")
    await desk.update(own, disabled=False)
    assert [row["key"] for row in await desk.sql(WAKES)] == [f"notify/{own}/webhook"]
    assert await desk.numbers(own) == [1, 2]


async def test_replicas_match_in_order_without_doubles_and_wake_once(desk: Desk) -> None:
    name = await desk.subscribe()
    await desk.tell(60, match=False)
    await asyncio.gather(*(desk.match() for _ in range(4)))
    await desk.match()
    found = await desk.sql("SELECT number, key FROM deliveries ORDER BY number")
    assert [(row["number"], row["key"]) for row in found] == [(n, f"{n}") for n in range(1, 61)]
    assert len(await desk.sql(WAKES)) == 1
    await desk.take(name)
    await desk.tell(1)
    assert len(await desk.sql(WAKES)) == 1


async def test_what_cannot_be_read_is_parked_and_keeps_nothing_back(desk: Desk) -> None:
    name = await desk.subscribe()
    await desk.sql("INSERT INTO outbox (org, topic, key, payload) VALUES ('acme', 'alerts', 'odd', 'x')")
    await desk.tell(1)
    assert await desk.states(name) == ["PENDING"]
    parked = await desk.sql("SELECT key, parked_at FROM outbox WHERE topic = 'alerts'")
    assert [(row["key"], row["parked_at"] is not None) for row in parked] == [("odd", True)]


async def test_a_lost_workflow_is_woken_again_and_what_is_old_is_forgotten(desk: Desk) -> None:
    name, gone = await desk.subscribe(), await desk.subscribe(id_="gone")
    await desk.tell(3)
    upkeep = Upkeep(desk.pool)
    await desk.sql("DELETE FROM outbox")
    await upkeep.wake_stuck()
    assert await desk.sql(WAKES) == []
    await desk.sql("UPDATE delivery_lanes SET due_us = due_us - 70000000, woken_us = woken_us - 70000000")
    await upkeep.wake_stuck()
    await upkeep.wake_stuck()
    assert {row["key"] for row in await desk.sql(WAKES)} == {f"notify/{one}/webhook" for one in (name, gone)}
    assert len(await desk.sql(WAKES)) == 2
    # What Temporal refused and is set aside until somebody looks wakes nobody, so another row tries.
    await desk.sql("UPDATE outbox SET parked_at = now()")
    await desk.sql("UPDATE delivery_lanes SET woken_us = woken_us - 70000000")
    await upkeep.wake_stuck()
    assert len(await desk.sql(WAKES)) == 4
    await desk.budget.admin.DeleteSubscription(subscriptions_pb2.DeleteSubscriptionRequest(name=gone))
    await desk.take(name)
    await desk.report(name, {1: "ok"})
    month_us = 31 * DAY_US
    await desk.sql("UPDATE deliveries SET closed_us = closed_us - $1, created_us = created_us - $1", month_us)
    await desk.sql("UPDATE deliveries SET created_us = created_us + $1 WHERE number = 3", month_us)
    await desk.sql("UPDATE delivery_lanes SET due_us = due_us - $1", month_us)
    old = "UPDATE published_events SET published_us = published_us - $1"
    await rows(desk.budget.database, old, 91 * DAY_US)
    await upkeep.forget()
    # One was delivered a month ago, one has waited as long and is dead, one waits; of the deleted one nothing is left.
    assert await desk.states(name) == ["DEAD", "PENDING"]
    assert len(await desk.sql("SELECT FROM deliveries")) == 2
    assert len(await desk.sql("SELECT FROM delivery_lanes")) == 1
    assert await desk.sql("SELECT FROM published_events") == []


async def test_only_the_worker_takes_and_only_operators_send_again(desk: Desk) -> None:
    name = await desk.subscribe()
    operator, agent, auditor = [desk.budget.stub_for(TEAM, role) for role in ("operator", "agent", "auditor")]
    take = pb.TakeDeliveriesRequest(subscription=name, channel=WEBHOOK, holder="x")
    assert (await refusal_of(operator.TakeDeliveries(take))).reason == "ROLE_MISSING"
    report = pb.ReportDeliveriesRequest(subscription=name, channel=WEBHOOK, holder="x")
    assert (await refusal_of(operator.ReportDeliveries(report))).reason == "ROLE_MISSING"
    again = pb.RedeliverDeliveriesRequest(subscription=name, all_dead=True)
    assert (await refusal_of(auditor.RedeliverDeliveries(again))).reason == "ROLE_MISSING"
    test = pb.TestSubscriptionRequest(name=name)
    assert (await refusal_of(agent.TestSubscription(test))).reason == "ROLE_MISSING"
    assert (await refusal_of(agent.ListDeliveries(pb.ListDeliveriesRequest(parent=name)))).reason == "ROLE_MISSING"
    assert list((await auditor.ListDeliveries(pb.ListDeliveriesRequest(parent=name))).deliveries) == []
    assert (await operator.RedeliverDeliveries(again)).count == 0
    service = desk.service
    unknown = pb.TakeDeliveriesRequest(subscription=f"{TEAM}/subscriptions/x", channel=WEBHOOK, holder="x")
    assert (await refusal_of(service.TakeDeliveries(unknown))).reason == "SUBSCRIPTION_UNKNOWN"
    for wrong, field in (
        ({"channel": 0}, "channel"),
        ({"holder": ""}, "holder"),
        ({"deliveries_max": 101}, "deliveries_max"),
    ):
        values: dict[str, Any] = {"subscription": name, "channel": WEBHOOK, "holder": "x"} | wrong
        request = pb.TakeDeliveriesRequest(**values)
        assert (await refusal_of(service.TakeDeliveries(request))).field == field
    strange = pb.RedeliverDeliveriesRequest(subscription=name, deliveries=[f"{name}/deliveries/webhook-9"])
    assert (await refusal_of(operator.RedeliverDeliveries(strange))).reason == "DELIVERY_UNKNOWN"
    both = pb.RedeliverDeliveriesRequest(subscription=name, all_dead=True, deliveries=["x"])
    assert (await refusal_of(operator.RedeliverDeliveries(both))).field == "deliveries"
    assert await alerts(desk.budget.database) == []


async def test_pages_of_deliveries_follow_each_other(desk: Desk) -> None:
    name = await desk.subscribe(email="ops@example.com")
    await desk.tell(3)
    request = pb.ListDeliveriesRequest(parent=name, page_size=2)
    seen = []
    while True:
        page = await desk.budget.admin.ListDeliveries(request)
        seen += [one.name.rpartition("/")[2] for one in page.deliveries]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == ["webhook-3", "webhook-2", "webhook-1", "mail-3", "mail-2", "mail-1"]
