"""What a look at Stripe, or a decision, does to a recharge's locked row. All of it runs in the caller's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from services.kit import money
from services.wallet.recharge import grants, names
from services.wallet.recharge.domain import attempts as steps
from services.wallet.recharge.domain import outcome as outcomes
from services.wallet.recharge.domain.attempts import AttemptState, Charge, Circumstances, State
from services.wallet.recharge.domain.outcome import Intent, OpenAttempt
from services.wallet.recharge.domain.policy import needed
from services.wallet.recharge.store import months, policies, reviews
from services.wallet.recharge.store import recharges as rows
from services.wallet.recharge.store.policies import Facts
from services.wallet.recharge.store.recharges import AttemptRow, RechargeRow
from services.wallet.recharge.store.reviews import ROOM_AGAIN
from services.wallet.refunds.store import charges
from services.wallet.refunds.store.charges import NewCharge


@dataclass(frozen=True, slots=True)
class Report:
    """What the worker says of an attempt.

    Attributes:
        attempt: Its number.
        payment_intent: Empty where the answer of its creation was lost.
        answered: Whether Stripe answered its confirmation.
        error_code: Of that answer.
    """

    attempt: int
    payment_intent: str
    answered: bool
    error_code: str


@dataclass(frozen=True, slots=True)
class GivingUp:
    """Somebody wants a recharge to be given up.

    Attributes:
        reason: For people.
        advised: AuthorizeAttempt said so, as opposed to a person: then why is decided again, since it may have changed.
        by_operator: A person who may end a recharge whose PaymentIntent Stripe does not know any more.
    """

    reason: str
    advised: bool = False
    by_operator: bool = False


def circumstances(known: Facts, row: RechargeRow) -> Circumstances:
    """What a decision about a recharge's next step takes of its wallet."""
    return Circumstances(
        policy=known.policy,
        balance_nanos=known.balance_nanos,
        wallet_state=known.wallet_state,
        payment_method=known.payment_method,
        month=known.month,
        usage=known.usage,
        moved_nanos=known.moved_nanos,
        extras=known.extras,
        extras_then=known.extras_at(row.created_at),
    )


async def store_intents(
    connection: asyncpg.Connection, row: RechargeRow, seen: Sequence[Intent], now: datetime
) -> bool:
    """Stores what was seen; returns whether any of it is new."""
    stored = {one.number: one for one in row.intents}
    changed = False
    for intent in seen:
        was = stored.get(intent.number)
        if was is None:
            await rows.adopt_intent(connection, row, intent, now)
        elif (was.payment_intent or "", was.status, was.error_mark) != (
            intent.payment_intent,
            intent.status,
            intent.error_mark,
        ):
            await rows.set_intent(connection, row, intent.number, intent)
        else:
            continue
        changed = True
    return changed


async def take_report(connection: asyncpg.Connection, row: RechargeRow, report: Report | None) -> OpenAttempt | None:
    """The open attempt as the rule takes it, with what the worker says of it."""
    attempt = row.open_attempt
    if attempt is None:
        return None
    question = OpenAttempt(attempt.mark, attempt.answered, attempt.answered_code)
    if report is None or not report.answered or report.attempt != attempt.number:
        return question
    await rows.mark_answered(connection, row, attempt.number, report.error_code)
    return replace(question, answered=True, answered_code=report.error_code)


async def succeed(connection: asyncpg.Connection, row: RechargeRow, intent: Intent, now: datetime) -> None:
    """Pending → succeeded and the grant, in this one transaction."""
    received_nanos = money.from_minor_units(intent.amount_received_minor, row.currency)
    await rows.end_attempt(connection, row, AttemptState.SUCCEEDED, "", now)
    grant = await grants.put(connection, row.org, row.wallet, row.name, received_nanos=received_nanos, now=now)
    await rows.succeed(connection, row, received_nanos, grant, now)
    charge = NewCharge(intent.payment_intent, row.wallet, row.name, grant, row.currency, received_nanos)
    await charges.put(connection, row.org, charge, now)
    if received_nanos < row.amount_nanos:
        rest_nanos = row.amount_nanos - received_nanos
        await months.release(connection, row.org, row.wallet, row.month, rest_nanos, count=0)
    # An ended recharge ends a block, and one refill may not be enough.
    await policies.evaluate(connection, row.org, [row.wallet], now)


async def decline(connection: asyncpg.Connection, row: RechargeRow, code: str, now: datetime) -> None:
    """Ends the open attempt; where only a person can help, one is told."""
    await rows.end_attempt(connection, row, AttemptState.DECLINED, code, now)
    if code in steps.AUTHENTICATION or code in steps.DEAD_CARD:
        await policies.alert(
            connection,
            row.org,
            row.wallet,
            {"kind": "RECHARGE_NEEDS_A_PERSON", "wallet": row.wallet, "recharge": row.name, "decline_code": code},
        )


