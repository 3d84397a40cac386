"""The contract of what takes a charge's money back: refunds and disputes."""

from __future__ import annotations

import pytest
import stripe
from stripe import StripeClient

from tests.integration.stripe_twin.contract import Check, create, customer_with, new_key, pay, replayed
from tests.integration.stripe_twin.harness import eventually


async def paid(client: StripeClient, card: str = "pm_card_visa") -> stripe.PaymentIntent:
    customer, method = await customer_with(client, card)
    return await pay(client, customer, method)


async def dispute_of(client: StripeClient, intent: str) -> stripe.Dispute:
    async def found() -> stripe.Dispute | None:
        listed = await client.v1.disputes.list_async({"payment_intent": intent})
        return listed.data[0] if listed.data else None

    return await eventually(found)


async def a_refund_gives_all_back(client: StripeClient) -> None:
    intent = await paid(client)
    refund = await client.v1.refunds.create_async({"payment_intent": intent.id, "reason": "requested_by_customer"})
    assert (refund.status, refund.amount, refund.currency) == ("succeeded", 2000, "usd")
    assert (refund.charge, refund.payment_intent) == (intent.latest_charge, intent.id)
    assert refund.reason == "requested_by_customer"
    charge = await client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert (charge.refunded, charge.amount_refunded, charge.status) == (True, 2000, "succeeded")
    after = await client.v1.payment_intents.retrieve_async(intent.id)
    assert (after.status, after.amount_received) == ("succeeded", 2000)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert refused.value.code == "charge_already_refunded"


async def refunds_come_in_parts_and_never_above_the_charge(client: StripeClient) -> None:
    intent = await paid(client)
    first = await client.v1.refunds.create_async(
        {"payment_intent": intent.id, "amount": 500, "metadata": {"part": "1"}}
    )
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 1501})
    second = await client.v1.refunds.create_async({"charge": str(intent.latest_charge), "amount": 1500})
    charge = await client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert (charge.refunded, charge.amount_refunded) == (True, 2000)
    listed = await client.v1.refunds.list_async({"payment_intent": intent.id})
    assert [second.id, first.id] == [refund.id for refund in listed.data]
    again = await client.v1.refunds.retrieve_async(first.id)
    assert again.metadata is not None
    assert (again.amount, again.metadata.to_dict()) == (500, {"part": "1"})


async def a_refund_is_made_once_under_a_key(client: StripeClient) -> None:
    intent = await paid(client)
    once = new_key()
    made = [
        await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 500}, {"idempotency_key": once})
        for _ in range(2)
    ]
    assert made[0].id == made[1].id
    assert replayed(made[1]) == "true"
    assert len((await client.v1.refunds.list_async({"payment_intent": intent.id})).data) == 1


async def what_was_not_paid_is_not_refunded(client: StripeClient) -> None:
    open_intent = await create(client)
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.refunds.create_async({"payment_intent": open_intent.id})
    with pytest.raises(stripe.InvalidRequestError) as missing:
        await client.v1.refunds.create_async({"payment_intent": "pi_none"})
    assert missing.value.code == "resource_missing"
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.refunds.create_async({"amount": 100})


async def a_pending_refund_counts_already(client: StripeClient) -> None:
    intent = await paid(client, "pm_card_pendingRefund")
    refund = await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 2000})
    assert refund.status == "pending"
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 1})


async def a_dispute_card_is_charged_back_at_once(client: StripeClient) -> None:
    intent = await paid(client, "pm_card_createDispute")
    assert intent.status == "succeeded"
    dispute = await dispute_of(client, intent.id)
    assert (dispute.status, dispute.amount, dispute.currency) == ("needs_response", 2000, "usd")
    assert (dispute.reason, dispute.charge) == ("fraudulent", intent.latest_charge)
    assert dispute.is_charge_refundable is False
    charge = await client.v1.charges.retrieve_async(str(intent.latest_charge))
    assert charge.disputed is True
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert refused.value.code == "charge_disputed"

    async def withdrawn() -> stripe.Dispute | None:
        now = await client.v1.disputes.retrieve_async(dispute.id)
        return now if now.balance_transactions else None

    moved = (await eventually(withdrawn)).balance_transactions
    assert [(one.amount, one.currency) for one in moved] == [(-2000, "usd")]


async def a_dispute_is_won_by_winning_evidence(client: StripeClient) -> None:
    intent = await paid(client, "pm_card_createDispute")
    dispute = await dispute_of(client, intent.id)
    await client.v1.disputes.update_async(dispute.id, {"evidence": {"uncategorized_text": "winning_evidence"}})

    async def won() -> stripe.Dispute | None:
        now = await client.v1.disputes.retrieve_async(dispute.id)
        return now if now.status == "won" and len(now.balance_transactions) == 2 else None

    moved = (await eventually(won)).balance_transactions
    assert sorted(one.amount for one in moved) == [-2000, 2000]


async def a_closed_dispute_is_lost(client: StripeClient) -> None:
    intent = await paid(client, "pm_card_createDisputeProductNotReceived")
    dispute = await dispute_of(client, intent.id)
    assert dispute.reason == "product_not_received"
    closed = await client.v1.disputes.close_async(dispute.id)
    assert closed.status == "lost"
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.disputes.close_async(dispute.id)


async def an_inquiry_takes_no_money(client: StripeClient) -> None:
    intent = await paid(client, "pm_card_createDisputeInquiry")
    dispute = await dispute_of(client, intent.id)
    assert (dispute.status, dispute.balance_transactions) == ("warning_needs_response", [])
    assert dispute.is_charge_refundable is True
    refund = await client.v1.refunds.create_async({"payment_intent": intent.id})
    assert refund.amount == 2000


REVERSALS: tuple[Check, ...] = (
    a_refund_gives_all_back,
    refunds_come_in_parts_and_never_above_the_charge,
    a_refund_is_made_once_under_a_key,
    what_was_not_paid_is_not_refunded,
    a_pending_refund_counts_already,
    a_dispute_card_is_charged_back_at_once,
    a_dispute_is_won_by_winning_evidence,
    a_closed_dispute_is_lost,
    an_inquiry_takes_no_money,
)
