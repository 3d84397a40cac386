"""Refunds and disputes with the Stripe twin: money that goes back is debited once, and comes again at most once."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pursestrings.wallet.v1 import refunds_pb2, statements_pb2
from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.database import create_pool
from services.wallet.recharge.stripe import Stripe
from services.wallet.refunds.disputes import Disputes
from services.wallet.refunds.refunds import Refunds
from services.wallet.refunds.stripe import MoneyBack
from tests.support.recharging import USD, Rig, refusal, usd, webhooks

OPEN, FROZEN = pb.WALLET_STATE_OPEN, pb.WALLET_STATE_FROZEN
PENDING, SUCCEEDED, FAILED = (
    refunds_pb2.REFUND_STATE_PENDING,
    refunds_pb2.REFUND_STATE_SUCCEEDED,
    refunds_pb2.REFUND_STATE_FAILED,
)


async def charged(rig: Rig, method: str = "pm_card_visa") -> pb.Recharge:
    """A recharge of 20 USD that the test's own hands have taken through to its grant."""
    await rig.card(method)
    await rig.policy(max_count_per_month=1)
    recharge = (await rig.recharges())[0]
    step = await rig.authorize(recharge.name)
    made = await rig.twin.api.v1.payment_intents.create_async(
        {
            "amount": step.amount_minor,
            "currency": step.currency,
            "customer": step.customer,
            "payment_method": step.payment_method,
            "confirm": True,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            "off_session": True,
            "metadata": {
                "installation": step.installation,
                "org": rig.org,
                "wallet": rig.wallet,
                "recharge": recharge.name,
                "intent": "1",
            },
        },
        {"idempotency_key": step.create_key},
    )
    await rig.report(recharge.name, step.attempt, made.id, answered=True)
    return await rig.until_state(recharge.name, pb.RECHARGE_STATE_SUCCEEDED)


async def refund(rig: Rig, source: str, amount: float | None = None, request_id: str = "") -> refunds_pb2.Refund:
    request = refunds_pb2.RefundRequest(source=source, reason="a test", request_id=request_id or rig.request_id())
    if amount is not None:
        request.amount.CopyFrom(usd(amount))
    return (await rig.stub.Refund(request)).refund


@asynccontextmanager
async def movers(rig: Rig) -> AsyncIterator[tuple[Refunds, Disputes]]:
    """What the service's loops use."""
    async with await create_pool(rig.sql_dsn, application_name="test") as pool:
        provider = Stripe(rig.settings)
        back = MoneyBack(provider)
        try:
            yield Refunds(pool, back), Disputes(pool, back)
        finally:
            await provider.close()


async def control(rig: Rig, path: str, body: dict[str, Any]) -> Any:
    return await rig.twin._post(path, body)


async def state(rig: Rig) -> "pb.WalletState.ValueType":
    return (await rig.stub.GetWallet(pb.GetWalletRequest(name=rig.wallet))).wallet.state


async def differences(rig: Rig) -> list[str]:
    answer = await rig.stub.Reconcile(statements_pb2.ReconcileRequest(org=f"orgs/{rig.org}"))
    return [one.kind for one in answer.differences]


