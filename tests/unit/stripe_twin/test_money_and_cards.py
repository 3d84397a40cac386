"""Currencies and test cards."""

from __future__ import annotations

import pytest

from embedded.stripe_twin import cards, currencies
from embedded.stripe_twin.errors import ApiError


@pytest.mark.parametrize(
    ("currency", "expected"), [("usd", 2), ("jpy", 0), ("kwd", 3), ("krw", 0), ("isk", 2), ("ugx", 2), ("huf", 2)]
)
def test_exponents(currency: str, expected: int) -> None:
    assert expected == currencies.exponent(currency)


@pytest.mark.parametrize(
    ("amount", "currency"),
    [(50, "usd"), (99_999_999, "usd"), (50, "jpy"), (30, "gbp"), (1500, "kwd"), (500, "isk"), (100, "ugx"),
     (999_999_999_999, "idr")],
)  # fmt: skip
def test_amounts_that_can_be_charged(amount: int, currency: str) -> None:
    currencies.check_amount(amount, currency)


@pytest.mark.parametrize(
    ("amount", "currency", "code", "says"),
    [
        (0, "usd", "parameter_invalid_integer", "greater than or equal to 1"),
        (-5, "usd", "parameter_invalid_integer", "greater than or equal to 1"),
        (49, "usd", "amount_too_small", "at least 0.50 usd"),
        (49, "jpy", "amount_too_small", "at least 50 jpy"),
        (17_499, "huf", "amount_too_small", "at least 175.00 huf"),
        (100_000_000, "usd", "amount_too_large", "no more than 999999.99 usd"),
        (1501, "kwd", None, "the last digit"),
        (550, "isk", None, "must be 00"),
    ],
)
def test_amounts_that_cannot(amount: int, currency: str, code: str | None, says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        currencies.check_amount(amount, currency)
    assert (refused.value.error.get("code"), refused.value.error["param"]) == (code, "amount")


def test_currencies_are_lowered_and_known() -> None:
    assert currencies.check_currency("USD") == "usd"
    with pytest.raises(ApiError, match="Invalid currency: zzz"):
        currencies.check_currency("zzz")
    assert not currencies.ZERO_DECIMAL & currencies.TWO_DECIMAL - currencies.WHOLE_HUNDREDS
    assert set(currencies.MINIMUM_MINOR) <= currencies.SUPPORTED


@pytest.mark.parametrize(
    ("test_id", "last4"),
    [
        ("pm_card_visa", "4242"),
        ("pm_card_mastercard", "4444"),
        ("pm_card_chargeCustomerFail", "0341"),
        ("pm_card_visa_chargeDeclined", "0002"),
        ("pm_card_chargeDeclined", "0002"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "9995"),
        ("pm_card_chargeDeclinedExpiredCard", "0069"),
        ("pm_card_authenticationRequired", "3184"),
        ("pm_card_authenticationRequiredOnSetup", "3155"),
    ],
)
def test_well_known_ids(test_id: str, last4: str) -> None:
    card = cards.by_test_id(test_id)
    assert card is not None
    assert card.last4 == last4
    assert cards.by_token(test_id.replace("pm_card_", "tok_")) == card


def test_other_ids_are_not_test_ids() -> None:
    assert cards.by_test_id("pm_1N2k") is None
    assert cards.by_test_id("pm_card_none") is None
    assert cards.by_token("visa") is None


def test_a_decline_that_is_not_in_the_table_is_a_plain_one() -> None:
    assert cards.decline_for("pickup_card").code == "card_declined"
    assert cards.decline_for("expired_card").code == "expired_card"


def test_only_0341_is_saved_and_then_declined() -> None:
    saved_then_declined = [
        card.last4
        for card in cards.BY_KEY.values()
        if card.decline and not card.declines_on_attach and card.authentication is cards.Authentication.NEVER
    ]
    assert ["0341"] == saved_then_declined
