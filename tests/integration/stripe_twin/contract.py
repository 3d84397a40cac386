"""What Stripe documents and Pursestrings relies on, as checks that hold on Stripe and on the twin alike.

Each check takes a client, makes its own objects and leaves others' alone. Only documented behaviour is
here: a check that passes on the twin and fails in Stripe's test mode is a bug of the twin.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from tests.integration.stripe_twin.harness import eventually

Check = Callable[[StripeClient], Awaitable[None]]


def new_key() -> str:
    return f"contract-{uuid.uuid4()}"


async def new_customer(client: StripeClient) -> str:
    customer = await client.v1.customers.create_async({"metadata": {"source": "pursestrings-contract"}})
    return customer.id


async def customer_with(client: StripeClient, card: str) -> tuple[str, str]:
    customer = await new_customer(client)
    method = await client.v1.payment_methods.attach_async(card, {"customer": customer})
    return customer, method.id


async def create(client: StripeClient, *, key: str | None = None, **params: Any) -> stripe.PaymentIntent:
    """A PaymentIntent for cards, with `key` as its idempotency key."""
    sent: Any = {"amount": 2000, "currency": "usd", "allowed_payment_method_types": ["card"], **params}
    return await client.v1.payment_intents.create_async(sent, {"idempotency_key": key})


async def pay(
    client: StripeClient, customer: str, method: str, *, key: str | None = None, **params: Any
) -> stripe.PaymentIntent:
    """Charge a saved card off session, in one call."""
    return await create(
        client,
        key=key,
        **{"customer": customer, "payment_method": method, "off_session": True, "confirm": True, **params},
    )


async def set_up(client: StripeClient, **params: Any) -> stripe.SetupIntent:
    """A SetupIntent for cards."""
    sent: Any = {"allowed_payment_method_types": ["card"], **params}
    return await client.v1.setup_intents.create_async(sent)


def replayed(answer: stripe.StripeObject) -> str | None:
    """The answer's `Idempotent-Replayed` header."""
    response: Any = answer.last_response
    value: str | None = response.headers.get("idempotent-replayed")
    return value


def embedded_intent(error: stripe.CardError) -> Any:
    assert error.error is not None
    assert error.error.payment_intent is not None
    return error.error.payment_intent


async def it_is_test_mode(client: StripeClient) -> None:
    customer = await client.v1.customers.create_async({"email": "jenny@example.com"})
    assert customer.livemode is False
    assert customer.id.startswith("cus_")
    assert customer.email == "jenny@example.com"


async def a_wrong_key_is_refused(client: StripeClient) -> None:
    with pytest.raises(stripe.AuthenticationError) as refused:
        await client.v1.customers.retrieve_async("cus_any", options={"api_key": "sk_live_not_a_key"})
    assert refused.value.http_status == 401


async def metadata_is_merged(client: StripeClient) -> None:
    customer = await client.v1.customers.create_async({"metadata": {"kept": "1", "removed": "2"}})
    updated = await client.v1.customers.update_async(customer.id, {"metadata": {"added": "3", "removed": ""}})
    assert updated.metadata is not None
    assert updated.metadata.to_dict() == {"kept": "1", "added": "3"}
    again = await client.v1.customers.retrieve_async(customer.id)
    assert again.metadata == updated.metadata


async def attaching_a_test_card_makes_a_new_method(client: StripeClient) -> None:
    customer = await new_customer(client)
    first = await client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})
    second = await client.v1.payment_methods.attach_async("pm_card_mastercard", {"customer": customer})
    assert "pm_card_visa" != first.id != second.id
    assert first.customer == customer
    assert first.card is not None
    assert (first.card.brand, first.card.last4) == ("visa", "4242")
    assert second.card is not None
    assert (second.card.brand, second.card.last4) == ("mastercard", "4444")
    listed = await client.v1.customers.payment_methods.list_async(customer)
    assert {first.id, second.id} == {method.id for method in listed.data}


async def a_card_from_a_token_belongs_to_nobody(client: StripeClient) -> None:
    method = await client.v1.payment_methods.create_async({"type": "card", "card": {"token": "tok_visa"}})
    assert method.customer is None
    customer = await new_customer(client)
    attached = await client.v1.payment_methods.attach_async(method.id, {"customer": customer})
    assert (attached.id, attached.customer) == (method.id, customer)