async def test_parts_of_a_charge_go_back_and_never_more_than_was_paid(rig: Rig) -> None:
    recharge = await charged(rig)
    first = await refund(rig, recharge.name, 5, "once")
    assert (SUCCEEDED, usd(5)) == (first.state, first.amount)
    assert first == await refund(rig, recharge.name, 5, "once")
    assert 15 * USD == await rig.balance()
    again = refusal(rig.stub.Refund(refunds_pb2.RefundRequest(source=recharge.name, reason="x", request_id="once")))
    assert "REQUEST_ID_REUSED" == (await again).reason
    too_much = refunds_pb2.RefundRequest(source=recharge.name, amount=usd(15.01), reason="x", request_id="more")
    assert "REFUND_ABOVE_REMAINDER" == (await refusal(rig.stub.Refund(too_much))).reason
    await rig.spend(6, 1, total=6)
    above = refunds_pb2.RefundRequest(source=recharge.name, amount=usd(12), reason="x", request_id="spent")
    assert "REFUND_ABOVE_UNSPENT" == (await refusal(rig.stub.Refund(above))).reason
    await rig.grant(6)
    rest = await refund(rig, recharge.name)
    assert (SUCCEEDED, usd(15)) == (rest.state, rest.amount)
    nothing = refunds_pb2.RefundRequest(source=recharge.name, reason="x", request_id="nothing")
    assert "NOTHING_TO_REFUND" == (await refusal(rig.stub.Refund(nothing))).reason
    assert 0 == await rig.balance()
    at_stripe = await rig.twin.api.v1.refunds.list_async({"payment_intent": recharge.payment_intent})
    assert [500, 1500] == sorted(one.amount for one in at_stripe.data)
    assert [] == await rig.audit_failures()
    assert [] == await differences(rig)


async def test_a_refund_that_fails_puts_the_money_back_even_late(rig: Rig) -> None:
    recharge = await charged(rig, "pm_card_pendingRefund")
    made = await refund(rig, recharge.name, 8)
    assert (PENDING, 12 * USD) == (made.state, await rig.balance())
    async with movers(rig) as (refunds, _):
        await control(rig, f"refunds/{made.stripe_refund}/complete", {"outcome": "succeeded"})
        await refunds.observe_charge(recharge.payment_intent)
        assert SUCCEEDED == (await rig.stub.GetRefund(refunds_pb2.GetRefundRequest(name=made.name))).refund.state
        # Weeks later the bank sends it back.
        await control(rig, f"refunds/{made.stripe_refund}/complete", {"outcome": "failed"})
        for _ in range(2):
            await refunds.observe_charge(recharge.payment_intent)
            assert 20 * USD == await rig.balance()
        row = (await rig.stub.GetRefund(refunds_pb2.GetRefundRequest(name=made.name))).refund
        assert FAILED == row.state
        assert row.failure_reason
    assert SUCCEEDED != (await refund(rig, recharge.name, 20)).state
    assert [] == await rig.audit_failures()


async def test_a_refund_whose_answer_is_lost_is_made_once(rig: Rig) -> None:
    recharge = await charged(rig)
    await rig.twin.fault("lost_answer", match="POST /v1/refunds", times=9)
    made = await refund(rig, recharge.name, 4)
    assert (PENDING, "") == (made.state, made.stripe_refund)
    await rig.twin.clear_faults()
    async with movers(rig) as (refunds, _):
        rows = await asyncio.gather(*(refunds.advance(rig.org, made.name) for _ in range(3)))
        assert {"SUCCEEDED"} == {row.state.value for row in rows}
        # A key that has grown old proves nothing: the list tells.
        await rig.sql.execute("UPDATE refunds SET stripe_refund = NULL, state = 'PENDING', ended_at = NULL")
        await rig.sql.execute("UPDATE refunds SET key_since = key_since - interval '2 days'")
        assert "SUCCEEDED" == (await refunds.advance(rig.org, made.name)).state.value
    listed = await rig.twin.api.v1.refunds.list_async({"payment_intent": recharge.payment_intent})
    assert [400] == [one.amount for one in listed.data]
    assert [] == await rig.audit_failures()


