"""What Stripe's facts mean."""

from dataclasses import replace

import pytest

from services.wallet.recharge.domain.outcome import (
    AllCanceled,
    Declined,
    Expected,
    Intent,
    Mismatch,
    OpenAttempt,
    StillOpen,
    Succeeded,
    judge,
)

EXPECTED = Expected("i1", "orgs/a/recharges/m-2026-11-1", "orgs/a/wallets/m", "USD", livemode=False, amount_minor=2000)
OPEN = Intent(1, "pi_1", "requires_payment_method", 0, "USD", False, EXPECTED.wallet, EXPECTED.recharge, "i1")
PAID = replace(OPEN, status="succeeded", amount_received_minor=2000)
REFUSED = replace(OPEN, error_code="generic_decline", error_mark="ch_1")
FRESH = OpenAttempt("")


def test_a_success_is_a_success_whatever_else_is_there() -> None:
    canceled = replace(OPEN, status="canceled")
    later = replace(OPEN, number=2, payment_intent="pi_2", status="processing")
    assert judge([canceled, PAID, later], EXPECTED, FRESH) == Succeeded(PAID)


@pytest.mark.parametrize(
    "change",
    [
        {"installation": "i2"},
        {"currency": "EUR"},
        {"livemode": True},
        {"wallet": "orgs/b/wallets/m"},
        {"recharge": "orgs/a/recharges/m-2026-11-2"},
        {"amount_received_minor": 0},
        {"amount_received_minor": 2001},
    ],
)
def test_money_that_does_not_fit_is_not_granted(change: dict[str, object]) -> None:
    wrong = replace(PAID, **change)  # type: ignore[arg-type]
    result = judge([wrong], EXPECTED, FRESH)
    assert isinstance(result, Mismatch)
    assert result.problem


def test_less_than_asked_is_a_success() -> None:
    less = replace(PAID, amount_received_minor=1999)
    assert judge([less], EXPECTED, FRESH) == Succeeded(less)


def test_a_new_refusal_ends_the_attempt() -> None:
    assert judge([REFUSED], EXPECTED, FRESH) == Declined(REFUSED, "generic_decline")


def test_the_refusal_of_an_earlier_attempt_does_not() -> None:
    assert judge([REFUSED], EXPECTED, OpenAttempt("ch_1")) == StillOpen(REFUSED)


def test_unless_stripe_is_known_to_have_answered() -> None:
    assert judge([REFUSED], EXPECTED, OpenAttempt("ch_1", answered=True)) == Declined(REFUSED, "generic_decline")


def test_a_refused_request_ends_the_attempt_without_a_mark() -> None:
    attempt = OpenAttempt("", answered=True, answered_code="resource_missing")
    assert judge([OPEN], EXPECTED, attempt) == Declined(OPEN, "resource_missing")
    lost = replace(OPEN, payment_intent="", status="")
    assert judge([lost], EXPECTED, attempt) == Declined(lost, "resource_missing")


@pytest.mark.parametrize(
    "status", ["processing", "requires_action", "requires_confirmation", "requires_payment_method"]
)
def test_nothing_else_is_an_outcome(status: str) -> None:
    waiting = replace(OPEN, status=status)
    assert judge([waiting], EXPECTED, FRESH) == StillOpen(waiting)


def test_only_all_canceled_is_canceled() -> None:
    canceled = replace(OPEN, status="canceled")
    lost = Intent(2, "", "", 0, "USD", False, EXPECTED.wallet, EXPECTED.recharge, "i1")
    assert judge([canceled], EXPECTED, FRESH) == AllCanceled()
    assert judge([canceled, lost], EXPECTED, FRESH) == StillOpen(lost)
    assert judge([], EXPECTED, FRESH) == StillOpen(None)
