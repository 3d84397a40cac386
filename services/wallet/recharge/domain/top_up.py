"""What Stripe's facts mean for a top-up: facts from a fresh retrieve in, one outcome out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.wallet.recharge.domain import outcome
from services.wallet.recharge.domain.attempts import AUTHENTICATION
from services.wallet.recharge.domain.outcome import Expected, Intent, mismatch

PAGE_LIFE: Final = timedelta(hours=24)
"""How long a page to pay on is open, and how long a charge waits for its cardholder."""
CONFIRM_WITHIN: Final = timedelta(minutes=15)
"""A charge of the card on file that did not reach Stripe within this time is given up: nobody waits for it now."""
PAGE_OPEN: Final = "open"
PAGE_EXPIRED: Final = "expired"


class State(StrEnum):
    """Where a top-up stands."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Seen:
    """What Stripe has of a top-up now.

    Attributes:
        page: The status of its Checkout session; None where it has none.
        intent: Its PaymentIntent; None where there is none.
        answered_code: Why Stripe refused the confirmation that was just tried; empty where it did not, or none was.
    """

    page: str | None
    intent: Intent | None
    answered_code: str = ""


@dataclass(frozen=True, slots=True)
class Paid:
    """The money has come; it becomes a grant."""

    intent: Intent


@dataclass(frozen=True, slots=True)
class Problem:
    """Something was charged that does not fit: a person must look."""

    problem: str


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing was charged, and nothing can be any more."""

    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Cancel:
    """It is to be given up, which Stripe must be told first."""

    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Asks:
    """The cardholder must authenticate."""

    code: str


@dataclass(frozen=True, slots=True)
class Open:
    """Nothing is decided."""


Outcome = Paid | Problem | Over | Cancel | Asks | Open


def judge(seen: Seen, expected: Expected, *, created_at: datetime, expires_at: datetime, now: datetime) -> Outcome:
    """What has become of a top-up. Money that has come counts, whatever else is true."""
    intent = seen.intent
    if intent is not None and intent.status == outcome.SUCCEEDED:
        problem = mismatch(intent, expected)
        return Problem(problem) if problem else Paid(intent)
    if intent is not None and intent.status == outcome.MISSING:
        return Problem(f"{intent.payment_intent} is unknown to Stripe under the key in use")
    if intent is not None and intent.status in outcome.AT_THE_BANK:
        return Open()
    if seen.page is not None:
        return _of_page(seen.page, intent)
    if intent is None:
        return Over("it was never sent to Stripe") if now >= created_at + CONFIRM_WITHIN else Open()
    return _of_card(seen, intent, created_at, expires_at, now)


def _of_page(page: str, intent: Intent | None) -> Outcome:
    code = intent.error_code if intent else ""
    if page == PAGE_OPEN:
        return Open()
    if page == PAGE_EXPIRED:
        return Over("the page expired before it was paid", code)
    # Complete without money and nothing at the bank: the payment failed afterwards.
    return Over("the payment failed at the bank", code)


def _of_card(seen: Seen, intent: Intent, created_at: datetime, expires_at: datetime, now: datetime) -> Outcome:
    code = intent.error_code or seen.answered_code
    if intent.status == outcome.CANCELED:
        # Whoever looks first after it was canceled for a decline says the decline.
        is_decline = code and code not in AUTHENTICATION
        return Over(_declined(code) if is_decline else "its PaymentIntent is canceled", code)
    if intent.status == outcome.REQUIRES_ACTION or code in AUTHENTICATION:
        if now >= expires_at:
            return Cancel("the cardholder did not authenticate it in time", code)
        return Asks(code or "authentication_required")
    if code:
        return Cancel(_declined(code), code)
    if now >= created_at + CONFIRM_WITHIN:
        return Cancel("it was not confirmed in time")
    return Open()


def _declined(code: str) -> str:
    return f"the card was declined ({code})"
