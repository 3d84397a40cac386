"""The whole way of an event to a webhook: budget, Temporal, worker, receiver."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from standardwebhooks.webhooks import WebhookVerificationError
from temporalio.client import Client

from proofs.workflows.alerts import storm
from pursestrings.budget.v1 import deliveries_pb2 as pb
from pursestrings.budget.v1 import subscriptions_pb2
from tests.support.budget import refusal_of
from tests.support.databases import Database
from tests.support.notifying import Receiver, Rig, answer, receiving, running_rig

PENDING, DELIVERED, DEAD = pb.DELIVERY_STATE_PENDING, pb.DELIVERY_STATE_DELIVERED, pb.DELIVERY_STATE_DEAD


@pytest.fixture
async def notifying(
    database: Callable[[str], Database], tmp_path: Path, org: str, temporal_address: str
) -> AsyncIterator[Rig]:
    async with running_rig(
        database("budget"), tmp_path, org=org, temporal_address=temporal_address, webhook_timeout_s=0.5
    ) as rig:
        yield rig


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


async def test_crossings_reach_the_receiver_signed_in_order_and_once(notifying: Rig, receiver: Receiver) -> None:
    name, secret = await notifying.subscribe(webhook_url=receiver.url)
    budget = await notifying.limit(10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    for _ in range(10):
        await notifying.spend(10)
    done = await notifying.settled(name, DELIVERED, 10)
    assert receiver.seen == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert [one.number for one in done] == list(range(10, 0, -1))
    assert [one.message_id for one in done] == [request.id for request in reversed(receiver.requests)]
    body = receiver.requests[7].verify(secret)
    assert (body["event"], body["budget_id"], body["data"]["used_amount"]) == (
        "budget.threshold_reached",
        budget.name,
        8.0,
    )
    with pytest.raises(WebhookVerificationError):
        receiver.requests[7].verify("whsec_" + "A" * 32)
    # After a rotation both secrets sign.
    rotated = (await notifying.change(name, secret="")).secret
    test = await notifying.budget.admin.TestSubscription(pb.TestSubscriptionRequest(name=name))
    await notifying.received(receiver, 11)
    last = receiver.requests[-1]
    assert last.id == test.deliveries[0].message_id
    assert last.verify(rotated) == last.verify(secret)
    assert last.json["type"] == "subscription.test"


async def test_a_failure_holds_back_what_comes_after_until_it_is_taken(notifying: Rig, receiver: Receiver) -> None:
    name, _ = await notifying.subscribe(webhook_url=receiver.url)
    await notifying.limit(10, 20)
    receiver.answers = [answer(503, "Retry-After: 3600")]
    await notifying.spend(10)
    await notifying.received(receiver, 1)
    async with asyncio.timeout(15):
        while not (failed := (await notifying.deliveries(name))[0]).last_error:
            await asyncio.sleep(0.02)
    assert failed.last_error == "it answered 503 and asks to wait 3600 s"
    assert failed.next_try_time.seconds >= failed.create_time.seconds + 3_600
    await notifying.spend(10)
    await notifying.matched()
    assert receiver.seen == [10]
    # It asked for an hour; who mended it need not wait.
    at_once = pb.RedeliverDeliveriesRequest(subscription=name, deliveries=[failed.name])
    await notifying.budget.admin.RedeliverDeliveries(at_once)
    await notifying.settled(name, DELIVERED, 2)
    assert receiver.seen == [10, 10, 20]
    assert {request.id for request in receiver.requests[:2]} == {failed.message_id}


async def test_410_switches_off_and_an_update_on_again(notifying: Rig, receiver: Receiver) -> None:
    name, _ = await notifying.subscribe(webhook_url=receiver.url)
    async with receiving() as other:
        await notifying.subscribe("all", webhook_url=other.url, events=[6])
        await notifying.limit(10, 20, 30)
        receiver.answers = [answer(410)]
        await notifying.spend(20)
        first, second = reversed(await notifying.settled(name, DEAD, 2))
        assert (first.tries, second.tries) == (1, 0)
        await notifying.received(other, 1)
        told = other.requests[0].json
        assert (told["type"], told["data"]["subscription"]) == ("subscription.switched_off", name)
        assert "410" in told["data"]["reason"]
        await notifying.spend(10)
        await notifying.matched()
        get = subscriptions_pb2.GetSubscriptionRequest(name=name)
        assert "410" in (await notifying.budget.admin.GetSubscription(get)).subscription.webhook_off_reason
        again = pb.RedeliverDeliveriesRequest(subscription=name, deliveries=[first.name])
        assert (await refusal_of(notifying.budget.admin.RedeliverDeliveries(again))).reason == "CHANNEL_OFF"
        assert (await notifying.change(name, webhook_url=receiver.url)).subscription.webhook_off_reason == ""
        await notifying.budget.admin.RedeliverDeliveries(
            pb.RedeliverDeliveriesRequest(subscription=name, all_dead=True)
        )
        await notifying.settled(name, DELIVERED, 2)
        # What was raised while it was off is not for it.
        assert receiver.seen == [10, 10, 20]


async def test_a_storm_comes_whole_once_and_by_few_workflows(notifying: Rig, temporal: Client) -> None:
    name = notifying.org.removeprefix("orgs/")
    found = await storm(notifying.budget.admin, seconds=2, rate=40, orgs=3, name=name, settle_s=0.3)
    assert (found["alerts"], found["alerts_lost"], found["alerts_doubled"]) == (80, 0, 0)
    started = [one.id async for one in temporal.list_workflows("WorkflowType = 'Notify'") if name in one.id]
    assert len(started) < 20
