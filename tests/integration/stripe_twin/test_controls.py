"""The clock, the cardholder's page, the limits, and what the twin says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.integration.stripe_twin.contract import (
    create,
    customer_with,
    embedded_intent,
    new_customer,
    new_key,
    pay,
    replayed,
    set_up,
)
from tests.integration.stripe_twin.harness import TEST_KEY, TwinProcess

KEY = {"Authorization": f"Bearer {TEST_KEY}"}


async def test_a_key_is_forgotten_after_a_day(twin: TwinProcess, client: stripe.StripeClient) -> None:
    once = new_key()
    first = await create(client, key=once)
    twin.control("clock", {"advance_s": 24 * 3600 - 60})
    assert (await create(client, key=once)).id == first.id
    twin.control("clock", {"advance_s": 120})
    second = await create(client, key=once, amount=3000)
    assert first.id != second.id
    assert replayed(second) is None


async def test_a_missing_customer_is_an_answer_that_its_key_keeps(client: stripe.StripeClient) -> None:
    once = new_key()
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await create(client, key=once, customer="cus_none")
        assert (refused.value.code, refused.value.param) == ("resource_missing", "customer")
    headers: dict[str, str] = dict(refused.value.headers or {})
    assert headers["idempotent-replayed"] == "true"


async def test_created_objects_follow_the_clock(twin: TwinProcess, client: stripe.StripeClient) -> None:
    before = (await create(client)).created
    twin.control("clock", {"advance_s": 10_000})
    assert (await create(client)).created >= before + 10_000


async def test_completing_an_action_makes_the_payment(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_authenticationRequired")
    with pytest.raises(stripe.CardError) as declined:
        await pay(client, customer, method)
    intent_id = embedded_intent(declined.value).id
    challenged = await client.v1.payment_intents.confirm_async(intent_id, {"payment_method": method})
    assert challenged.status == "requires_action"
    twin.control(f"payment_intents/{intent_id}/complete_action", {"outcome": "succeeded"})
    paid = await client.v1.payment_intents.retrieve_async(intent_id)
    assert (paid.status, paid.amount_received, paid.next_action) == ("succeeded", 2000, None)
    refused = twin.send("POST", f"/_twin/payment_intents/{intent_id}/complete_action", json={})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "payment_intent_unexpected_state"


async def test_failing_an_action_opens_the_intent_again(twin: TwinProcess, client: stripe.StripeClient) -> None:
    intent = await create(client, payment_method="pm_card_authenticationRequired", confirm=True)
    twin.control(f"payment_intents/{intent.id}/complete_action", {"outcome": "failed"})
    failed = await client.v1.payment_intents.retrieve_async(intent.id)
    assert (failed.status, failed.payment_method, failed.latest_charge) == ("requires_payment_method", None, None)
    assert failed.last_payment_error is not None
    assert failed.last_payment_error.code == "payment_intent_authentication_failure"


async def test_authentication_does_not_fill_an_empty_card(twin: TwinProcess, client: stripe.StripeClient) -> None:
    card = "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds"
    intent = await create(client, payment_method=card, confirm=True)
    twin.control(f"payment_intents/{intent.id}/complete_action", {"outcome": "succeeded"})
    failed = await client.v1.payment_intents.retrieve_async(intent.id)
    assert failed.status == "requires_payment_method"
    assert failed.last_payment_error is not None
    assert failed.last_payment_error.decline_code == "insufficient_funds"


async def test_a_card_set_up_with_authentication_pays_off_session(
    twin: TwinProcess, client: stripe.StripeClient
) -> None:
    customer = await new_customer(client)
    intent = await set_up(
        client, customer=customer, payment_method="pm_card_authenticationRequiredOnSetup", confirm=True
    )
    assert intent.status == "requires_action"
    assert (await client.v1.customers.payment_methods.list_async(customer)).data == []
    twin.control(f"setup_intents/{intent.id}/complete_action", {"outcome": "succeeded"})
    done = await client.v1.setup_intents.retrieve_async(intent.id)
    assert done.status == "succeeded"
    assert (await pay(client, customer, str(done.payment_method))).status == "succeeded"


async def test_the_same_card_merely_attached_asks_for_authentication(client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_authenticationRequiredOnSetup")
    with pytest.raises(stripe.CardError) as declined:
        await pay(client, customer, method)
    assert declined.value.code == "authentication_required"


async def test_a_failed_setup_saves_nothing(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer = await new_customer(client)
    intent = await set_up(client, customer=customer, payment_method="pm_card_authenticationRequired", confirm=True)
    twin.control(f"setup_intents/{intent.id}/complete_action", {"outcome": "failed"})
    failed = await client.v1.setup_intents.retrieve_async(intent.id)
    assert failed.status == "requires_payment_method"
    assert failed.last_setup_error is not None
    assert failed.last_setup_error.code == "setup_intent_authentication_failure"
    assert (await client.v1.customers.payment_methods.list_async(customer)).data == []


async def test_the_page_pays_and_returns(twin: TwinProcess, client: stripe.StripeClient) -> None:
    back = "https://example.com/back?order=7"
    intent = await create(client, payment_method="pm_card_authenticationRequired", confirm=True, return_url=back)
    assert intent.next_action is not None
    assert intent.next_action.redirect_to_url is not None
    page_url = str(intent.next_action.redirect_to_url.url)
    page = twin.send("GET", page_url)
    assert page.status_code == 200
    assert "Complete authentication" in page.text
    sent = twin.send("POST", page_url, data={"client_secret": str(intent.client_secret), "outcome": "succeeded"})
    assert sent.status_code == 303
    assert sent.headers["location"].startswith(f"{back}&payment_intent={intent.id}&")
    assert sent.headers["location"].endswith("redirect_status=succeeded")
    assert (await client.v1.payment_intents.retrieve_async(intent.id)).status == "succeeded"


async def test_the_page_needs_the_client_secret(twin: TwinProcess, client: stripe.StripeClient) -> None:
    intent = await create(client, payment_method="pm_card_authenticationRequired", confirm=True)
    page = f"/_twin/authenticate/{intent.id}"
    assert twin.send("GET", page, params={"client_secret": "guess"}).status_code == 404
    assert twin.send("POST", page, data={"outcome": "succeeded"}).status_code == 404
    assert (await client.v1.payment_intents.retrieve_async(intent.id)).status == "requires_action"


async def test_typed_card_numbers_are_test_cards_only(client: stripe.StripeClient) -> None:
    card: Any = {"number": "4242 4242 4242 4242", "exp_month": 12, "exp_year": 2050, "cvc": "123"}
    made = await client.v1.payment_methods.create_async({"type": "card", "card": card})
    assert made.card is not None
    assert (made.card.last4, made.card.exp_year) == ("4242", 2050)
    for change, code in (
        ({"number": "4111111111111111"}, "incorrect_number"),
        ({"exp_month": 13}, "invalid_expiry_month"),
        ({"exp_year": 2020}, "invalid_expiry_year"),
    ):
        wrong: Any = {**card, **change}
        with pytest.raises(stripe.CardError) as refused:
            await client.v1.payment_methods.create_async({"type": "card", "card": wrong})
        assert refused.value.code == code


async def test_a_customer_may_be_made_with_its_card(client: stripe.StripeClient) -> None:
    customer = await client.v1.customers.create_async({"payment_method": "pm_card_visa"})
    assert len((await client.v1.customers.payment_methods.list_async(customer.id)).data) == 1
    with pytest.raises(stripe.CardError):
        await client.v1.customers.create_async({"name": "never", "payment_method": "pm_card_chargeDeclined"})
    newest = (await client.v1.customers.list_async({"limit": 1})).data[0]
    assert newest.id == customer.id


async def test_detaching_the_default_card_unsets_it(client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    await client.v1.customers.update_async(customer, {"invoice_settings": {"default_payment_method": method}})
    await client.v1.payment_methods.detach_async(method)
    settings = (await client.v1.customers.retrieve_async(customer)).invoice_settings
    assert settings is not None
    assert settings.default_payment_method is None


async def test_expanding_reaches_into_lists(client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    await pay(client, customer, method)
    listed = await client.v1.payment_intents.list_async(
        {"customer": customer, "expand": ["data.latest_charge", "data.customer"]}
    )
    charge = listed.data[0].latest_charge
    assert isinstance(charge, stripe.Charge)
    assert charge.status == "succeeded"
    assert isinstance(listed.data[0].customer, stripe.Customer)
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        await client.v1.payment_intents.list_async({"expand": ["data.amount"]})


async def test_pages_go_backwards_too(client: stripe.StripeClient) -> None:
    customer = await new_customer(client)
    made = [(await create(client, customer=customer)).id for _ in range(3)]
    page = await client.v1.payment_intents.list_async({"customer": customer, "ending_before": made[0], "limit": 1})
    assert ([item.id for item in page.data], page.has_more) == ([made[1]], True)
    walked = [
        item.id
        async for item in (
            await client.v1.payment_intents.list_async({"customer": customer, "limit": 1})
        ).auto_paging_iter()
    ]
    assert walked == made[::-1]
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.payment_intents.list_async({"starting_after": "pi_none"})


async def test_the_account_answers(client: stripe.StripeClient) -> None:
    assert (await client.v1.accounts.retrieve_current_async()).id.startswith("acct_")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer sk_live_4eC39HqLyjWDarjtT1zdp7dc"},
        {"Authorization": "Bearer sk_test_"},
        {"Authorization": "Basic !!!"},
        {"Authorization": f"Token {TEST_KEY}"},
    ],
)
def test_only_test_keys_open_the_door(twin: TwinProcess, headers: dict[str, str]) -> None:
    response = twin.send("POST", "/v1/customers", headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_restricted_test_key_and_basic_authentication_do(twin: TwinProcess) -> None:
    assert twin.send("GET", "/v1/account", headers={"Authorization": "Bearer rk_test_1"}).status_code == 200
    assert twin.send("GET", "/v1/account", auth=(TEST_KEY, "")).status_code == 200


def test_what_is_too_large_or_malformed_is_refused(twin: TwinProcess) -> None:
    before = twin.state()["objects"]

    def post(**request: Any) -> tuple[int, str]:
        response = twin.send("POST", "/v1/customers", **{"headers": KEY, **request})
        return response.status_code, response.json()["error"]["message"]

    assert post(content=b"name=" + b"x" * 1_000_001)[0] == 413
    assert post(content=b"\xff\xfe")[0] == 400
    assert post(content="&".join(f"metadata[k{i}]=1" for i in range(600)))[0] == 400
    assert post(content="metadata[a][b][c][d][e][f]=1")[0] == 400
    assert post(headers={**KEY, "Idempotency-Key": "k" * 256})[0] == 400
    assert twin.state()["objects"] == before
    unknown = twin.send("GET", "/v1/subscriptions", headers=KEY)
    assert unknown.status_code == 404
    assert "Unrecognized request URL" in unknown.json()["error"]["message"]


def test_the_controls_take_json_only(twin: TwinProcess) -> None:
    for request in ({"data": {"advance_s": "1"}}, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}):
        assert twin.send("POST", "/_twin/clock", **request).status_code == 415
    assert twin.send("POST", "/_twin/clock", json={"advance_s": -1}).status_code == 400
    assert twin.send("POST", "/_twin/clock", json={"advance_s": 1e12}).status_code == 400
    assert twin.send("POST", "/_twin/redeliver", json={}).status_code == 400
    assert twin.send("POST", "/_twin/redeliver", json={"event": "evt_none"}).status_code == 404
    assert twin.send("POST", "/_twin/webhook_endpoints", json={"url": "file:///x"}).status_code == 400


def test_health(twin: TwinProcess) -> None:
    assert twin.send("GET", "/health").json() == {"status": "ok", "stripe_version": "2026-10-28.endive"}
