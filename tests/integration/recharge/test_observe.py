"""Every way a charge can go, played by hand against the twin: exactly one grant, or none and nothing charged."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest
import stripe

from pursestrings.wallet.v1 import wallet_pb2 as pb
from services.kit.errors import Code, PurseError
from services.wallet.recharge.moves import GivingUp
from services.wallet.recharge.observe import Recharges
from services.wallet.recharge.stripe import NewIntent, Stripe
from tests.support.recharging import USD, Rig, refusal

CHARGE, WAIT = pb.ATTEMPT_VERDICT_CHARGE, pb.ATTEMPT_VERDICT_WAIT
OBSERVE, ENDED, GIVE_UP = pb.ATTEMPT_VERDICT_OBSERVE, pb.ATTEMPT_VERDICT_ENDED, pb.ATTEMPT_VERDICT_GIVE_UP
PENDING, SUCCEEDED, FAILED = pb.RECHARGE_STATE_PENDING, pb.RECHARGE_STATE_SUCCEEDED, pb.RECHARGE_STATE_FAILED


async def start(rig: Rig, card: str = "pm_card_visa") -> str:
    await rig.card(card)
    await rig.policy()
    (one,) = await rig.recharges()
    return one.name


async def create(rig: Rig, asked: pb.AuthorizeAttemptResponse) -> str:
    """What the worker sends; the same key gives the same PaymentIntent."""
    new = NewIntent(
        installation=asked.installation,
        org=asked.recharge.name.split("/")[1],
        wallet=asked.recharge.wallet,
        recharge=asked.recharge.name,
        number=asked.payment_intent_number,
        customer=asked.customer,
        amount_minor=asked.amount_minor,
        currency=asked.currency,
    )
    provider = Stripe(rig.settings)
    try:
        return (await provider.create_intent(new, asked.create_key)).payment_intent
    finally:
        await provider.close()


async def confirm(rig: Rig, asked: pb.AuthorizeAttemptResponse, intent: str, *, off_session: bool = True) -> str:
    """The code of a refusal, or nothing."""
    try:
        await rig.twin.api.v1.payment_intents.confirm_async(
            intent,
            {"payment_method": asked.payment_method, "off_session": off_session},
            {"idempotency_key": asked.confirm_key},
        )
    except stripe.CardError as error:
        return str(error.error and error.error.decline_code)
    return ""


async def pay(rig: Rig, name: str) -> pb.Recharge:
    """One whole attempt."""
    asked = await rig.authorize(name)
    assert asked.verdict == CHARGE
    intent = asked.payment_intent or await create(rig, asked)
    await rig.report(name, asked.attempt, intent)
    code = await confirm(rig, asked, intent)
    return await rig.report(name, asked.attempt, intent, answered=True, error_code=code)


async def test_pending_becomes_a_grant_of_what_was_received(rig: Rig) -> None:
    name = await start(rig)
    done = await pay(rig, name)
    assert done.state == SUCCEEDED
    assert done.grant == f"orgs/{rig.org}/grants/{name.rpartition('/')[2]}"
    assert (await rig.authorize(name)).verdict == ENDED
    assert await rig.balance() == 20 * USD
    assert await rig.audit_failures() == []
    assert await rig.audit_failures() == []


async def test_many_observers_at_once_grant_once(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await rig.report(name, 1, intent)
    await confirm(rig, asked, intent)
    results = await asyncio.gather(
        *(rig.report(name, 1, intent, answered=True) for _ in range(10)), return_exceptions=True
    )
    assert any(isinstance(one, pb.Recharge) and one.state == SUCCEEDED for one in results)
    assert await rig.sql.fetchval("SELECT count(*) FROM grants") == 1
    assert await rig.balance() == 20 * USD


async def test_a_worker_that_died_anywhere_is_continued_with_the_same_keys(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    again = await rig.authorize(name)
    assert (again.verdict, again.attempt, again.create_key) == (CHARGE, 1, asked.create_key)
    intent = await create(rig, asked)
    assert await create(rig, again) == intent
    await rig.report(name, 1, intent)
    third = await rig.authorize(name)
    assert (third.payment_intent, third.confirm_key) == (intent, asked.confirm_key)
    # It died after the confirmation, before the report: the next question finds the charge.
    await confirm(rig, third, intent)
    assert (await rig.authorize(name)).verdict == ENDED
    assert (await rig.recharge(name)).state == SUCCEEDED
    assert await rig.audit_failures() == []


async def test_a_lost_creation_is_found_in_the_list_once_its_key_is_old(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await confirm(rig, asked, intent)
    assert (await rig.report(name, 1)).state == PENDING
    await rig.sql.execute("UPDATE recharge_intents SET created_at = created_at - interval '25 hours'")
    assert (await rig.report(name, 1)).state == SUCCEEDED
    assert await rig.audit_failures() == []


async def test_a_decline_rests_and_another_card_does_not_wait(rig: Rig) -> None:
    name = await start(rig, "pm_card_chargeCustomerFail")
    declined = await pay(rig, name)
    assert (declined.state, declined.decline_code) == (PENDING, "generic_decline")
    waiting = await rig.authorize(name)
    assert waiting.verdict == WAIT
    assert timedelta(minutes=50) < waiting.retry_after.ToTimedelta() <= timedelta(hours=1)
    await rig.card("pm_card_mastercard")
    assert (await pay(rig, name)).state == SUCCEEDED
    assert await rig.sql.fetchval("SELECT count(*) FROM recharge_intents") == 1
    assert await rig.audit_failures() == []


async def test_the_same_decline_twice_is_two_declines(rig: Rig) -> None:
    name = await start(rig, "pm_card_chargeCustomerFail")
    await pay(rig, name)
    await rig.sql.execute("UPDATE recharge_attempts SET ended_at = ended_at - interval '2 hours'")
    asked = await rig.authorize(name)
    assert (asked.verdict, asked.attempt) == (CHARGE, 2)
    # The PaymentIntent still shows the first decline, which is no outcome of the second attempt.
    assert (await rig.report(name, 2, asked.payment_intent)).decline_code == ""
    code = await confirm(rig, asked, asked.payment_intent)
    assert (await rig.report(name, 2, asked.payment_intent, answered=True, error_code=code)).decline_code == code
    assert (await rig.authorize(name)).verdict == WAIT


async def test_a_canceled_payment_intent_is_followed_by_the_next(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await rig.report(name, 1, intent)
    await rig.twin.api.v1.payment_intents.cancel_async(intent)
    following = await rig.authorize(name)
    assert (following.verdict, following.attempt, following.payment_intent_number) == (CHARGE, 2, 2)
    assert following.create_key.endswith("/pi2")
    assert (await pay(rig, name)).state == SUCCEEDED
    assert await rig.audit_failures() == []


async def test_the_bank_may_take_its_time(rig: Rig) -> None:
    name = await start(rig)
    await rig.twin.fault("stay_processing", "POST /v1/payment_intents/*/confirm")
    slow = await pay(rig, name)
    assert (slow.state, slow.payment_intent_status) == (PENDING, "processing")
    looked = await rig.authorize(name)
    assert looked.verdict == OBSERVE
    assert looked.retry_after.ToTimedelta() >= timedelta(seconds=5)
    refused = await refusal(rig.fail(name))
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "PAYMENT_INTENT_OPEN")
    await rig.twin.complete(slow.payment_intent)
    assert (await rig.fail(name)).state == SUCCEEDED
    assert await rig.balance() == 20 * USD
    assert await rig.audit_failures() == []


async def test_authentication_waits_for_a_human_who_may_do_it_on_session(rig: Rig) -> None:
    name = await start(rig, "pm_card_authenticationRequired")
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await rig.report(name, 1, intent)
    code = await confirm(rig, asked, intent)
    assert code == "authentication_required"
    await rig.report(name, 1, intent, answered=True, error_code=code)
    assert (await rig.authorize(name)).verdict == WAIT
    assert len(await rig.alerts("RECHARGE_NEEDS_A_PERSON")) == 1
    # The human confirms the same PaymentIntent on session, and authenticates.
    await rig.twin.api.v1.payment_intents.confirm_async(intent, {"payment_method": asked.payment_method})
    assert (await rig.authorize(name)).verdict == WAIT
    await rig.twin.complete(intent)
    assert (await rig.authorize(name)).verdict == ENDED
    assert await rig.balance() == 20 * USD
    assert await rig.audit_failures() == []
    assert await rig.audit_failures() == []


async def test_what_is_not_needed_any_more_is_canceled_and_gives_its_hold_back(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await rig.grant(50)
    assert (await rig.authorize(name)).verdict == GIVE_UP
    failed = await rig.fail(name, "not needed")
    assert (failed.state, failed.failure_reason) == (FAILED, "not needed")
    # The worker had not told which PaymentIntent it made: giving up found it by its key.
    assert (await rig.twin.api.v1.payment_intents.retrieve_async(intent)).status == "canceled"
    policy = await rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet))
    assert (policy.month_count, policy.policy.paused_reason) == (0, "")
    assert await rig.audit_failures() == []


async def test_what_is_needed_again_when_it_is_given_up_starts_over(rig: Rig) -> None:
    name = await start(rig)
    await rig.grant(6)
    asked = await rig.authorize(name)
    assert asked.verdict == GIVE_UP
    # Between the advice and the giving up the money is spent.
    await rig.spend(5, 1, total=5)
    assert (await rig.fail(name, asked.reason, advised=True)).state == FAILED
    policy = await rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet))
    assert (policy.month_count, policy.policy.paused_reason) == (1, "")
    second, first = await rig.recharges()
    assert (first.state, second.state) == (FAILED, PENDING)
    assert await rig.alerts("RECHARGE_FAILED") == []
    assert (await pay(rig, second.name)).state == SUCCEEDED
    assert await rig.audit_failures() == []


async def test_after_30_days_without_a_charge_it_pauses(rig: Rig) -> None:
    name = await start(rig)
    await rig.sql.execute("UPDATE recharges SET created_at = created_at - interval '31 days'")
    asked = await rig.authorize(name)
    assert asked.verdict == GIVE_UP
    assert (await rig.fail(name, asked.reason, advised=True)).state == FAILED
    policy = await rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet))
    assert "30 days" in policy.policy.paused_reason
    assert len(await rig.recharges()) == 1


async def test_a_failure_pauses_and_another_card_ends_the_pause(rig: Rig) -> None:
    name = await start(rig)
    assert (await rig.fail(name, "no luck")).state == FAILED
    policy = await rig.stub.GetRechargePolicy(pb.GetRechargePolicyRequest(wallet=rig.wallet))
    assert policy.policy.paused_reason == f"{name.rpartition('/')[2]} failed: no luck"
    assert len(await rig.alerts("RECHARGE_FAILED")) == 1
    assert len(await rig.recharges()) == 1
    await rig.card("pm_card_mastercard")
    (second, _) = await rig.recharges()
    assert second.number == 2
    assert (await pay(rig, second.name)).state == SUCCEEDED
    assert await rig.audit_failures() == []


async def test_a_worker_that_wakes_after_the_end_charges_nothing(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    # Its creation was never sent; meanwhile the recharge is given up, past the life of its key.
    await rig.sql.execute("UPDATE recharge_intents SET created_at = created_at - interval '25 hours'")
    await rig.fail(name)
    intent = await create(rig, asked)
    late = await rig.report(name, 1, intent)
    # It is told that all is over before it would confirm, and what it made is canceled.
    assert late.state == FAILED
    assert (await rig.twin.api.v1.payment_intents.retrieve_async(intent)).status == "canceled"
    assert await rig.audit_failures() == []


@pytest.mark.parametrize("fault", ["error_500_before", "lost_answer", "rate_limit_429"])
async def test_without_an_answer_of_stripe_nothing_changes(rig: Rig, fault: str) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await rig.report(name, 1, intent)
    await confirm(rig, asked, intent)
    await rig.twin.fault(fault, "GET /v1/payment_intents/*", times=3)
    assert (await refusal(rig.report(name, 1, intent, answered=True))).code is Code.UNAVAILABLE
    assert (await rig.recharge(name)).state == PENDING
    await rig.twin.clear_faults()
    assert (await rig.report(name, 1, intent, answered=True)).state == SUCCEEDED


async def test_money_that_does_not_fit_is_not_granted(rig: Rig) -> None:
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await rig.report(name, 1, intent)
    await rig.twin.api.v1.payment_intents.update_async(intent, {"metadata": {"wallet": "orgs/other/wallets/main"}})
    await confirm(rig, asked, intent)
    odd = await rig.report(name, 1, intent, answered=True)
    assert odd.state == PENDING
    assert "orgs/other/wallets/main" in odd.failure_reason
    assert (await rig.authorize(name)).verdict == WAIT
    assert len(await rig.alerts("RECHARGE_PROBLEM")) == 1
    assert await rig.balance() == 0
    # Once a person has put it right at Stripe, the next look finds that it fits.
    await rig.twin.api.v1.payment_intents.update_async(intent, {"metadata": {"wallet": rig.wallet}})
    assert (await rig.authorize(name)).verdict == ENDED
    assert await rig.balance() == 20 * USD
    assert await rig.audit_failures() == []


async def lose(rig: Rig) -> tuple[str, str]:
    """A pending recharge whose PaymentIntent Stripe does not know; returns its name and the true PaymentIntent."""
    name = await start(rig)
    asked = await rig.authorize(name)
    intent = await create(rig, asked)
    await rig.report(name, 1, intent)
    await rig.sql.execute("UPDATE recharge_intents SET payment_intent = 'pi_gone'")
    waiting = await rig.authorize(name)
    assert waiting.verdict == WAIT
    assert "pi_gone" in waiting.reason
    assert len(await rig.alerts("RECHARGE_PROBLEM")) == 1
    return name, intent


async def test_an_operator_ends_what_stripe_does_not_know(rig: Rig) -> None:
    name, _ = await lose(rig)
    failed = await rig.fail(name, "its account is gone")
    assert failed.state == FAILED
    assert "pi_gone" in failed.failure_reason
    await rig.policy(resume=True)
    assert [one.state for one in await rig.recharges()] == [PENDING, FAILED]
    assert await rig.audit_failures() == []


async def test_by_itself_it_ends_after_30_days_and_not_before(rig: Rig) -> None:
    name, _ = await lose(rig)
    provider = Stripe(rig.settings)
    try:
        async with asyncpg.create_pool(rig.sql_dsn, min_size=1, max_size=2) as pool:
            recharges = Recharges(pool, provider)
            with pytest.raises(PurseError, match="pi_gone"):
                await recharges.give_up(rig.org, name, GivingUp("it is not needed", advised=True))
            await rig.sql.execute("UPDATE recharges SET created_at = created_at - interval '31 days'")
            advice = await rig.authorize(name)
            assert advice.verdict == GIVE_UP
            ended = await recharges.give_up(rig.org, name, GivingUp(advice.reason, advised=True))
    finally:
        await provider.close()
    assert ended.state == "FAILED"
    assert await rig.audit_failures() == []


async def test_with_the_right_key_again_it_goes_on(rig: Rig) -> None:
    name, intent = await lose(rig)
    await rig.sql.execute("UPDATE recharge_intents SET payment_intent = $1", intent)
    assert (await pay(rig, name)).state == SUCCEEDED
    assert await rig.audit_failures() == []


async def test_the_longest_names_pass_through_stripe_and_back(rig: Rig) -> None:
    subject = "/".join([f"orgs/{rig.org}", *(f"teams/{'t' * 62}{n}" for n in range(7))])
    wallet = f"{subject}/wallets/{'w' * 48}"
    await rig.stub.CreateWallet(
        pb.CreateWalletRequest(
            parent=subject, wallet_id="w" * 48, wallet=pb.Wallet(currency_code="USD"), request_id=rig.request_id()
        )
    )
    await rig.card(wallet=wallet)
    await rig.policy(wallet)
    (one,) = await rig.recharges(wallet)
    assert len(one.name) > 500
    assert (await pay(rig, one.name)).state == SUCCEEDED
    assert await rig.audit_failures() == []
