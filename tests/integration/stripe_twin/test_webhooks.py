"""Webhooks: signed as the SDK checks them, at least once, with every trouble that Stripe promises."""

from __future__ import annotations

import time

import pytest
import stripe

from tests.integration.stripe_twin.contract import create, customer_with, pay
from tests.integration.stripe_twin.harness import SECRET, Receiver, TwinProcess, eventually

DAY_S = 24 * 3600


async def pending(twin: TwinProcess) -> int:
    deliveries = twin.state()["deliveries"]
    return int(deliveries.get("pending", 0)) + int(deliveries.get("held", 0))


async def until_idle(twin: TwinProcess) -> None:
    async def idle() -> bool:
        return await pending(twin) == 0

    await eventually(idle)


async def test_the_sdk_accepts_the_signature(notifying_client: stripe.StripeClient, receiver: Receiver) -> None:
    customer, method = await customer_with(notifying_client, "pm_card_visa")
    intent = await pay(notifying_client, customer, method, metadata={"recharge": "r1"})
    received = receiver.wait_for_types("payment_intent.succeeded")
    for item in received:
        event = notifying_client.construct_event(item.body, item.signature, SECRET)
        assert (event.livemode, event.api_version) == (False, "2026-10-28.endive")
    (succeeded,) = [item.event for item in received if item.event["type"] == "payment_intent.succeeded"]
    told = succeeded["data"]["object"]
    assert (told["id"], told["status"], told["amount_received"]) == (intent.id, "succeeded", 2000)
    assert told["metadata"] == {"recharge": "r1"}
    assert succeeded["pending_webhooks"] == 1


