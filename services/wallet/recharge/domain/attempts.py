"""What to do next about a recharge: charge, ask Stripe, wait, or give it up.

The row is the truth: all that a decision needs is stored, so a workflow that is lost loses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.wallet.domain.accounts import LEDGER_MAX_NANOS
from services.wallet.recharge.domain import outcome
from services.wallet.recharge.domain.policy import (
    NO_EXTRAS,
    Block,
    Extras,
    Forecast,
    MonthKey,
    Policy,
    Usage,
    needed,
    over_cap,
)

MAX_ATTEMPTS: Final = 15
"""The most confirmations of one recharge."""
MAX_AGE: Final = timedelta(days=30)
"""A recharge that has not succeeded by then is given up."""
KEY_LIFE: Final = timedelta(hours=23)
"""How long a replay under the same idempotency key is relied on; Stripe forgets keys after 24 h."""

_TOO_OLD: Final = "30 days have passed without a charge"
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
# After the n-th decline; 14 rests of together 25 days and 17 hours fit in the 30 days.
_RESTS: Final = (
    *(_HOUR, 4 * _HOUR, 12 * _HOUR, _DAY, _DAY),
    *(2 * _DAY, 2 * _DAY, 2 * _DAY, 2 * _DAY),
    *(3 * _DAY, 3 * _DAY, 3 * _DAY, 3 * _DAY, 3 * _DAY),
)
AUTHENTICATION: Final = frozenset({"authentication_required", "payment_intent_authentication_failure"})
"""The cardholder must authenticate; charging again without them only fails again."""
DEAD_CARD: Final = frozenset(
    {
        *("lost_card", "stolen_card", "pickup_card", "restricted_card", "fraudulent", "security_violation"),
        *("revocation_of_authorization", "revocation_of_all_authorizations", "stop_payment_order"),
        *("expired_card", "invalid_account", "invalid_number", "card_not_supported", "currency_not_supported"),
        # Errors of the request: the method was detached or is no method of this customer.
        *("resource_missing", "payment_method_unexpected_state", "payment_method_not_available"),
    }
)
"""The same card is never charged again for this recharge."""

_WAIT_FOR_HUMAN_S: Final = 86_400.0
_WAIT_FOR_STATE_S: Final = 900.0
_OBSERVE_MIN_S: Final = 5.0
_OBSERVE_MAX_S: Final = 6 * 3600.0
_WAIT_MIN_S: Final = 1.0


class State(StrEnum):
    """Where a recharge stands."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class AttemptState(StrEnum):
    """Where an attempt stands."""

    OPEN = "OPEN"
    DECLINED = "DECLINED"
    SUCCEEDED = "SUCCEEDED"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One authorised confirmation.

    Attributes:
        number: From 1.
        payment_method: What it was to be charged to.
        authorized_at: When it was stored.
        ended_at: When its outcome was learnt; None while it is open.
        decline_code: Why it was declined; empty where it was not.
    """

    number: int
    state: AttemptState
    payment_method: str
    authorized_at: datetime
    ended_at: datetime | None = None
    decline_code: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """A recharge with what is known of it after a fresh look at Stripe.

    Attributes:
        attempts: In order of their numbers.
        intent_status: Of the PaymentIntent in use; empty where none is known.
        problem: What was charged and does not fit; empty where all fits.
        forecast: Why it was started; None: the balance was below the threshold.
    """

    state: State
    amount_nanos: int
    month: str
    created_at: datetime
    attempts: Sequence[Attempt]
    intent_status: str
    problem: str = ""
    forecast: Forecast | None = None


class WalletState(StrEnum):
    """Whether the wallet pays."""

    OPEN = "OPEN"
    FROZEN = "FROZEN"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What allows or forbids a charge now.

    Attributes:
        policy: None where the wallet has none.
        usage: What counts in the month in force, this recharge included where it counts there.
        payment_method: On file; None where none is.
        moved_nanos: What the fullest side of the wallet's accounts has taken in all.
        extras: What is in force beyond the caps.
        extras_then: What was, or is by now, for a recharge that was begun when this one was.
    """

    policy: Policy | None
    balance_nanos: int
    wallet_state: WalletState
    payment_method: str | None
    month: MonthKey
    usage: Usage
    moved_nanos: int = 0
    extras: Extras = NO_EXTRAS
    extras_then: Extras = NO_EXTRAS


@dataclass(frozen=True, slots=True)
class Charge:
    """Confirm attempt `number`: a new one, or `resumed`, with the keys and the method that it was stored with."""

    number: int
    resumed: bool
    moves_month: bool = False