async def a_detached_card_is_gone_for_good(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    detached = await client.v1.payment_methods.detach_async(method)
    assert detached.customer is None
    listed = await client.v1.customers.payment_methods.list_async(customer)
    assert listed.data == []
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_methods.attach_async(method, {"customer": customer})


async def the_default_card_is_kept_on_the_customer(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    updated = await client.v1.customers.update_async(customer, {"invoice_settings": {"default_payment_method": method}})
    assert updated.invoice_settings is not None
    assert updated.invoice_settings.default_payment_method == method


async def refused_cards_cannot_be_attached(client: StripeClient) -> None:
    customer = await new_customer(client)
    for card, decline_code in (
        ("pm_card_visa_chargeDeclined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    ):
        with pytest.raises(stripe.CardError) as refused:
            await client.v1.payment_methods.attach_async(card, {"customer": customer})
        assert refused.value.http_status == 402
        assert refused.value.code == "card_declined"
        assert refused.value.error is not None
        assert refused.value.error.decline_code == decline_code
    assert (await client.v1.customers.payment_methods.list_async(customer)).data == []


async def a_saved_card_pays_off_session(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    intent = await pay(client, customer, method, metadata={"recharge": "r1"}, expand=["latest_charge"])
    assert intent.status == "succeeded"
    assert (intent.amount, intent.amount_received, intent.currency) == (2000, 2000, "usd")
    assert (intent.customer, intent.livemode) == (customer, False)
    assert intent.metadata.to_dict() == {"recharge": "r1"}
    charge = intent.latest_charge
    assert isinstance(charge, stripe.Charge)
    assert (charge.status, charge.paid, charge.amount_captured, charge.payment_intent) == (
        "succeeded",
        True,
        2000,
        intent.id,
    )
    again = await client.v1.payment_intents.retrieve_async(intent.id)
    assert again.latest_charge == charge.id


async def creation_and_confirmation_may_be_two_steps(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    intent = await create(client, amount=1500, customer=customer)
    assert (intent.status, intent.amount_received, intent.latest_charge) == ("requires_payment_method", 0, None)
    updated = await client.v1.payment_intents.update_async(intent.id, {"payment_method": method})
    assert updated.status == "requires_confirmation"
    confirmed = await client.v1.payment_intents.confirm_async(intent.id, {"off_session": True})
    assert (confirmed.id, confirmed.status, confirmed.amount_received) == (intent.id, "succeeded", 1500)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.payment_intents.confirm_async(intent.id)
    assert refused.value.code == "payment_intent_unexpected_state"


async def confirming_needs_a_payment_method(client: StripeClient) -> None:
    intent = await create(client)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.payment_intents.confirm_async(intent.id)
    assert refused.value.code == "payment_intent_unexpected_state"


async def a_declined_charge_is_a_402_with_the_intent(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_chargeCustomerFail")
    with pytest.raises(stripe.CardError) as declined:
        await pay(client, customer, method)
    error = declined.value
    assert (error.http_status, error.code) == (402, "card_declined")
    assert error.error is not None
    assert error.error.decline_code == "generic_decline"
    intent = await client.v1.payment_intents.retrieve_async(embedded_intent(error).id)
    assert intent.status == "requires_payment_method"
    assert (intent.amount_received, intent.payment_method) == (0, None)
    assert intent.last_payment_error is not None
    assert (intent.last_payment_error.code, intent.last_payment_error.type) == ("card_declined", "card_error")
    charge = await client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert (charge.status, charge.paid, charge.failure_code) == ("failed", False, "card_declined")


async def declines_say_why(client: StripeClient) -> None:
    for card, code, decline_code in (
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", "processing_error"),
    ):
        with pytest.raises(stripe.CardError) as declined:
            await create(client, payment_method=card, confirm=True)
        assert declined.value.error is not None
        assert (declined.value.code, declined.value.error.decline_code) == (code, decline_code)


async def another_card_pays_the_same_intent(client: StripeClient) -> None:
    customer, failing = await customer_with(client, "pm_card_chargeCustomerFail")
    with pytest.raises(stripe.CardError) as declined:
        await pay(client, customer, failing)
    good = await client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})
    intent = await client.v1.payment_intents.confirm_async(
        embedded_intent(declined.value).id, {"payment_method": good.id, "off_session": True}
    )
    assert (intent.status, intent.last_payment_error) == ("succeeded", None)


async def authentication_off_session_is_a_decline(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_authenticationRequired")
    with pytest.raises(stripe.CardError) as declined:
        await pay(client, customer, method)
    assert (declined.value.http_status, declined.value.code) == (402, "authentication_required")
    intent = await client.v1.payment_intents.retrieve_async(embedded_intent(declined.value).id)
    assert intent.status == "requires_payment_method"
    on_session = await client.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": method, "return_url": "https://example.com/back"}
    )
    assert on_session.status == "requires_action"
    assert on_session.next_action is not None


async def authentication_on_session_is_an_action(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_authenticationRequired")
    intent = await create(
        client, customer=customer, payment_method=method, confirm=True, return_url="https://example.com/back"
    )
    assert (intent.status, intent.amount_received) == ("requires_action", 0)
    assert intent.next_action is not None
    assert intent.next_action.type == "redirect_to_url"
    assert intent.next_action.redirect_to_url is not None
    assert intent.next_action.redirect_to_url.return_url == "https://example.com/back"
    assert (await client.v1.payment_intents.cancel_async(intent.id)).status == "canceled"


async def canceling_is_final(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    intent = await create(client, customer=customer, payment_method=method)
    assert intent.status == "requires_confirmation"
    canceled = await client.v1.payment_intents.cancel_async(intent.id, {"cancellation_reason": "abandoned"})
    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "abandoned")
    assert canceled.canceled_at is not None
    for again in (client.v1.payment_intents.cancel_async, client.v1.payment_intents.confirm_async):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await again(intent.id)
        assert refused.value.code == "payment_intent_unexpected_state"


async def what_succeeded_cannot_be_canceled(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    intent = await pay(client, customer, method)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.payment_intents.cancel_async(intent.id)
    assert refused.value.code == "payment_intent_unexpected_state"


async def a_card_pays_only_for_its_customer(client: StripeClient) -> None:
    _, method = await customer_with(client, "pm_card_visa")
    with pytest.raises(stripe.InvalidRequestError):
        await pay(client, await new_customer(client), method)


async def a_key_replays_its_answer(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    once = new_key()
    first = await pay(client, customer, method, key=once)
    second = await pay(client, customer, method, key=once)
    assert first.id == second.id
    assert replayed(first) is None
    assert replayed(second) == "true"
    listed = await client.v1.payment_intents.list_async({"customer": customer})
    assert [first.id] == [intent.id for intent in listed.data]
    third = await pay(client, customer, method, key=new_key())
    assert first.id != third.id


async def a_key_replays_a_decline(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_chargeCustomerFail")
    once = new_key()
    seen = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as declined:
            await pay(client, customer, method, key=once)
        seen.append(embedded_intent(declined.value).id)
    assert seen[0] == seen[1]
    assert len((await client.v1.payment_intents.list_async({"customer": customer})).data) == 1


async def a_key_is_bound_to_its_request(client: StripeClient) -> None:
    customer = await new_customer(client)
    once = new_key()
    await client.v1.customers.update_async(customer, {"name": "first"}, {"idempotency_key": once})
    with pytest.raises(stripe.IdempotencyError):
        await client.v1.customers.update_async(customer, {"name": "second"}, {"idempotency_key": once})
    with pytest.raises(stripe.IdempotencyError):
        await client.v1.customers.create_async({"name": "first"}, {"idempotency_key": once})
    assert (await client.v1.customers.retrieve_async(customer)).name == "first"


async def a_refused_parameter_does_not_use_up_the_key(client: StripeClient) -> None:
    once = new_key()
    incomplete: Any = {"currency": "usd"}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.payment_intents.create_async(incomplete, {"idempotency_key": once})
    assert (refused.value.code, refused.value.param) == ("parameter_missing", "amount")
    intent = await create(client, key=once, amount=500)
    assert intent.amount == 500


async def amounts_are_in_minor_units(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    yen = await pay(client, customer, method, amount=500, currency="jpy")
    assert (yen.amount_received, yen.currency) == (500, "jpy")
    for amount, currency in ((49, "usd"), (29, "gbp"), (49, "jpy")):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await pay(client, customer, method, amount=amount, currency=currency)
        assert refused.value.code == "amount_too_small"
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await pay(client, customer, method, amount=100_000_000)
    assert refused.value.code == "amount_too_large"


async def unknown_currencies_and_parameters_are_refused(client: StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await create(client, currency="zzz")
    assert refused.value.param == "currency"
    with pytest.raises(stripe.InvalidRequestError) as unknown:
        await create(client, no_such_parameter="1")
    assert unknown.value.code == "parameter_unknown"
    with pytest.raises(stripe.InvalidRequestError) as old:
        await create(client, payment_method_types=["card"])
    assert old.value.code == "payment_method_types_no_longer_supported"


async def what_does_not_exist_is_said_to_be_missing(client: StripeClient) -> None:
    for retrieve in (
        client.v1.customers.retrieve_async,
        client.v1.payment_intents.retrieve_async,
        client.v1.payment_methods.retrieve_async,
        client.v1.charges.retrieve_async,
    ):
        with pytest.raises(stripe.InvalidRequestError) as missing:
            await retrieve("no_such_thing")
        assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")


async def lists_are_paged_newest_first(client: StripeClient) -> None:
    customer = await new_customer(client)
    made = [await create(client, amount=500 + number, customer=customer) for number in range(3)]
    newest_first = [intent.id for intent in reversed(made)]
    first = await client.v1.payment_intents.list_async({"customer": customer, "limit": 2})
    assert newest_first[:2] == [intent.id for intent in first.data]
    assert first.has_more is True
    rest = await client.v1.payment_intents.list_async(
        {"customer": customer, "limit": 2, "starting_after": first.data[-1].id}
    )
    assert newest_first[2:] == [intent.id for intent in rest.data]
    assert rest.has_more is False
    since = made[0].created
    recent = await client.v1.payment_intents.list_async({"customer": customer, "created": {"gte": since}})
    assert newest_first == [intent.id for intent in recent.data]
    later = await client.v1.payment_intents.list_async({"customer": customer, "created": {"gt": since + 3600}})
    assert later.data == []


async def a_page_holds_at_most_a_hundred(client: StripeClient) -> None:
    for limit in (0, 101):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await client.v1.customers.list_async({"limit": limit})
        assert refused.value.param == "limit"


async def a_setup_intent_saves_a_card_for_later(client: StripeClient) -> None:
    customer = await new_customer(client)
    intent = await set_up(client, customer=customer, payment_method="pm_card_visa", usage="off_session", confirm=True)
    assert intent.status == "succeeded"
    method = str(intent.payment_method)
    assert method != "pm_card_visa"
    listed = await client.v1.customers.payment_methods.list_async(customer)
    assert [method] == [item.id for item in listed.data]
    assert (await pay(client, customer, method)).status == "succeeded"


async def a_setup_intent_waits_for_its_card(client: StripeClient) -> None:
    intent = await set_up(client, customer=await new_customer(client))
    assert intent.status == "requires_payment_method"
    assert intent.client_secret is not None
    done = await client.v1.setup_intents.confirm_async(intent.id, {"payment_method": "pm_card_mastercard"})
    assert done.status == "succeeded"
    assert (await client.v1.setup_intents.retrieve_async(intent.id)).payment_method == done.payment_method


async def setting_up_may_need_the_cardholder(client: StripeClient) -> None:
    intent = await set_up(
        client,
        customer=await new_customer(client),
        payment_method="pm_card_authenticationRequiredOnSetup",
        confirm=True,
        return_url="https://example.com/back",
    )
    assert intent.status == "requires_action"
    assert intent.next_action is not None


async def setting_up_a_refused_card_is_a_402(client: StripeClient) -> None:
    customer = await new_customer(client)
    with pytest.raises(stripe.CardError) as declined:
        await set_up(client, customer=customer, payment_method="pm_card_visa_chargeDeclined", confirm=True)
    assert (declined.value.http_status, declined.value.code) == (402, "card_declined")


async def redirects_need_somewhere_to_return_to(client: StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_intents.create_async(
            {
                "amount": 2000,
                "currency": "usd",
                "customer": customer,
                "payment_method": method,
                "confirm": True,
                "automatic_payment_methods": {"enabled": True},
            }
        )


async def events_tell_what_happened(client: StripeClient) -> None:
    started = int(time.time()) - 60
    customer, method = await customer_with(client, "pm_card_visa")
    intent = await pay(client, customer, method)

    async def found() -> stripe.Event | None:
        events = await client.v1.events.list_async(
            {"type": "payment_intent.succeeded", "created": {"gte": started}, "limit": 100}
        )
        return next((event for event in events.data if event.data.object["id"] == intent.id), None)

    event = await eventually(found)
    assert event.data.object["status"] == "succeeded"
    assert event.livemode is False
    again = await client.v1.events.retrieve_async(event.id)
    assert (again.id, again.type) == (event.id, "payment_intent.succeeded")


CONTRACT: tuple[Check, ...] = (
    it_is_test_mode,
    a_wrong_key_is_refused,
    metadata_is_merged,
    attaching_a_test_card_makes_a_new_method,
    a_card_from_a_token_belongs_to_nobody,
    a_detached_card_is_gone_for_good,
    the_default_card_is_kept_on_the_customer,
    refused_cards_cannot_be_attached,
    a_saved_card_pays_off_session,
    creation_and_confirmation_may_be_two_steps,
    confirming_needs_a_payment_method,
    a_declined_charge_is_a_402_with_the_intent,
    declines_say_why,
    another_card_pays_the_same_intent,
    authentication_off_session_is_a_decline,
    authentication_on_session_is_an_action,
    canceling_is_final,
    what_succeeded_cannot_be_canceled,
    a_card_pays_only_for_its_customer,
    a_key_replays_its_answer,
    a_key_replays_a_decline,
    a_key_is_bound_to_its_request,
    a_refused_parameter_does_not_use_up_the_key,
    amounts_are_in_minor_units,
    unknown_currencies_and_parameters_are_refused,
    what_does_not_exist_is_said_to_be_missing,
    lists_are_paged_newest_first,
    a_page_holds_at_most_a_hundred,
    a_setup_intent_saves_a_card_for_later,
    a_setup_intent_waits_for_its_card,
    setting_up_may_need_the_cardholder,
    setting_up_a_refused_card_is_a_402,
    redirects_need_somewhere_to_return_to,
    events_tell_what_happened,
)
