"""Faults on demand, as the real SDK sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import stripe

from tests.integration.stripe_twin.contract import create, customer_with, new_customer, new_key, pay, replayed
from tests.integration.stripe_twin.harness import TwinProcess, eventually, stripe_client


@pytest.fixture(autouse=True)
def no_faults_left(twin: TwinProcess) -> Iterator[None]:
    yield
    twin.control("faults", method="DELETE")


@pytest.fixture
async def hasty(twin: TwinProcess) -> AsyncIterator[stripe.StripeClient]:
    """A client that waits for half a second only."""
    made = stripe_client(twin.url, timeout_s=0.5)
    yield made
    await made._requestor._client.close_async()  # type: ignore[union-attr]


async def intents_of(client: stripe.StripeClient, customer: str) -> list[stripe.PaymentIntent]:
    return (await client.v1.payment_intents.list_async({"customer": customer})).data


async def test_a_lost_answer_was_committed_and_its_key_tells(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    twin.fault("lost_answer", "POST /v1/payment_intents")
    once = new_key()
    with pytest.raises(stripe.APIConnectionError):
        await pay(client, customer, method, key=once)
    intent = await pay(client, customer, method, key=once)
    assert (intent.status, replayed(intent)) == ("succeeded", "true")
    assert [intent.id] == [item.id for item in await intents_of(client, customer)]


async def test_a_timeout_comes_after_the_commit(
    twin: TwinProcess, client: stripe.StripeClient, hasty: stripe.StripeClient
) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    twin.fault("timeout:30", "POST /v1/payment_intents")
    once = new_key()
    with pytest.raises(stripe.APIConnectionError):
        await pay(hasty, customer, method, key=once)
    intent = await pay(client, customer, method, key=once)
    assert (intent.status, replayed(intent)) == ("succeeded", "true")


async def test_a_slow_request_holds_its_key(
    twin: TwinProcess, client: stripe.StripeClient, hasty: stripe.StripeClient
) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    twin.fault("slow:4", "POST /v1/payment_intents")
    once = new_key()
    with pytest.raises(stripe.APIConnectionError):
        await pay(hasty, customer, method, key=once)
    with pytest.raises(stripe.APIError) as conflict:
        await pay(client, customer, method, key=once)
    assert conflict.value.error is not None
    assert (conflict.value.http_status, conflict.value.error.code) == (409, "idempotency_key_in_use")

    async def executed() -> list[stripe.PaymentIntent] | None:
        return await intents_of(client, customer) or None

    # The caller has long gone; the payment is made all the same.
    intents = await eventually(executed)
    assert ["succeeded"] == [intent.status for intent in intents]
    assert (await pay(client, customer, method, key=once)).id == intents[0].id


async def test_two_at_once_under_one_key_make_one_payment(client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    once = new_key()
    outcomes = await asyncio.gather(
        *(pay(client, customer, method, key=once) for _ in range(5)), return_exceptions=True
    )
    for outcome in outcomes:
        assert isinstance(outcome, stripe.PaymentIntent) or (
            isinstance(outcome, stripe.APIError) and outcome.http_status == 409
        )
    assert len(await intents_of(client, customer)) == 1


async def test_a_500_before_execution_leaves_the_key_free(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    twin.fault("error_500_before", "POST /v1/payment_intents")
    once = new_key()
    with pytest.raises(stripe.APIError) as failed:
        await pay(client, customer, method, key=once)
    assert failed.value.http_status == 500
    assert await intents_of(client, customer) == []
    assert replayed(await pay(client, customer, method, key=once)) is None


async def test_a_500_after_execution_is_kept_under_the_key(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    twin.fault("error_500_after", "POST /v1/payment_intents")
    once = new_key()
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            await pay(client, customer, method, key=once)
        assert failed.value.http_status == 500
    # Only looking tells that the money moved.
    assert ["succeeded"] == [intent.status for intent in await intents_of(client, customer)]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("rate_limit_429", 429, "rate_limit"), ("conflict_409", 409, "idempotency_key_in_use")],
)
async def test_refusals_execute_nothing(
    twin: TwinProcess, client: stripe.StripeClient, kind: str, status: int, code: str
) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    twin.fault(kind, "POST /v1/payment_intents", times=2)
    once = new_key()
    for _ in range(2):
        with pytest.raises(stripe.StripeError) as refused:
            await pay(client, customer, method, key=once)
        assert refused.value.error is not None
        assert (refused.value.http_status, refused.value.error.code) == (status, code)
    assert await intents_of(client, customer) == []
    assert (await pay(client, customer, method, key=once)).status == "succeeded"


async def test_a_forced_decline_has_its_code(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    twin.fault("decline:insufficient_funds", "POST /v1/payment_intents*")
    with pytest.raises(stripe.CardError) as declined:
        await pay(client, customer, method)
    assert declined.value.error is not None
    assert declined.value.error.decline_code == "insufficient_funds"
    assert (await pay(client, customer, method)).status == "succeeded"


async def test_a_charging_fault_waits_for_a_charge(twin: TwinProcess, client: stripe.StripeClient) -> None:
    twin.fault("decline:expired_card")
    customer, method = await customer_with(client, "pm_card_visa")
    await create(client, customer=customer)
    assert [1] == [fault["times_left"] for fault in twin.state()["faults"]]
    with pytest.raises(stripe.CardError) as declined:
        await pay(client, customer, method)
    assert declined.value.code == "expired_card"


async def test_a_refused_confirmation_does_not_use_up_a_charging_fault(
    twin: TwinProcess, client: stripe.StripeClient
) -> None:
    twin.fault("stay_processing")
    with pytest.raises(stripe.InvalidRequestError):
        await pay(client, await new_customer(client), "pm_none")
    assert [1] == [fault["times_left"] for fault in twin.state()["faults"]]


@pytest.mark.parametrize(
    ("outcome", "status", "charge_status"),
    [
        ("succeeded", "succeeded", "succeeded"),
        ("failed", "requires_payment_method", "failed"),
        ("decline:lost_card", "requires_payment_method", "failed"),
    ],
)
async def test_processing_lasts_until_the_bank_answers(
    twin: TwinProcess, client: stripe.StripeClient, outcome: str, status: str, charge_status: str
) -> None:
    customer, method = await customer_with(client, "pm_card_visa")
    twin.fault("stay_processing", "POST /v1/payment_intents")
    intent = await pay(client, customer, method)
    assert (intent.status, intent.amount_received) == ("processing", 0)
    for forbidden in (client.v1.payment_intents.cancel_async, client.v1.payment_intents.confirm_async):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await forbidden(intent.id)
        assert refused.value.code == "payment_intent_unexpected_state"
    twin.control(f"payment_intents/{intent.id}/complete_action", {"outcome": outcome})
    settled = await client.v1.payment_intents.retrieve_async(intent.id)
    assert settled.status == status
    assert settled.latest_charge == intent.latest_charge
    charge = await client.v1.charges.retrieve_async(str(settled.latest_charge))
    assert charge.status == charge_status


async def test_a_header_faults_its_own_request_only(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer = await new_customer(client)
    with pytest.raises(stripe.RateLimitError):
        await client.v1.customers.retrieve_async(customer, options={"headers": {"Twin-Fault": "rate_limit_429"}})
    assert (await client.v1.customers.retrieve_async(customer)).id == customer


async def test_a_rate_repeats_with_its_seed(twin: TwinProcess, client: stripe.StripeClient) -> None:
    customer = await new_customer(client)

    async def failures() -> int:
        count = 0
        for _ in range(60):
            try:
                await client.v1.customers.retrieve_async(customer)
            except stripe.RateLimitError:
                count += 1
        return count

    twin.fault("rate_limit_429", "GET /v1/customers/*", times=1000, rate=0.2, seed=7)
    fired = await failures()
    shown = twin.state()["faults"][0]
    assert 0 < fired < 60
    assert (shown["seen"], shown["fired"], shown["times_left"]) == (60, fired, 1000 - fired)


async def test_the_sdks_own_retries_get_over_passing_faults(twin: TwinProcess) -> None:
    patient = stripe.StripeClient(
        "sk_test_patient",
        base_addresses={"api": twin.url},
        http_client=stripe.HTTPXClient(timeout=10, allow_sync_methods=True),
        max_network_retries=2,
    )
    customer, method = await customer_with(patient, "pm_card_visa")
    twin.fault("lost_answer", "POST /v1/payment_intents")
    twin.fault("conflict_409", "POST /v1/payment_intents")
    intent = await pay(patient, customer, method)
    assert intent.status == "succeeded"
    assert len(await intents_of(patient, customer)) == 1
    await patient._requestor._client.close_async()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"kind": "explode"}, "unknown fault 'explode'"),
        ({"kind": "timeout:9999"}, "timeout takes seconds"),
        ({"kind": "lost_answer:3"}, "lost_answer takes no argument"),
        ({"kind": "lost_answer", "times": 0}, "times must be from 1"),
        ({"kind": "lost_answer", "rate": 1.5}, "rate must be above 0"),
        ({"kind": "lost_answer", "path": "x"}, "unknown member 'path'"),
        ({}, "kind is missing"),
    ],
)
async def test_a_wrong_fault_is_refused_with_the_reason(twin: TwinProcess, body: dict[str, object], says: str) -> None:
    response = twin.send("POST", "/_twin/faults", json=body)
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert twin.state()["faults"] == []


async def test_there_are_at_most_a_hundred_faults(twin: TwinProcess) -> None:
    for _ in range(100):
        twin.fault("drop", "nothing.*")
    response = twin.send("POST", "/_twin/faults", json={"kind": "drop"})
    assert response.status_code == 400
    assert "DELETE /_twin/faults" in response.json()["error"]["message"]


async def test_an_unknown_fault_in_the_header_is_refused(twin: TwinProcess, client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="Invalid Twin-Fault header"):
        await client.v1.customers.create_async({}, {"headers": {"Twin-Fault": "explode"}})
