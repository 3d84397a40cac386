"""Refunds that come back, or seem to, beside disputes: the room they leave is given out once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import PurseError, conflict
from services.wallet.domain.commands import RequestKey
from services.wallet.recharge.stripe import MISSING, REFUSED
from services.wallet.refunds.refunds import Refunds
from tests.integration.refunds.test_money_back import FROZEN, OPEN, charged, control, differences, movers, refund, state
from tests.support.recharging import USD, Rig, usd


async def held_by_a_refund(rig: Rig) -> tuple[pb.Recharge, str]:
    """A charge of 20 USD all of which a refund holds that Stripe never had; returns it and the refund's name."""
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    await rig.sql.execute("UPDATE dispute_sweep SET due_at = 'infinity'")
    recharge = await charged(rig)
    await rig.twin.fault("error_500_before", match="POST /v1/refunds", times=99)
    made = await refund(rig, recharge.name, 20)
    await rig.twin.clear_faults()
    await rig.sql.execute("UPDATE refunds SET check_at = 'infinity'")
    return recharge, made.name


async def test_a_dispute_that_a_refund_left_no_room_freezes_and_debits_once_the_refund_fails(rig: Rig) -> None:
    recharge, made = await held_by_a_refund(rig)
    dispute = await control(rig, "disputes", {"payment_intent": recharge.payment_intent})
    async with movers(rig) as (refunds, disputes):
        await disputes.observe_charge(recharge.payment_intent)
        assert FROZEN == await state(rig)
        # Who opens it again is heeded, and whoever has lost the dispute owes what the refund still holds.
        await rig.stub.SetWalletState(pb.SetWalletStateRequest(name=rig.wallet, state=OPEN))
        await control(rig, f"disputes/{dispute['id']}/resolve", {"outcome": "lost"})
        await disputes.observe_charge(recharge.payment_intent)
        assert OPEN == await state(rig)
        assert await rig.sql.fetchval("SELECT check_at > clock_timestamp() FROM disputes")
        await rig.sql.execute("UPDATE disputes SET check_at = NULL")
        assert "FAILED" == (await refunds.advance(rig.org, made)).state.value
        assert 1 == await disputes.sweep(10)
    assert (0, OPEN) == (await rig.balance(), await state(rig))
    assert await rig.sql.fetchval("SELECT check_at IS NULL FROM disputes")
    assert [] == await rig.audit_failures()
    assert [] == await differences(rig)


async def test_the_service_leaves_the_room_to_the_dispute_at_once(rig: Rig) -> None:
    recharge, made = await held_by_a_refund(rig)
    await control(rig, "disputes", {"payment_intent": recharge.payment_intent})
    async with movers(rig) as (_, disputes):
        await disputes.observe_charge(recharge.payment_intent)
        refunds = Refunds(disputes._pool, disputes._stripe, on_room=disputes.observe_charge)
        assert "FAILED" == (await refunds.advance(rig.org, made)).state.value
    assert (0, FROZEN) == (await rig.balance(), await state(rig))
    assert 20 * USD == await rig.sql.fetchval("SELECT withdrawn_nanos FROM disputes")


async def test_a_refund_that_was_partly_debt_comes_back_after_the_debt_was_paid_twice_over(rig: Rig) -> None:
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    recharge = await charged(rig, "pm_card_pendingRefund")
    other = await rig.create_wallet("other")
    await rig.stub.Transfer(pb.TransferRequest(from_wallet=rig.wallet, to_wallet=other, amount=usd(20), request_id="t"))
    elsewhere = await rig.twin.api.v1.refunds.create_async({"payment_intent": recharge.payment_intent, "amount": 800})
    async with movers(rig) as (refunds, _):
        await refunds.observe_charge(recharge.payment_intent)
        await rig.grant(3)
        await rig.grant(10)
        assert 5 * USD == await rig.balance()
        await control(rig, f"refunds/{elsewhere.id}/complete", {"outcome": "failed"})
        await refunds.observe_charge(recharge.payment_intent)
    assert 13 * USD == await rig.balance()
    assert [] == await rig.audit_failures()


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Refunds, str], None]:
    def refuse(refunds: Refunds, code: str) -> None:
        async def create_refund(*_args: Any) -> Any:
            raise conflict(REFUSED, "Stripe refuses", code=code)

        monkeypatch.setattr(refunds._stripe, "create_refund", create_refund)

    return refuse


