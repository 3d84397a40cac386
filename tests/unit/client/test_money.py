"""Money as people write and read it."""

from decimal import Decimal

import pytest

from pursestrings import Money
from pursestrings._money import format_nanos


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.25", Money(250_000_000, "USD")),
        ("0.25 eur", Money(250_000_000, "EUR")),
        (Decimal("1e-9"), Money(1, "USD")),
        ("-3", Money(-3_000_000_000, "USD")),
        ("1_000", Money(1_000_000_000_000, "USD")),
        ("9223372036.854775807", Money(2**63 - 1, "USD")),
        (Money(5, "JPY"), Money(5, "JPY")),
    ],
)
def test_amounts_are_read_exactly(text: str | Decimal | Money, expected: Money) -> None:
    assert expected == Money.of(text)


@pytest.mark.parametrize("wrong", ["", "ten", "1 2", "1 DOLLARS", "0.0000000001", "9223372036.854775808", "nan", "inf"])
def test_what_is_no_amount_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"amount|nano|largest"):
        Money.of(wrong)


@pytest.mark.parametrize("ambiguous", [1, 0.1, True, None])
def test_numbers_that_could_mean_two_things_are_refused(ambiguous: object) -> None:
    with pytest.raises(TypeError, match="Money"):
        Money.of(ambiguous)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nanos", "expected"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (1_500_000_000, "1.50"),
        (1_234_567_000_000_000, "1,234,567.00"),
    ],
)
def test_amounts_are_shown_exactly(nanos: int, expected: str) -> None:
    assert expected == format_nanos(nanos)


def test_money_goes_through_its_message() -> None:
    assert Money(7, "EUR") == Money.from_proto(Money(7, "EUR").to_proto())