async def test_stripe_refuses_a_refund_that_was_made_there_before_and_that_one_is_taken_in(rig: Rig) -> None:
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    recharge = await charged(rig)
    await rig.spend(14, 1, total=14)
    await rig.grant(10)
    elsewhere = await rig.twin.api.v1.refunds.create_async({"payment_intent": recharge.payment_intent, "amount": 1900})
    made = await refund(rig, recharge.name, 5)
    assert FAILED == made.state
    assert 16 * USD == await rig.balance()
    assert ["REFUND_UNKNOWN"] == await differences(rig)
    assert len(await rig.alerts("REFUND_FAILED")) == 1
    async with movers(rig) as (refunds, _):
        # By the event and by the sweep, at once and again: one debit, what is unspent first, the rest as debt.
        await rig.sql.execute("UPDATE refund_sweep SET due_at = clock_timestamp() - interval '1 s'")
        await asyncio.gather(refunds.sweep(10), *(refunds.observe_charge(recharge.payment_intent) for _ in range(3)))
    balance = await rig.stub.GetBalance(pb.GetBalanceRequest(name=rig.wallet))
    assert (0, 3 * USD) == (balance.available_nanos, balance.debt_nanos)
    listed = (await rig.stub.ListRefunds(refunds_pb2.ListRefundsRequest(wallet=rig.wallet))).refunds
    (taken,) = [one for one in listed if one.state == SUCCEEDED]
    assert (elsewhere.id, usd(19), recharge.name) == (taken.stripe_refund, taken.amount, taken.source)
    assert len(await rig.alerts("REFUND_MADE_AT_STRIPE")) == 1
    assert [] == await rig.audit_failures()
    assert [] == await differences(rig)


async def test_a_refund_made_at_stripe_that_fails_later_comes_back(rig: Rig) -> None:
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    recharge = await charged(rig, "pm_card_pendingRefund")
    async with webhooks(rig):
        elsewhere = await rig.twin.api.v1.refunds.create_async(
            {"payment_intent": recharge.payment_intent, "amount": 800}
        )
        async with asyncio.timeout(30):
            while await rig.balance() != 12 * USD:
                await asyncio.sleep(0.05)
        await control(rig, f"refunds/{elsewhere.id}/complete", {"outcome": "failed"})
        async with asyncio.timeout(30):
            while await rig.balance() != 20 * USD:
                await asyncio.sleep(0.05)
        await rig.twin.redeliver_all()
    assert 20 * USD == await rig.balance()
    assert [] == await rig.audit_failures()


async def test_a_refund_that_stripe_forgot_is_told_once_and_stays_debited(rig: Rig) -> None:
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    recharge = await charged(rig, "pm_card_pendingRefund")
    made = await refund(rig, recharge.name, 8)
    # As if it were at another account: neither its id nor whose it is fits what Stripe has.
    await rig.sql.execute("UPDATE refunds SET stripe_refund = 're_gone', check_at = 'infinity'")
    await rig.sql.execute("UPDATE installation SET id = gen_random_uuid()")
    async with movers(rig) as (refunds, _):
        for _ in range(3):
            assert "PENDING" == (await refunds.advance(rig.org, made.name)).state.value
        assert "REFUND_MISSING" in await differences(rig)
        # Nobody asks for ever: when no bank would send it back any more, it counts as paid out.
        await rig.sql.execute("UPDATE refunds SET created_at = created_at - interval '36 days'")
        assert "SUCCEEDED" == (await refunds.advance(rig.org, made.name)).state.value
        assert await rig.sql.fetchval("SELECT check_at FROM refunds") is None
        # It was another account's key: what Stripe says then is true.
        await rig.sql.execute("UPDATE refunds SET stripe_refund = $1", made.stripe_refund)
        await control(rig, f"refunds/{made.stripe_refund}/complete", {"outcome": "failed"})
        assert "FAILED" == (await refunds.advance(rig.org, made.name)).state.value
    assert len(await rig.alerts("REFUND_GONE")) == 1
    assert 20 * USD == await rig.balance()
    assert [] == await rig.audit_failures()


