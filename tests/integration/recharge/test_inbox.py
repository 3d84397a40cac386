"""Stripe's events: verified, stored once, processed in any order."""

import asyncio
import json

import pytest
import stripe

from pursestrings.wallet.v1 import payments_pb2 as payments
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import Code
from services.wallet.recharge.store.inbox import FAILURES_MAX
from tests.integration.recharge.test_observe import PENDING, SUCCEEDED, confirm, create, start
from tests.support.recharging import WEBHOOK_SECRET, Rig, refusal


def event(event_id: str, kind: str = "payment_intent.succeeded", **thing: object) -> bytes:
    body = {"object": "payment_intent", "id": "pi_none", "metadata": {}, **thing}
    return json.dumps({"id": event_id, "type": kind, "livemode": False, "data": {"object": body}}).encode()


async def ingest(rig: Rig, payload: bytes) -> pb.IngestStripeEventResponse:
    signature = stripe.WebhookSignature.generate_signature_header(payload.decode(), WEBHOOK_SECRET)
    return await rig.stub.IngestStripeEvent(pb.IngestStripeEventRequest(payload=payload, signature=str(signature)))


async def outcome(rig: Rig, event_id: str) -> str:
    async with asyncio.timeout(20):
        while True:
            row = await rig.sql.fetchrow("SELECT done_at, outcome, payload FROM stripe_events WHERE id = $1", event_id)
            if row["done_at"] is not None:
                assert row["payload"] is None
                return str(row["outcome"])
            await asyncio.sleep(0.02)


async def test_what_is_not_signed_is_not_stored(rig: Rig) -> None:
    bad = pb.IngestStripeEventRequest(payload=event("evt_1"), signature="t=1,v1=00")
    error = await refusal(rig.stub.IngestStripeEvent(bad))
    assert (error.code, error.reason, error.field) == (Code.INVALID_ARGUMENT, "BAD_SIGNATURE", "signature")
    assert await rig.sql.fetchval("SELECT count(*) FROM stripe_events") == 0


@pytest.mark.parametrize("signature", ["t=1,v1=éé", "t=9999999999999999999999,v1=aa", "x", "t=1,v1=aa", "t=,v1=", "é"])
async def test_whatever_stands_in_the_header_is_a_bad_signature_at_worst(rig: Rig, signature: str) -> None:
    bad = pb.IngestStripeEventRequest(payload=event("evt_1"), signature=signature)
    error = await refusal(rig.stub.IngestStripeEvent(bad))
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "BAD_SIGNATURE")


async def test_an_event_is_stored_once_and_no_other_takes_its_name(rig: Rig) -> None:
    answers = [await ingest(rig, event("evt_1")) for _ in range(3)]
    assert [answer.duplicate for answer in answers] == [False, True, True]
    await outcome(rig, "evt_1")
    assert (await ingest(rig, event("evt_1"))).duplicate
    other = await refusal(ingest(rig, event("evt_1", "payment_intent.canceled")))
    assert other.reason == "EVENT_ID_REUSED"
    assert await rig.sql.fetchval("SELECT count(*) FROM stripe_events") == 1


async def test_an_event_that_always_fails_is_put_aside_and_shown(rig: Rig) -> None:
    name = await start(rig)
    intent = await create(rig, await rig.authorize(name))
    # No code foresees this: the database refuses to store what was seen.
    await rig.sql.execute("ALTER TABLE recharge_intents ADD CONSTRAINT broken CHECK (status = '') NOT VALID")
    await ingest(rig, event("evt_1", id=intent, metadata={"org": rig.org, "recharge": name}))
    async with asyncio.timeout(30):
        while not await rig.sql.fetchval("SELECT parked_at IS NOT NULL FROM stripe_events WHERE id = 'evt_1'"):
            # Its rests and most of its tries are skipped; the first and the last ones are real.
            await rig.sql.execute(
                "UPDATE stripe_events SET due_at = clock_timestamp(), failures = greatest(failures, $1)"
                " WHERE id = 'evt_1' AND failures > 0",
                FAILURES_MAX - 2,
            )
            # Another event wakes the loop.
            await ingest(rig, event("evt_2", "customer.created", object="customer", id="cus_1"))
            await asyncio.sleep(0.02)
    stored = await rig.sql.fetchrow("SELECT failures, payload, outcome FROM stripe_events WHERE id = 'evt_1'")
    assert stored["failures"] == FAILURES_MAX
    assert stored["payload"]
    assert "broken" in stored["outcome"]
    (failure,) = await rig.audit_failures()
    assert failure.startswith("I8.events_processed")
    assert "evt_1" in failure
    listed = await rig.stub.ListStripeEvents(payments.ListStripeEventsRequest())
    assert [(one.event, one.failures, one.org) for one in listed.events] == [("evt_1", FAILURES_MAX, f"orgs/{rig.org}")]
    assert "broken" in listed.events[0].outcome
    await rig.sql.execute("ALTER TABLE recharge_intents DROP CONSTRAINT broken")
    assert (await rig.stub.RequeueStripeEvents(payments.RequeueStripeEventsRequest(event="evt_none"))).requeued == 0
    assert (await rig.stub.RequeueStripeEvents(payments.RequeueStripeEventsRequest(event="evt_1"))).requeued == 1
    assert await outcome(rig, "evt_1") == f"{name} is PENDING"
    done = payments.ListStripeEventsRequest(state=payments.STRIPE_EVENT_STATE_DONE, page_size=1)
    first = await rig.stub.ListStripeEvents(done)
    done.page_token = first.next_page_token
    second = await rig.stub.ListStripeEvents(done)
    assert {first.events[0].event, second.events[0].event} == {"evt_1", "evt_2"}
    assert await rig.audit_failures() == []


