"""What Stripe's facts mean for a top-up."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.wallet.recharge.domain.outcome import Expected, Intent
from services.wallet.recharge.domain.top_up import Asks, Cancel, Open, Outcome, Over, Paid, Problem, Seen, judge

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EXPECTED = Expected("home", "orgs/a/topUps/1", "orgs/a/wallets/w", "USD", livemode=False, amount_minor=500)


def intent(status: str, received: int = 0, code: str = "") -> Intent:
    return Intent(
        0, "pi_1", status, received, "USD", False, "orgs/a/wallets/w", "orgs/a/topUps/1", "home", error_code=code
    )


def outcome(seen: Seen, age: timedelta = timedelta(minutes=1)) -> Outcome:
    return judge(seen, EXPECTED, created_at=NOW, expires_at=NOW + timedelta(hours=24), now=NOW + age)


PAID = intent("succeeded", 500)


@pytest.mark.parametrize("page", [None, "open", "complete", "expired"])
def test_money_that_came_counts_whatever_else_is_true(page: str | None) -> None:
    assert outcome(Seen(page, PAID), timedelta(days=9)) == Paid(PAID)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(PAID, installation="elsewhere"),
        replace(PAID, recharge="orgs/a/topUps/2"),
        replace(PAID, wallet="orgs/a/wallets/v"),
        replace(PAID, currency="EUR"),
        replace(PAID, livemode=True),
        replace(PAID, amount_received_minor=501),
        replace(PAID, amount_received_minor=0),
        replace(PAID, status="missing"),
    ],
)
def test_what_does_not_fit_is_for_a_person(wrong: Intent) -> None:
    assert isinstance(outcome(Seen(None, wrong)), Problem)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen("open", None), Open()),
        (Seen("open", intent("requires_payment_method", code="generic_decline")), Open()),
        (Seen("open", intent("requires_action")), Open()),
        (Seen("complete", intent("processing")), Open()),
        (Seen("complete", intent("requires_payment_method", code="x")), Over("the payment failed at the bank", "x")),
        (Seen("expired", None), Over("the page expired before it was paid")),
        (Seen("expired", intent("processing")), Open()),
        (Seen(None, intent("processing")), Open()),
        (Seen(None, intent("requires_capture")), Open()),
        (Seen(None, None), Open()),
        (Seen(None, intent("requires_payment_method")), Open()),
        (Seen(None, intent("requires_action")), Asks("authentication_required")),
        (
            Seen(None, intent("requires_payment_method", code="authentication_required")),
            Asks("authentication_required"),
        ),
        (
            Seen(None, intent("requires_payment_method", code="lost_card")),
            Cancel("the card was declined (lost_card)", "lost_card"),
        ),
        (
            Seen(None, intent("requires_confirmation"), "resource_missing"),
            Cancel("the card was declined (resource_missing)", "resource_missing"),
        ),
        (Seen(None, intent("canceled")), Over("its PaymentIntent is canceled")),
        # Canceled for a decline, and seen by another before who canceled it had said why.
        (
            Seen(None, intent("canceled", code="lost_card")),
            Over("the card was declined (lost_card)", "lost_card"),
        ),
        (
            Seen(None, intent("canceled", code="authentication_required")),
            Over("its PaymentIntent is canceled", "authentication_required"),
        ),
    ],
)
def test_every_state(seen: Seen, expected: Outcome) -> None:
    assert outcome(seen) == expected


def test_nobody_waits_for_ever() -> None:
    late = timedelta(minutes=16)
    assert outcome(Seen(None, None), late) == Over("it was never sent to Stripe")
    assert outcome(Seen(None, intent("requires_confirmation")), late) == Cancel("it was not confirmed in time")
    asks = Seen(None, intent("requires_action"))
    assert isinstance(outcome(asks, late), Asks)
    assert isinstance(outcome(asks, timedelta(hours=25)), Cancel)