async def test_a_dispute_debits_freezes_and_is_restored_once(rig: Rig) -> None:
    recharge = await charged(rig)
    await rig.spend(14, 1, total=14)
    dispute = await control(rig, "disputes", {"payment_intent": recharge.payment_intent})
    async with movers(rig) as (_, disputes):
        for _ in range(3):
            await disputes.observe_charge(recharge.payment_intent)
        balance = await rig.stub.GetBalance(pb.GetBalanceRequest(name=rig.wallet))
        assert (0, 14 * USD, FROZEN) == (balance.available_nanos, balance.debt_nanos, await state(rig))
        # What comes in meanwhile pays the debt first, and what the dispute gives back goes where it came from.
        await rig.grant(16)
        assert 2 * USD == await rig.balance()
        assert [] == await rig.audit_failures()
        await control(rig, f"disputes/{dispute['id']}/resolve", {"outcome": "won"})
        for _ in range(3):
            await disputes.observe_charge(recharge.payment_intent)
        assert (22 * USD, OPEN) == (await rig.balance(), await state(rig))
    (listed,) = (await rig.stub.ListDisputes(refunds_pb2.ListDisputesRequest(wallet=rig.wallet))).disputes
    assert ("won", 20 * USD, 20 * USD, False) == (
        *(listed.status, listed.withdrawn_nanos, listed.restored_nanos),
        listed.freezes,
    )
    assert [] == await rig.audit_failures()
    assert [] == await differences(rig)


async def test_a_lost_dispute_that_no_event_told_of_is_found_and_stays_frozen(rig: Rig) -> None:
    recharge = await charged(rig)
    dispute = await control(rig, "disputes", {"payment_intent": recharge.payment_intent})
    await control(rig, f"disputes/{dispute['id']}/resolve", {"outcome": "lost"})
    assert ["DISPUTE_UNKNOWN"] == await differences(rig)
    async with movers(rig) as (_, disputes):
        await rig.sql.execute("UPDATE dispute_sweep SET due_at = clock_timestamp() - interval '1 s'")
        await disputes.sweep(10)
        assert (0, FROZEN) == (await rig.balance(), await state(rig))
        # A person who opens it again is heeded.
        await rig.stub.SetWalletState(pb.SetWalletStateRequest(name=rig.wallet, state=OPEN))
        await disputes.observe_charge(recharge.payment_intent)
        assert OPEN == await state(rig)
    (told,) = await rig.alerts("DISPUTE_LOST")
    # Without its currency an amount is a number of nothing to whoever reads of it.
    assert (json.loads(told)["debited_nanos"], json.loads(told)["currency_code"]) == (20 * USD, "USD")
    assert [] == await rig.audit_failures()


async def test_an_inquiry_moves_nothing_until_it_is_a_dispute(rig: Rig) -> None:
    recharge = await charged(rig)
    inquiry = await control(rig, "disputes", {"payment_intent": recharge.payment_intent, "inquiry": True})
    async with movers(rig) as (_, disputes):
        await disputes.observe_charge(recharge.payment_intent)
        assert (20 * USD, OPEN) == (await rig.balance(), await state(rig))
        await control(rig, f"disputes/{inquiry['id']}/resolve", {"outcome": "escalated"})
        await disputes.observe_charge(recharge.payment_intent)
        assert (0, FROZEN) == (await rig.balance(), await state(rig))


async def test_a_webhook_freezes_within_seconds_whatever_the_order(rig: Rig) -> None:
    async with webhooks(rig):
        recharge = await charged(rig)
        await control(rig, "disputes", {"payment_intent": recharge.payment_intent})
        async with asyncio.timeout(5):
            while await state(rig) != FROZEN:
                await asyncio.sleep(0.05)
        await rig.twin.redeliver_all()
        assert 0 == await rig.balance()
        assert [] == await rig.audit_failures()


@pytest.mark.parametrize(
    ("source", "reason"),
    [("orgs/{org}/recharges/none", "CHARGE_UNKNOWN"), ("orgs/{org}/wallets/main", "MALFORMED_NAME")],
)
async def test_a_refund_of_nothing_is_refused(rig: Rig, source: str, reason: str) -> None:
    request = refunds_pb2.RefundRequest(source=source.format(org=rig.org), reason="x", request_id="r")
    assert reason == (await refusal(rig.stub.Refund(request))).reason
    yen = refunds_pb2.RefundRequest(source=(await charged(rig)).name, reason="x", request_id="r2")
    yen.amount.currency_code, yen.amount.amount_nanos = "JPY", USD
    assert "CURRENCY_MISMATCH" == (await refusal(rig.stub.Refund(yen))).reason