async def test_what_is_not_ours_is_stored_and_done(rig: Rig) -> None:
    await ingest(rig, event("evt_1", "customer.created", object="customer", id="cus_1"))
    await ingest(rig, event("evt_2"))
    await ingest(rig, event("evt_3", metadata={"org": "nobody", "recharge": "orgs/nobody/recharges/x-2026-01-1"}))
    live = event("evt_4").replace(b'"livemode": false', b'"livemode": true')
    await ingest(rig, live)
    assert await outcome(rig, "evt_4") == "stored: it is of another mode than the Stripe key"
    assert await outcome(rig, "evt_1") == "stored: it is about no PaymentIntent"
    assert await outcome(rig, "evt_2") == await outcome(rig, "evt_3") == "stored: its PaymentIntent is of no recharge"


async def test_an_event_says_when_to_look_and_never_what_is_true(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    metadata = {"org": rig.org, "recharge": name}
    # It claims a success that Stripe does not know of.
    await ingest(rig, event("evt_1", id=intent, metadata=metadata))
    assert await outcome(rig, "evt_1") == f"{name} is PENDING"
    assert (await rig.recharge(name)).payment_intent == intent
    await confirm(rig, asked, intent)
    # An event from before the charge comes late, and finds the charge.
    await ingest(rig, event("evt_0", "payment_intent.created", id=intent, metadata=metadata))
    assert await outcome(rig, "evt_0") == f"{name} is SUCCEEDED"
    await ingest(rig, event("evt_2", "payment_intent.payment_failed", id=intent, metadata=metadata))
    assert await outcome(rig, "evt_2") == f"{name} is SUCCEEDED"
    assert await rig.audit_failures() == []


async def test_while_stripe_is_out_of_reach_events_wait(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await confirm(rig, asked, intent)
    await rig.twin.fault("error_500_before", "GET /v1/payment_intents/*", times=3)
    await ingest(rig, event("evt_1", id=intent, metadata={"org": rig.org, "recharge": name}))
    async with asyncio.timeout(20):
        while await rig.sql.fetchval("SELECT tries FROM stripe_events") < 1:
            await asyncio.sleep(0.02)
    assert (await rig.recharge(name)).state == PENDING
    await rig.twin.clear_faults()
    await rig.sql.execute("UPDATE stripe_events SET due_at = clock_timestamp()")
    assert await outcome(rig, "evt_1") == f"{name} is SUCCEEDED"
    assert (await rig.recharge(name)).state == SUCCEEDED
    signals = await rig.sql.fetchval("SELECT count(*) FROM outbox WHERE topic = 'recharge-signal' AND key = $1", name)
    assert signals == 1


async def test_events_that_come_together_about_one_payment_are_one_look(rig: Rig) -> None:
    name = await start(rig)
    intent = await create(rig, await rig.authorize(name))
    await ingest(rig, event("evt_0", id=intent, metadata={"org": rig.org, "recharge": name}))
    await outcome(rig, "evt_0")
    await rig.twin.fault("slow:0", "GET /v1/payment_intents/*", times=100)
    ids = [f"evt_{number}" for number in range(1, 9)]
    await rig.sql.execute(
        "INSERT INTO stripe_events (org, id, type, payload_hash, payload, livemode, payment_intent, recharge,"
        " object_id, received_at, due_at) SELECT org, unnest($1::text[]), type, payload_hash, '', livemode,"
        " payment_intent, recharge, object_id, clock_timestamp(), clock_timestamp()"
        " FROM stripe_events WHERE id = 'evt_0'",
        ids,
    )
    # Another event wakes the loop.
    await ingest(rig, event("evt_wake", "customer.created", object="customer", id="cus_1"))
    assert {await outcome(rig, one) for one in ids} == {f"{name} is PENDING"}
    assert await rig.twin.fired() < len(ids)