async def test_a_changed_body_or_another_secret_is_not_accepted(
    notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    await notifying_client.v1.customers.create_async({})
    (item,) = receiver.wait_for_types("customer.created")
    with pytest.raises(stripe.SignatureVerificationError):
        notifying_client.construct_event(item.body + b" ", item.signature, SECRET)
    with pytest.raises(stripe.SignatureVerificationError):
        notifying_client.construct_event(item.body, item.signature, "whsec_other")


async def test_every_step_of_a_payment_is_announced(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    customer, method = await customer_with(notifying_client, "pm_card_visa")
    notifying_twin.fault("decline:generic_decline")
    with pytest.raises(stripe.CardError):
        await pay(notifying_client, customer, method)
    notifying_twin.fault("stay_processing")
    processing = await pay(notifying_client, customer, method)
    notifying_twin.control(f"payment_intents/{processing.id}/complete_action", {"outcome": "succeeded"})
    challenged = await create(
        notifying_client, payment_method="pm_card_authenticationRequired", confirm=True, customer=customer
    )
    await notifying_client.v1.payment_intents.cancel_async(challenged.id)
    receiver.wait_for_types(
        "customer.created",
        "payment_method.attached",
        "payment_intent.created",
        "payment_intent.payment_failed",
        "charge.failed",
        "payment_intent.processing",
        "charge.pending",
        "payment_intent.succeeded",
        "charge.succeeded",
        "payment_intent.requires_action",
        "payment_intent.canceled",
    )


async def test_a_refusal_is_retried_with_growing_pauses(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    receiver.status = 500
    await notifying_client.v1.customers.create_async({})
    for attempts in range(1, 5):
        receiver.wait_for(lambda all_, least=attempts: len(all_) >= least)  # type: ignore[misc]
        notifying_twin.control("clock", {"advance_s": 2**attempts})
    receiver.status = 200
    notifying_twin.control("clock", {"advance_s": 3600})
    await until_idle(notifying_twin)
    received = receiver.of_type("customer.created")
    assert len(received) > 4
    assert len({item.event["id"] for item in received}) == 1
    assert notifying_twin.state()["deliveries"] == {"delivered": 1}


async def test_retries_end_after_three_days(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    receiver.status = 503
    await notifying_client.v1.customers.create_async({})
    receiver.wait_for(lambda all_: len(all_) >= 1)
    notifying_twin.control("clock", {"advance_s": 4 * DAY_S})
    await until_idle(notifying_twin)
    assert notifying_twin.state()["deliveries"] == {"gave_up": 1}
    # Given up is not forgotten: it can be listed, and sent again on demand.
    receiver.status = 200
    (event,) = (await notifying_client.v1.events.list_async({"type": "customer.created"})).data
    assert notifying_twin.control("redeliver", {"event": event.id}) == {"queued": 1}
    await until_idle(notifying_twin)
    assert notifying_twin.state()["deliveries"] == {"delivered": 1, "gave_up": 1}


async def test_the_signature_keeps_to_real_time(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    notifying_twin.control("clock", {"advance_s": 30 * DAY_S})
    await notifying_client.v1.customers.create_async({})
    (item,) = receiver.wait_for_types("customer.created")
    event = notifying_client.construct_event(item.body, item.signature, SECRET)
    assert event.created > time.time() + 29 * DAY_S
    assert abs(int(item.signature.split(",")[0].removeprefix("t=")) - time.time()) < 300


async def test_a_dropped_event_arrives_only_when_asked_for(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    notifying_twin.fault("drop", "payment_intent.succeeded")
    customer, method = await customer_with(notifying_client, "pm_card_visa")
    await pay(notifying_client, customer, method)
    receiver.wait_for_types("charge.succeeded")
    await until_idle(notifying_twin)
    assert receiver.of_type("payment_intent.succeeded") == []
    total = sum(notifying_twin.state()["deliveries"].values())
    assert notifying_twin.control("redeliver", {"all": True}) == {"queued": total}
    receiver.wait_for_types("payment_intent.succeeded")
    receiver.wait_for(lambda all_: len(all_) == 2 * total - 1)


async def test_a_duplicate_is_the_same_event(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    notifying_twin.fault("duplicate:3", "customer.created")
    await notifying_client.v1.customers.create_async({})
    received = receiver.wait_for(lambda all_: len(all_) >= 3)
    assert len({item.event["id"] for item in received}) == 1


async def test_a_reordered_event_comes_after_the_next(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    notifying_twin.fault("reorder", "customer.created")
    customer = await notifying_client.v1.customers.create_async({})
    await notifying_client.v1.customers.update_async(customer.id, {"name": "later"})
    received = receiver.wait_for_types("customer.created", "customer.updated")
    assert ["customer.updated", "customer.created"] == [item.event["type"] for item in received]


async def test_a_reordered_event_without_a_next_waits_a_minute(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    notifying_twin.fault("reorder", "customer.created")
    await notifying_client.v1.customers.create_async({})
    assert notifying_twin.state()["deliveries"] == {"held": 1}
    notifying_twin.control("clock", {"advance_s": 60})
    receiver.wait_for_types("customer.created")


async def test_a_delayed_event_waits_for_the_clock(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    notifying_twin.fault(f"delay:{2 * DAY_S}", "customer.created")
    customer = await notifying_client.v1.customers.create_async({})
    await notifying_client.v1.customers.update_async(customer.id, {"name": "later"})
    receiver.wait_for_types("customer.updated")
    assert receiver.of_type("customer.created") == []
    notifying_twin.control("clock", {"advance_s": 2 * DAY_S})
    receiver.wait_for_types("customer.created")


async def test_a_header_decides_over_the_events_of_its_request(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    await notifying_client.v1.customers.create_async({"name": "a"}, {"headers": {"Twin-Fault": "drop"}})
    await notifying_client.v1.customers.create_async({"name": "b"})
    (item,) = receiver.wait_for_types("customer.created")
    assert item.event["data"]["object"]["name"] == "b"


async def test_an_endpoint_gets_what_it_asked_for(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    other = Receiver()
    try:
        made = notifying_twin.control(
            "webhook_endpoints", {"url": other.url, "enabled_events": ["payment_method.attached"]}
        )
        await customer_with(notifying_client, "pm_card_visa")
        (item,) = other.wait_for_types("payment_method.attached")
        assert stripe.WebhookSignature.verify_header(item.body, item.signature, made["secret"], 300)
        receiver.wait_for_types("customer.created", "payment_method.attached")
        assert item.event["pending_webhooks"] == 2
        notifying_twin.control(f"webhook_endpoints/{made['id']}", method="DELETE")
        await notifying_client.v1.payment_methods.attach_async(
            "pm_card_visa", {"customer": item.event["data"]["object"]["customer"]}
        )
        receiver.wait_for(lambda all_: sum(it.event["type"] == "payment_method.attached" for it in all_) == 2)
        assert len(other.of_type("payment_method.attached")) == 1
    finally:
        other.close()
