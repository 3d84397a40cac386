"""Workers, humans, webhooks and the sweep at once, with random trouble: what was charged is what was granted."""

import asyncio
import contextlib
import random

import grpc
import httpx
import pytest
import stripe

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import PurseError
from tests.integration.recharge.test_observe import CHARGE, FAILED, PENDING, SUCCEEDED, confirm, create
from tests.support.recharging import Rig, usd, webhooks

ACTORS, MOVES = 6, 20
FAULTS = (
    "lost_answer",
    "error_500_before",
    "error_500_after",
    "decline:generic_decline",
    "stay_processing",
    "slow:0.2",
)
UNFORESEEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


async def work(rig: Rig, dice: random.Random, name: str) -> None:
    """A worker that may stop after any step, as if it had been killed."""
    asked = await rig.authorize(name)
    if asked.verdict == pb.ATTEMPT_VERDICT_GIVE_UP:
        await rig.fail(name)
    if asked.verdict != CHARGE or dice.random() < 0.2:
        return
    intent = asked.payment_intent
    if not intent:
        intent = await create(rig, asked)
        if dice.random() < 0.2:
            return
        reported = await rig.report(name, asked.attempt, intent)
        if reported.state != PENDING or reported.payment_intent != intent or dice.random() < 0.2:
            return
    code = await confirm(rig, asked, intent)
    if dice.random() < 0.8:
        await rig.report(name, asked.attempt, intent, answered=True, error_code=code)


async def move(rig: Rig, dice: random.Random) -> None:
    """One thing that somebody does."""
    pending = [one for one in await rig.recharges() if one.state == PENDING]
    what = dice.choices(
        ("work", "fault", "card", "policy", "freeze", "open", "fail", "settle", "sweep", "cancel", "day"),
        (10, 3, 1, 2, 1, 2, 1, 3, 1, 2, 2),
    )[0]
    match what:
        case "work" if pending:
            await work(rig, dice, pending[0].name)
        case "fault":
            await rig.twin.fault(dice.choice(FAULTS), "* /v1/payment_intents*")
        case "card":
            await rig.card(dice.choice(("pm_card_visa", "pm_card_chargeCustomerFail", "pm_card_mastercard")))
        case "policy":
            await rig.policy(threshold=usd(10_000), max_count_per_month=dice.randint(2, 6), resume=True)
        case "freeze" | "open":
            state = pb.WALLET_STATE_FROZEN if what == "freeze" else pb.WALLET_STATE_OPEN
            await rig.stub.SetWalletState(pb.SetWalletStateRequest(name=rig.wallet, state=state, reason="a storm"))
        case "fail" if pending:
            await rig.fail(pending[0].name)
        case "settle" if pending and pending[0].payment_intent_status == "processing":
            await rig.twin.complete(pending[0].payment_intent, dice.choice(("succeeded", "decline:do_not_honor")))
        case "cancel" if pending and pending[0].payment_intent:
            await rig.twin.api.v1.payment_intents.cancel_async(pending[0].payment_intent)
        case "day":
            await rig.sql_now("UPDATE recharge_attempts SET ended_at = ended_at - interval '1 day'")
        case "sweep":
            await rig.sql_now("UPDATE recharges SET check_at = clock_timestamp() WHERE state = 'PENDING'")
            await rig.sweep()


async def act(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - repeatable
    for _ in range(MOVES):
        # Trouble is what this is about; only the books at the end count, and that nothing was unforeseen.
        try:
            await move(rig, dice)
        except grpc.aio.AioRpcError as error:
            if error.code() in UNFORESEEN:
                raise
        except (PurseError, stripe.StripeError, httpx.HTTPStatusError):
            continue


async def end(rig: Rig) -> None:
    """Brings what is pending to an end, as a worker without trouble does in the end."""
    await rig.twin.clear_faults()
    await rig.policy(enabled=False)
    for one in await rig.recharges():
        if one.state != PENDING:
            continue
        # Keys that keep a stored 500 are forgotten after a day.
        await rig.twin.advance(25 * 3600)
        await rig.sql_now("UPDATE recharge_intents SET created_at = created_at - interval '25 hours'")
        with contextlib.suppress(grpc.aio.AioRpcError):
            current = await rig.report(one.name, 99)
            if current.payment_intent_status == "processing":
                await rig.twin.complete(current.payment_intent)
        assert (await rig.fail(one.name)).state in {SUCCEEDED, FAILED}


@pytest.mark.parametrize("seed", range(1, 3))
async def test_what_was_charged_is_what_was_granted(rig: Rig, seed: int) -> None:
    customer = await rig.card()
    await rig.policy(threshold=usd(10_000), max_count_per_month=5)
    async with webhooks(rig):
        await asyncio.gather(*(act(rig, seed * 100 + actor) for actor in range(ACTORS)))
        await end(rig)
    recharges = await rig.recharges()
    paid = [intent for intent in await rig.twin.intents(customer) if intent.status == "succeeded"]
    granted = [one for one in recharges if one.state == SUCCEEDED]
    assert all(one.state in {SUCCEEDED, FAILED} for one in recharges)
    assert sorted(intent.metadata["recharge"] for intent in paid) == sorted(one.name for one in granted)
    assert await rig.balance() == sum(one.amount.amount_nanos for one in granted)
    assert await rig.audit_failures() == []