async def whose_answer_is_lost(rig: Rig) -> tuple[str, str]:
    """A refund of 4 USD that Stripe made, unknown here; returns (its charge, its name)."""
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    recharge = await charged(rig)
    await rig.twin.fault("lost_answer", match="POST /v1/refunds", times=9)
    made = await refund(rig, recharge.name, 4)
    await rig.twin.clear_faults()
    return recharge.payment_intent, made.name


Refusing = Callable[[Refunds, str], None]


async def test_another_accounts_key_proves_nothing_of_a_refund(rig: Rig, refusing: Refusing) -> None:
    _, name = await whose_answer_is_lost(rig)
    async with movers(rig) as (refunds, _):
        refusing(refunds, MISSING)
        for _ in range(2):
            with pytest.raises(PurseError, match="another account"):
                await refunds.advance(rig.org, name)
        assert "another account" in (await refunds.get(rig.org, name)).failure_reason
    assert len(await rig.alerts("REFUND_CHARGE_UNKNOWN")) == 1
    async with movers(rig) as (refunds, _):
        assert "SUCCEEDED" == (await refunds.advance(rig.org, name)).state.value
    assert 16 * USD == await rig.balance()


async def test_a_refund_made_at_stripe_that_does_not_fit_is_told_once_and_taken_in_later(rig: Rig) -> None:
    await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity'")
    recharge = await charged(rig)
    async with movers(rig) as (refunds, _):
        key = RequestKey(rig.org, "Refund", "held", bytes(32))
        held = await refunds.create(key, recharge.name, ("USD", 15 * USD), "a test")
        # Held here and not asked for there yet, so that the bank's clerk finds it all.
        await rig.sql.execute("UPDATE refunds SET check_at = 'infinity'")
        await rig.twin.api.v1.refunds.create_async({"payment_intent": recharge.payment_intent, "amount": 1000})
        async with asyncio.timeout(30):
            # The service's own sweep may be the one that is first.
            while not await rig.alerts("REFUND_WITHOUT_ROOM"):
                await rig.sql.execute("UPDATE refund_sweep SET due_at = clock_timestamp()")
                await refunds.sweep(10)
        await rig.sql.execute("UPDATE refund_sweep SET due_at = clock_timestamp()")
        await refunds.sweep(10)
        assert 5 * USD == await rig.balance()
        assert len(await rig.alerts("REFUND_WITHOUT_ROOM")) == 1
        # A day later the list does not show it any more.
        await rig.sql.execute("UPDATE refund_sweep SET due_at = 'infinity', through = clock_timestamp() + '9 days'")
        assert "FAILED" == (await refunds.advance(rig.org, held.name)).state.value
        await rig.sql.execute("UPDATE refunds_without_room SET check_at = clock_timestamp()")
        await refunds.sweep(10)
        assert 10 * USD == await rig.balance()
        assert 0 == await rig.sql.fetchval("SELECT count(*) FROM refunds_without_room WHERE taken_at IS NULL")
    assert [] == await rig.audit_failures()
    assert [] == await differences(rig)


async def test_a_refusal_is_believed_only_when_no_try_before_it_was_taken(rig: Rig, refusing: Refusing) -> None:
    _, name = await whose_answer_is_lost(rig)
    async with movers(rig) as (refunds, _):
        refusing(refunds, "charge_already_refunded")
        assert "SUCCEEDED" == (await refunds.advance(rig.org, name)).state.value
    assert 16 * USD == await rig.balance()


async def test_a_refund_given_up_that_lives_at_stripe_is_taken_in_once(
    rig: Rig, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment_intent, name = await whose_answer_is_lost(rig)
    async with movers(rig) as (refunds, _):

        async def none(_payment_intent: str) -> list[Any]:
            return []

        listed: Callable[[str], Awaitable[Any]] = refunds._stripe.refunds_of
        monkeypatch.setattr(refunds._stripe, "refunds_of", none)
        refusing(refunds, "charge_already_refunded")
        assert "FAILED" == (await refunds.advance(rig.org, name)).state.value
        assert 20 * USD == await rig.balance()
        monkeypatch.setattr(refunds._stripe, "refunds_of", listed)
        for _ in range(2):
            await refunds.observe_charge(payment_intent)
            assert 16 * USD == await rig.balance()
    assert [] == await rig.audit_failures()
    assert [] == await differences(rig)
