"""Trouble at Stripe, on the way back, or with its webhooks: one charge, one grant, the caps hold."""

import asyncio

from temporalio.client import Client

from pursestrings.wallet.v1 import wallet_pb2 as pb
from tests.support.recharging import USD, Rig, running_worker, usd, webhooks

CREATE, CONFIRM = "POST /v1/payment_intents", "POST /v1/payment_intents/*/confirm"
READ = "GET /v1/payment_intents/*"
AT_STRIPE = [
    ("lost_answer", CREATE, 1),
    ("lost_answer", CONFIRM, 1),
    ("error_500_before", CREATE, 2),
    ("error_500_after", CONFIRM, 1),
    ("rate_limit_429", CREATE, 1),
    ("conflict_409", CONFIRM, 1),
    ("slow:1", CONFIRM, 1),
    ("lost_answer", READ, 4),
]
ON_THE_WAY = [("drop", "*", 20), ("duplicate:3", "*", 20), ("reorder", "*", 2), ("delay:1", "*", 2)]


async def settled(rig: Rig, wallet: str, customer: str) -> None:
    """Exactly one charge became exactly one grant."""
    (one,) = await rig.recharges(wallet)
    assert one.state == pb.RECHARGE_STATE_SUCCEEDED
    assert await rig.balance(wallet) == 20 * USD
    statuses = [intent.status for intent in await rig.twin.intents(customer)]
    assert statuses.count("succeeded") == 1
    assert set(statuses) <= {"succeeded", "canceled"}


async def begin(rig: Rig, wallet_id: str, card: str = "pm_card_visa") -> tuple[str, str, str]:
    """A wallet with a card and a policy: (wallet, customer, recharge)."""
    wallet = await rig.create_wallet(wallet_id)
    customer = await rig.card(card, wallet)
    await rig.policy(wallet)
    (one,) = await rig.recharges(wallet)
    return wallet, customer, one.name


async def test_trouble_at_stripe(rig: Rig, temporal: Client) -> None:
    async with webhooks(rig), running_worker(rig, temporal):
        for number, (kind, match, times) in enumerate(AT_STRIPE):
            wallet = await rig.create_wallet(f"w{number}")
            customer = await rig.card(wallet=wallet)
            await rig.twin.fault(kind, match, times)
            await rig.policy(wallet)
            (one,) = await rig.recharges(wallet)
            await rig.until_state(one.name, pb.RECHARGE_STATE_SUCCEEDED, timeout_s=40)
            await rig.twin.clear_faults()
            await settled(rig, wallet, customer)
    assert await rig.audit_failures() == []


async def test_webhooks_that_are_lost_repeated_or_out_of_order(rig: Rig, temporal: Client) -> None:
    async with webhooks(rig), running_worker(rig, temporal):
        for number, (kind, match, times) in enumerate(ON_THE_WAY):
            await rig.twin.fault("stay_processing", CONFIRM)
            wallet, customer, name = await begin(rig, f"w{number}")
            async with asyncio.timeout(30):
                while (await rig.recharge(name)).payment_intent_status != "processing":
                    await asyncio.sleep(0.03)
            await rig.twin.fault(kind, match, times)
            await rig.twin.complete((await rig.recharge(name)).payment_intent)
            await rig.until_state(name, pb.RECHARGE_STATE_SUCCEEDED)
            await rig.twin.clear_faults()
            await settled(rig, wallet, customer)
        # All events once more, and the books stay as they are.
        await rig.twin.redeliver_all()
        async with asyncio.timeout(30):
            while await rig.sql.fetchval("SELECT count(*) FROM stripe_events WHERE done_at IS NULL"):
                await asyncio.sleep(0.03)
    assert await rig.audit_failures() == []


async def test_a_new_card_wakes_the_workflow(rig: Rig, temporal: Client) -> None:
    async with webhooks(rig), running_worker(rig, temporal):
        wallet, customer, name = await begin(rig, "w", "pm_card_chargeCustomerFail")
        async with asyncio.timeout(30):
            while not (await rig.recharge(name)).decline_code:
                await asyncio.sleep(0.03)
        await rig.card("pm_card_mastercard", wallet)
        done = await rig.until_state(name, pb.RECHARGE_STATE_SUCCEEDED)
        assert done.attempts == 2
        await settled(rig, wallet, customer)
        (result,) = [await temporal.get_workflow_handle(name).result()]
        assert result["state"] == "SUCCEEDED"


async def test_cancel_gives_up_in_good_order(rig: Rig, temporal: Client) -> None:
    async with running_worker(rig, temporal):
        _, customer, by_signal = await begin(rig, "a", "pm_card_chargeCustomerFail")
        _, other, by_hand = await begin(rig, "b", "pm_card_chargeCustomerFail")
        for name in (by_signal, by_hand):
            async with asyncio.timeout(30):
                while not (await rig.recharge(name)).decline_code:
                    await asyncio.sleep(0.03)
        await temporal.get_workflow_handle(by_signal).signal("cancel", "a person said so")
        await temporal.get_workflow_handle(by_hand).cancel()
        one = await rig.until_state(by_signal, pb.RECHARGE_STATE_FAILED)
        two = await rig.until_state(by_hand, pb.RECHARGE_STATE_FAILED)
        assert (one.failure_reason, two.failure_reason) == ("a person said so", "canceled in Temporal")
        for who in (customer, other):
            assert [intent.status for intent in await rig.twin.intents(who)] == ["canceled"]
    assert await rig.audit_failures() == []


async def test_a_workflow_that_is_lost_loses_nothing(rig: Rig, temporal: Client) -> None:
    async with running_worker(rig, temporal):
        await rig.twin.fault("stay_processing", CONFIRM)
        wallet, customer, name = await begin(rig, "w")
        async with asyncio.timeout(30):
            while (await rig.recharge(name)).payment_intent_status != "processing":
                await asyncio.sleep(0.03)
        await temporal.get_workflow_handle(name).terminate("a test loses it")
        await rig.twin.complete((await rig.recharge(name)).payment_intent, "decline:insufficient_funds")
        await rig.card("pm_card_mastercard", wallet)
        # The sweep finds that nothing moves.
        await rig.sql.execute("UPDATE recharges SET check_at = clock_timestamp()")
        await rig.sweep()
        await rig.until_state(name, pb.RECHARGE_STATE_SUCCEEDED, timeout_s=40)
        await settled(rig, wallet, customer)
    assert await rig.audit_failures() == []


async def test_the_cap_stops_a_spree(rig: Rig, temporal: Client) -> None:
    async with webhooks(rig), running_worker(rig, temporal):
        await rig.card()
        await rig.policy(threshold=usd(10_000), max_count_per_month=4, max_amount_per_month=usd(65))
        async with asyncio.timeout(40):
            while await rig.balance() != 60 * USD:
                await asyncio.sleep(0.05)
        assert len(await rig.recharges()) == 3
    assert len(await rig.alerts("RECHARGE_CAP_REACHED")) == 1
    assert await rig.audit_failures() == []