@dataclass(frozen=True, slots=True)
class Observe:
    """Stripe is at work; look again after `retry_after_s`."""

    reason: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now.

    Attributes:
        cap: The cap that is why, if one is: a human is told of it once a month.
        for_cardholder: Whether it goes on as soon as the cardholder authenticates it.
        by_itself: Whether time alone ends it; else a person must do something.
    """

    reason: str
    retry_after_s: float
    cap: Block | None = None
    for_cardholder: bool = False
    by_itself: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Cancel what is open and fail it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """There is nothing left to do."""


Step = Charge | Observe | Wait | GiveUp | Ended


def next_step(recharge: Standing, world: Circumstances, now: datetime) -> Step:
    """What to do next. Pure: the same facts give the same answer, so a lost workflow loses nothing."""
    if recharge.state is not State.PENDING:
        return Ended()
    deadline = recharge.created_at + MAX_AGE
    if recharge.problem:
        return _with_problem(recharge, now, deadline)
    if recharge.intent_status in outcome.AT_THE_BANK:
        return Observe("the bank has not answered yet", _observe_s(recharge, now))
    stop = _not_needed(recharge, world) or (_TOO_OLD if now >= deadline else "")
    if stop:
        return GiveUp(stop)
    blocked = _blocked(world, recharge.amount_nanos)
    if blocked:
        return Wait(blocked, _until(deadline, now, _WAIT_FOR_STATE_S))
    return _attempt(recharge, world, now, deadline)


def _with_problem(recharge: Standing, now: datetime, deadline: datetime) -> Step:
    if now >= deadline and recharge.intent_status == outcome.MISSING:
        return GiveUp(_TOO_OLD)
    wait_s = _WAIT_FOR_HUMAN_S if now >= deadline else _until(deadline, now, _WAIT_FOR_HUMAN_S)
    return Wait(f"a person must look: {recharge.problem}", wait_s)


def exhausted(recharge: Standing, now: datetime) -> bool:
    """Whether all that could be tried was tried, so that giving it up is a failure even where it is needed."""
    return now >= recharge.created_at + MAX_AGE or len(recharge.attempts) >= MAX_ATTEMPTS


def _not_needed(recharge: Standing, world: Circumstances) -> str:
    if world.policy is None or not world.policy.enabled:
        return "the policy is not in force any more"
    if world.wallet_state in {WalletState.CLOSING, WalletState.CLOSED}:
        return "the wallet is closed"
    if not needed(world.policy, world.balance_nanos, recharge.forecast):
        return "the balance is high enough again, so the charge is not needed any more"
    return ""


def _blocked(world: Circumstances, amount_nanos: int) -> str:
    if world.policy is not None and world.policy.paused_reason:
        return f"the policy is paused: {world.policy.paused_reason}"
    if world.wallet_state is WalletState.FROZEN:
        return "the wallet is frozen"
    if world.payment_method is None:
        return "no payment method is on file"
    # Its money must fit before it is charged; what others put in until then is kept out of the room for recharges.
    if world.moved_nanos + 2 * amount_nanos > LEDGER_MAX_NANOS:
        return "the wallet's ledger has no room for it; use a new wallet"
    return ""


def _attempt(recharge: Standing, world: Circumstances, now: datetime, deadline: datetime) -> Step:
    last = recharge.attempts[-1] if recharge.attempts else None
    if last is not None and last.state is AttemptState.OPEN:
        if recharge.intent_status != outcome.REQUIRES_ACTION:
            return _within_caps(recharge, world, now, Charge(last.number, resumed=True))
        if last.payment_method == world.payment_method:
            wait_s = _until(deadline, now, _WAIT_FOR_HUMAN_S)
            return Wait("the cardholder must authenticate the payment", wait_s, for_cardholder=True)
    if last is not None and last.number >= MAX_ATTEMPTS:
        return GiveUp(f"{MAX_ATTEMPTS} attempts were declined")
    if last is not None and last.state is AttemptState.DECLINED and last.payment_method == world.payment_method:
        rest = _rest(recharge.attempts, last, now, deadline)
        if rest is not None:
            return rest
    return _within_caps(recharge, world, now, Charge(last.number + 1 if last else 1, resumed=False))


def _rest(attempts: Sequence[Attempt], last: Attempt, now: datetime, deadline: datetime) -> Wait | None:
    wait_s = _until(deadline, now, _WAIT_FOR_HUMAN_S)
    if last.decline_code in AUTHENTICATION:
        return Wait(
            "the cardholder must authenticate the payment, or put another card on file", wait_s, for_cardholder=True
        )
    if last.decline_code in DEAD_CARD:
        return Wait(f"the card was refused for good ({last.decline_code}): put another card on file", wait_s)
    declines = sum(1 for a in attempts if a.state is AttemptState.DECLINED)
    again_at = (last.ended_at or last.authorized_at) + _RESTS[min(declines, len(_RESTS)) - 1]
    if now >= again_at:
        return None
    wait_s = _until(again_at, now, None)
    return Wait(f"declined ({last.decline_code}): it is tried again later", wait_s, by_itself=True)


def _within_caps(recharge: Standing, world: Circumstances, now: datetime, charge: Charge) -> Step:
    policy = world.policy
    assert policy is not None, "a charge is only considered under a policy"
    until_month_s = _until(world.month.end, now, None)
    if recharge.month == world.month.key:
        # Its hold counts already: the caps may have been lowered below it since.
        rest = Usage(world.usage.count - 1, world.usage.amount_nanos - recharge.amount_nanos)
        cap = over_cap(policy, rest, recharge.amount_nanos, world.extras_then)
        if cap is None:
            return charge
        return Wait("the month's caps were lowered below what is held", until_month_s, cap)
    cap = over_cap(policy, world.usage, recharge.amount_nanos, world.extras)
    if cap is not None:
        return Wait(f"the caps of {world.month.key} leave no room for it", until_month_s, cap)
    return Charge(charge.number, resumed=charge.resumed, moves_month=True)


def _observe_s(recharge: Standing, now: datetime) -> float:
    """Asks often while the attempt is young, then ever less: webhooks are the faster way."""
    since = recharge.attempts[-1].authorized_at if recharge.attempts else recharge.created_at
    return min(_OBSERVE_MAX_S, max(_OBSERVE_MIN_S, (now - since).total_seconds() / 2))


def _until(instant: datetime, now: datetime, at_most_s: float | None) -> float:
    seconds = max(_WAIT_MIN_S, (instant - now).total_seconds())
    return seconds if at_most_s is None else min(seconds, at_most_s)
