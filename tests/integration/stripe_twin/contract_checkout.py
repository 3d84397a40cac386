"""The contract of Checkout sessions, search and manual capture, as far as no page must be clicked."""

from __future__ import annotations

from typing import Any

import pytest
import stripe
from stripe import StripeClient

from tests.integration.stripe_twin.contract import Check, create, customer_with, new_customer, new_key, pay

BACK = "https://example.com/done?session={CHECKOUT_SESSION_ID}"


async def session(client: StripeClient, *, key: str | None = None, **params: Any) -> stripe.checkout.Session:
    sent: Any = {"mode": "payment", "success_url": BACK, "cancel_url": "https://example.com/no", **params}
    return await client.v1.checkout.sessions.create_async(sent, {"idempotency_key": key} if key else {})


def item(amount: int = 2500, currency: str = "usd") -> dict[str, Any]:
    return {
        "quantity": 1,
        "price_data": {"currency": currency, "unit_amount": amount, "product_data": {"name": "Top-up"}},
    }


async def a_payment_session_waits_for_its_customer(client: StripeClient) -> None:
    customer = await new_customer(client)
    once = new_key()
    made = await session(client, key=once, customer=customer, line_items=[item()], metadata={"order": "7"})
    assert (made.mode, made.status, made.payment_status) == ("payment", "open", "unpaid")
    assert (made.amount_total, made.currency, made.customer) == (2500, "usd", customer)
    assert made.url is not None
    assert made.id.startswith("cs_test_")
    assert (
        await session(client, key=once, customer=customer, line_items=[item()], metadata={"order": "7"})
    ).id == made.id
    again = await client.v1.checkout.sessions.retrieve_async(made.id)
    assert again.metadata is not None
    assert again.metadata.to_dict() == {"order": "7"}
    assert again.payment_intent is None
    listed = await client.v1.checkout.sessions.list_async({"customer": customer, "status": "open"})
    assert [made.id] == [one.id for one in listed.data]


async def a_setup_session_saves_a_card_for_later(client: StripeClient) -> None:
    customer = await new_customer(client)
    made = await session(
        client, mode="setup", customer=customer, currency="usd", setup_intent_data={"metadata": {"wallet": "w"}}
    )
    assert (made.mode, made.status, made.payment_status) == ("setup", "open", "no_payment_required")
    assert made.amount_total is None
    intent = await client.v1.setup_intents.retrieve_async(str(made.setup_intent))
    assert (intent.status, intent.customer) == ("requires_payment_method", customer)
    assert intent.metadata is not None
    assert intent.metadata.to_dict() == {"wallet": "w"}
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.setup_intents.cancel_async(intent.id)


async def an_expired_session_is_over(client: StripeClient) -> None:
    made = await session(client, line_items=[item()])
    ended = await client.v1.checkout.sessions.expire_async(made.id)
    assert (ended.status, ended.url) == ("expired", None)
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.checkout.sessions.expire_async(made.id)


async def wrong_sessions_are_refused(client: StripeClient) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"line_items": [item(49)]},
        {"line_items": [item()], "expires_at": 1},
        {"line_items": [item()], "customer": "cus_none"},
        {"mode": "setup", "line_items": [item()], "currency": "usd"},
        {"line_items": [item()], "success_url": "nowhere"},
    ]
    for params in wrong:
        with pytest.raises(stripe.InvalidRequestError):
            await session(client, **params)


async def a_search_finds_what_is_old_enough(client: StripeClient) -> None:
    await client.v1.payment_intents.search_async({"query": 'status:"succeeded" AND amount>100', "limit": 1})
    for wrong in ("nonsense", 'status:"a" AND amount>1 OR amount<2'):
        with pytest.raises(stripe.InvalidRequestError):
            await client.v1.payment_intents.search_async({"query": wrong})


async def an_authorised_amount_is_captured_later(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    held = await pay(client, customer, method, capture_method="manual")
    assert (held.status, held.amount_capturable, held.amount_received) == ("requires_capture", 2000, 0)
    taken = await client.v1.payment_intents.capture_async(held.id, {"amount_to_capture": 1500})
    assert (taken.status, taken.amount_capturable, taken.amount_received) == ("succeeded", 0, 1500)
    other = await pay(client, customer, method, capture_method="manual")
    assert (await client.v1.payment_intents.cancel_async(other.id)).status == "canceled"
    unpaid = await create(client, customer=customer)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.payment_intents.capture_async(unpaid.id)
    assert refused.value.code == "payment_intent_unexpected_state"


CHECKOUT: tuple[Check, ...] = (
    a_payment_session_waits_for_its_customer,
    a_setup_session_saves_a_card_for_later,
    an_expired_session_is_over,
    wrong_sessions_are_refused,
    a_search_finds_what_is_old_enough,
    an_authorised_amount_is_captured_later,
)
