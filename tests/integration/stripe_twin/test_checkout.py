"""Checkout's page as a person clicks it, what becomes of a session, and how search lags."""

from __future__ import annotations

import httpx
import stripe

from tests.integration.stripe_twin.contract import create, new_customer, pay
from tests.integration.stripe_twin.contract_checkout import item, session
from tests.integration.stripe_twin.harness import Receiver, TwinProcess, eventually

VISA = "4242424242424242"
ASKS = "4000002760003184"
FAILS = "4000000000000341"


def click(twin: TwinProcess, url: str, number: str) -> httpx.Response:
    page = twin.send("GET", url)
    assert page.status_code == 200
    assert '<label for="number">' in page.text
    return twin.send("POST", url, data={"number": number, "expiry": "12/49", "action": "pay"})


async def test_a_payment_page_pays_once_and_goes_back(
    notifying_twin: TwinProcess, notifying_client: stripe.StripeClient, receiver: Receiver
) -> None:
    customer = await new_customer(notifying_client)
    made = await session(
        notifying_client,
        customer=customer,
        line_items=[item()],
        payment_intent_data={"metadata": {"wallet": "w"}, "setup_future_usage": "off_session"},
    )
    url = str(made.url)
    declined = click(notifying_twin, url, FAILS)
    assert (declined.status_code, "Your card was declined." in declined.text) == (402, True)
    paid = click(notifying_twin, url, VISA)
    assert paid.status_code == 303
    assert paid.headers["location"] == f"https://example.com/done?session={made.id}"
    again = notifying_twin.send("POST", url, data={"number": VISA, "expiry": "12/49"})
    assert (again.status_code, again.headers["location"]) == (303, paid.headers["location"])
    done = await notifying_client.v1.checkout.sessions.retrieve_async(made.id, {"expand": ["payment_intent"]})
    assert (done.status, done.payment_status, done.url) == ("complete", "paid", None)
    assert isinstance(done.payment_intent, stripe.PaymentIntent)
    assert (done.payment_intent.status, done.payment_intent.amount_received) == ("succeeded", 2500)
    assert done.payment_intent.metadata.to_dict() == {"wallet": "w"}
    saved = (await notifying_client.v1.customers.payment_methods.list_async(customer)).data
    assert (await pay(notifying_client, customer, saved[0].id)).status == "succeeded"
    assert notifying_twin.state()["charges_succeeded"] == {"usd": 2}
    receiver.wait_for_types("checkout.session.completed", "payment_intent.succeeded", "payment_method.attached")


async def test_a_bank_may_ask_the_payer(twin: TwinProcess, client: stripe.StripeClient) -> None:
    made = await session(client, customer=await new_customer(client), line_items=[item()])
    for outcome, status in (("failed", "open"), ("succeeded", "complete")):
        challenge = click(twin, str(made.url), ASKS)
        bank = challenge.headers["location"]
        secret = httpx.URL(bank).params["client_secret"]
        back = twin.send("POST", bank, data={"client_secret": secret, "outcome": outcome})
        shown = twin.send("GET", back.headers["location"])
        assert (await client.v1.checkout.sessions.retrieve_async(made.id)).status == status
        assert shown.status_code == (303 if outcome == "succeeded" else 402)


async def test_a_setup_page_saves_the_card(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer = await new_customer(client)
    made = await session(client, mode="setup", customer=customer, currency="usd")
    assert click(twin, str(made.url), VISA).status_code == 303
    done = await client.v1.checkout.sessions.retrieve_async(made.id, {"expand": ["setup_intent"]})
    assert done.status == "complete"
    assert isinstance(done.setup_intent, stripe.SetupIntent)
    assert (await pay(client, customer, str(done.setup_intent.payment_method))).status == "succeeded"


async def test_a_payment_that_stays_at_the_bank_is_unpaid_at_first(
    twin: TwinProcess, client: stripe.StripeClient
) -> None:
    made = await session(client, customer=await new_customer(client), line_items=[item()])
    twin.fault("stay_processing", "POST /c/pay/*")
    assert click(twin, str(made.url), VISA).status_code == 303
    now = await client.v1.checkout.sessions.retrieve_async(made.id)
    assert (now.status, now.payment_status) == ("complete", "unpaid")
    twin.control(f"payment_intents/{now.payment_intent}/complete_action", {"outcome": "succeeded"})
    assert (await client.v1.checkout.sessions.retrieve_async(made.id)).payment_status == "paid"


async def test_a_page_expires_with_what_it_began(twin: TwinProcess, client: stripe.StripeClient) -> None:
    made = await session(client, customer=await new_customer(client), line_items=[item()])
    assert click(twin, str(made.url), FAILS).status_code == 402
    twin.control("clock", {"advance_s": 24 * 3600 + 1})

    async def expired() -> bool:
        return (await client.v1.checkout.sessions.retrieve_async(made.id)).status == "expired"

    await eventually(expired)
    over = await client.v1.checkout.sessions.retrieve_async(made.id)
    intent = await client.v1.payment_intents.retrieve_async(str(over.payment_intent))
    assert intent.status == "canceled"
    page = twin.send("POST", str(made.url), data={"number": VISA, "expiry": "12/49"})
    assert (page.status_code, "expired" in page.text) == (410, True)
    assert twin.send("GET", "/c/pay/cs_test_none").status_code == 404


async def test_the_page_shows_no_markup_of_others(twin: TwinProcess, client: stripe.StripeClient) -> None:
    line = item()
    line["price_data"]["product_data"]["name"] = "<script>alert(1)</script>"
    made = await session(client, customer=await new_customer(client), line_items=[line])
    page = twin.send("GET", str(made.url)).text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


async def test_a_search_lags_behind(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer = await new_customer(client)
    made = [await create(client, customer=customer, metadata={"run": customer}) for _ in range(3)]
    query = f'metadata["run"]:"{customer}" AND -status:"canceled" AND amount>=2000'
    assert (await client.v1.payment_intents.search_async({"query": query})).data == []
    twin.control("clock", {"advance_s": 61})
    first = await client.v1.payment_intents.search_async({"query": query, "limit": 2})
    assert [one.id for one in first.data] == [made[2].id, made[1].id]
    assert first.next_page is not None
    rest = await client.v1.payment_intents.search_async({"query": query, "limit": 2, "page": first.next_page})
    assert [one.id for one in rest.data] == [made[0].id]
    await client.v1.payment_intents.cancel_async(made[0].id)
    twin.control("clock", {"advance_s": 61})
    assert len((await client.v1.payment_intents.search_async({"query": query})).data) == 2