def may_end(row: RechargeRow, seen: Sequence[Intent], why: GivingUp, now: datetime) -> bool:
    """Whether nothing of a recharge can be paid any more.

    A PaymentIntent that Stripe does not know cannot be read as canceled. It may be that only the key is another
    account's for now, so ending it takes an operator, or the whole time that a recharge has.
    """
    if all(intent.status == outcomes.CANCELED for intent in seen):
        return True
    gone = all(intent.status in {outcomes.CANCELED, outcomes.MISSING} for intent in seen)
    return gone and (why.by_operator or now >= row.created_at + steps.MAX_AGE)


async def fail(connection: asyncpg.Connection, row: RechargeRow, why: GivingUp, now: datetime) -> None:
    """Gives back what it held, and starts over where a charge that was not needed is needed again.

    Where the charge itself has failed, or a person does not want it, starting over would do the same again at once:
    then the policy is paused while the balance is low.
    """
    await rows.end_attempt(connection, row, AttemptState.CANCELED, "", now)
    reason = f"{why.reason}; {row.problem}" if row.problem else why.reason
    await rows.fail(connection, row, reason, now)
    await months.release(connection, row.org, row.wallet, row.month, row.amount_nanos)
    known = (await policies.facts(connection, row.org, [row.wallet], now))[0]
    policy = known.policy
    if policy is None or not policy.enabled or not needed(policy, known.balance_nanos, row.forecast):
        return
    if why.advised and not steps.exhausted(row.standing(), now):
        await policies.evaluate(connection, row.org, [row.wallet], now)
        return
    await policies.pause(connection, row.org, row.wallet, f"{row.name.rpartition('/')[2]} failed: {why.reason}", now)
    await policies.alert(
        connection,
        row.org,
        row.wallet,
        {"kind": "RECHARGE_FAILED", "wallet": row.wallet, "recharge": row.name, "reason": why.reason},
    )


async def note_problem(connection: asyncpg.Connection, row: RechargeRow, problem: str) -> bool:
    """Stores and tells what does not fit, once."""
    new = await rows.set_problem(connection, row, problem)
    if new:
        await policies.alert(
            connection,
            row.org,
            row.wallet,
            {"kind": "RECHARGE_PROBLEM", "wallet": row.wallet, "recharge": row.name, "problem": problem},
        )
    return new


async def note_late(connection: asyncpg.Connection, row: RechargeRow, seen: Sequence[Intent]) -> bool:
    """An ended recharge never changes; money that came in beside its one grant is a person's business."""
    charged = [intent.payment_intent for intent in seen if intent.status == outcomes.SUCCEEDED]
    if len(charged) <= (row.state is State.SUCCEEDED):
        return False
    what = "charged more than once" if row.state is State.SUCCEEDED else "charged after it had failed"
    return await note_problem(connection, row, f"{what}: {', '.join(charged)}")


async def store_charge(
    connection: asyncpg.Connection, row: RechargeRow, known: Facts, step: Charge, now: datetime, *, installation: str
) -> bool:
    """Stores what a charge needs before Stripe is asked; returns whether anything is new."""
    assert known.policy is not None, "a charge needs a policy"
    # Months only grow, so the old one's lock comes first, as everywhere.
    if step.moves_month:
        await months.release(connection, row.org, row.wallet, row.month, row.amount_nanos)
        await reviews.end_open(connection, row.org, row.wallet, ROOM_AGAIN, now)
        await months.lock_month(connection, row.org, row.wallet, known.month)
        await months.hold(
            *(connection, row.org, row.wallet, known.month.key, row.amount_nanos),
            policy=known.policy,
            extras=known.extras,
            new=False,
        )
        await rows.move(connection, row, known.month.key)
    else:
        await months.lock_month(connection, row.org, row.wallet, known.month)
    if step.resumed:
        return step.moves_month
    if known.customer is None or known.payment_method is None:
        raise AssertionError("a charge needs a payment method and the customer that holds it")
    await rows.end_attempt(connection, row, AttemptState.CANCELED, "superseded", now)
    current = row.intent
    if current is None or current.status == outcomes.CANCELED:
        number = current.number + 1 if current else 1
        key = names.create_key(installation, row.name, number)
        await rows.add_intent(connection, row, number, create_key=key, customer=known.customer, now=now)
        mark = ""
    else:
        number, mark = current.number, current.error_mark
    attempt = AttemptRow(
        number=step.number,
        intent_number=number,
        confirm_key=names.confirm_key(installation, row.name, number, step.number),
        payment_method=known.payment_method,
        state=AttemptState.OPEN,
        decline_code="",
        mark=mark,
        answered=False,
        answered_code="",
        authorized_at=now,
        ended_at=None,
    )
    await rows.add_attempt(connection, row, attempt)
    return True
