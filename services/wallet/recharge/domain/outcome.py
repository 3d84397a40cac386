"""What Stripe's facts mean for a recharge: facts from a fresh retrieve in, one outcome out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SUCCEEDED: Final = "succeeded"
CANCELED: Final = "canceled"
MISSING: Final = "missing"
"""Our word, not Stripe's: Stripe says for certain that it has no such PaymentIntent."""
AT_THE_BANK: Final = frozenset({"processing", "requires_capture"})
"""Somebody else's move; the charge may still succeed."""
REQUIRES_ACTION: Final = "requires_action"
UNPAID: Final = frozenset({"requires_payment_method", "requires_confirmation"})
"""The states in which a confirmation has not led to a charge (yet)."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A PaymentIntent as Stripe has it.

    Attributes:
        number: Which of the recharge's PaymentIntents, from 1.
        payment_intent: Stripe's id.
        status: Stripe's word.
        amount_received_minor: What was charged, in minor units.
        currency: Upper case.
        livemode: Whether it moved real money.
        wallet: The wallet that its metadata names.
        recharge: The recharge that its metadata names.
        installation: The installation that its metadata names: the database whose recharge it is.
        error_code: Why its last confirmation was declined, the decline code before the error's; empty: it was not.
        error_mark: Tells one refused confirmation from another; empty where none was refused.
        customer: Whom it charges; empty where it has none.
    """

    number: int
    payment_intent: str
    status: str
    amount_received_minor: int
    currency: str
    livemode: bool
    wallet: str
    recharge: str
    installation: str
    error_code: str = ""
    error_mark: str = ""
    customer: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a PaymentIntent must agree with before its money is granted."""

    installation: str
    recharge: str
    wallet: str
    currency: str
    livemode: bool
    amount_minor: int


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """The attempt whose outcome is not known.

    Attributes:
        mark: The `error_mark` that stood on the PaymentIntent when the attempt was authorised.
        answered: Whether Stripe is known to have answered its confirmation.
        answered_code: The error of that answer; empty where it was none.
    """

    mark: str
    answered: bool = False
    answered_code: str = ""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The money has come; it becomes a grant."""

    intent: Intent


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something was charged that does not fit the recharge: nothing is granted until a human has looked."""

    intent: Intent
    problem: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Stripe does not know a PaymentIntent that it once made: another account's key, or deleted test data."""

    intent: Intent
    problem: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The open attempt ended without a charge."""

    intent: Intent
    code: str


@dataclass(frozen=True, slots=True)
class AllCanceled:
    """Every PaymentIntent of the recharge is canceled at Stripe."""


@dataclass(frozen=True, slots=True)
class StillOpen:
    """Nothing is decided. `intent` is the one in use; None where none is known."""

    intent: Intent | None


Outcome = Succeeded | Mismatch | Missing | Declined | AllCanceled | StillOpen


def judge(intents: Sequence[Intent], expected: Expected, attempt: OpenAttempt | None) -> Outcome:
    """What the PaymentIntents of a recharge say, all of them freshly retrieved.

    A success counts whichever PaymentIntent it is on; anything else is read off the latest.
    """
    paid = [(intent, mismatch(intent, expected)) for intent in intents if intent.status == SUCCEEDED]
    if paid:
        # One that fits comes first; the others are a person's business.
        intent, problem = min(paid, key=lambda pair: bool(pair[1]))
        return Mismatch(intent, problem) if problem else Succeeded(intent)
    for intent in intents:
        if intent.status == MISSING:
            return Missing(intent, f"{intent.payment_intent} is unknown to Stripe under the key in use")
    if not intents:
        return StillOpen(None)
    if all(intent.status == CANCELED for intent in intents):
        return AllCanceled()
    current = max(intents, key=lambda intent: intent.number)
    code = _decline_code(current, attempt) if attempt is not None else ""
    return Declined(current, code) if code else StillOpen(current)


def _decline_code(current: Intent, attempt: OpenAttempt) -> str:
    """Why the open attempt ended without a charge; empty where that is not known."""
    if not current.payment_intent:
        # Where Stripe refused to create it, there is nothing that could be paid.
        return attempt.answered_code
    if current.status not in UNPAID:
        return ""
    if current.error_mark and (attempt.answered or current.error_mark != attempt.mark):
        return current.error_code or attempt.answered_code or "unknown"
    return attempt.answered_code


def mismatch(intent: Intent, expected: Expected) -> str:
    """What of a succeeded PaymentIntent does not fit the recharge; empty where all does."""
    pairs = (
        ("installation", intent.installation, expected.installation),
        ("recharge", intent.recharge, expected.recharge),
        ("wallet", intent.wallet, expected.wallet),
        ("currency", intent.currency, expected.currency),
        ("livemode", str(intent.livemode).lower(), str(expected.livemode).lower()),
    )
    wrong = [f"{name} is {seen!r}, not {wanted!r}" for name, seen, wanted in pairs if seen != wanted]
    if not 0 < intent.amount_received_minor <= expected.amount_minor:
        wrong.append(f"amount_received is {intent.amount_received_minor}, not 1 to {expected.amount_minor}")
    return "; ".join(wrong)
