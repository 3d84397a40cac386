"""Money: limits, currencies, what a card can pay, and exact text."""

import pytest

from services.kit.money import (
    CURRENCIES,
    MAX_NANOS,
    NANOS,
    MoneyError,
    Rounding,
    add,
    check_charge,
    check_nanos,
    currency,
    divide_half_even,
    format_nanos,
    from_minor_units,
    parse_decimal,
    round_charge_down,
    round_charge_up,
    to_minor_units,
)


def test_the_limit_is_refused_and_named() -> None:
    assert check_nanos(MAX_NANOS) == MAX_NANOS
    assert check_nanos(-MAX_NANOS) == -MAX_NANOS
    for past in (MAX_NANOS + 1, -MAX_NANOS - 1):
        with pytest.raises(MoneyError, match=r"limit .*9\.2 billion"):
            check_nanos(past)
    with pytest.raises(MoneyError, match="limit"):
        add(MAX_NANOS, 1)
    assert add(MAX_NANOS, 1, -1) == MAX_NANOS
    assert add() == 0


@pytest.mark.parametrize("code", ["usd", "", "XXX", "US", "DOLLARS"])
def test_an_unknown_currency_is_refused(code: str) -> None:
    with pytest.raises(MoneyError, match="no currency"):
        currency(code)


def test_every_currency_divides_evenly_into_nanos() -> None:
    assert len(CURRENCIES) > 150
    for found in CURRENCIES.values():
        assert found.minor_nanos * 10**found.minor_exponent == NANOS
        assert found.minimum_charge_minor % found.increment_minor == 0


@pytest.mark.parametrize(
    ("code", "text", "minor"),
    [
        ("USD", "12.50", 1_250),
        ("JPY", "500", 500),
        ("KRW", "1000", 1_000),
        ("KWD", "5.120", 5_120),
        ("ISK", "5", 500),
        ("UGX", "500", 50_000),
        ("HUF", "175.50", 17_550),
        ("MGA", "3", 3),
    ],
)
def test_minor_units_are_what_stripe_calls_the_amount(code: str, text: str, minor: int) -> None:
    assert to_minor_units(parse_decimal(text), code) == minor
    assert from_minor_units(minor, code) == parse_decimal(text)


@pytest.mark.parametrize(
    ("code", "text", "down", "half", "up"),
    [
        ("USD", "0.005", 0, 0, 1),
        ("USD", "0.015", 1, 2, 2),
        ("USD", "0.015000001", 1, 2, 2),
        ("KWD", "5.124", 5_120, 5_120, 5_130),
        ("KWD", "5.125", 5_120, 5_120, 5_130),
        ("KWD", "5.126", 5_120, 5_130, 5_130),
        ("ISK", "5.5", 500, 600, 600),
        ("UGX", "4.5", 400, 400, 500),
        ("JPY", "0.000000001", 0, 0, 1),
    ],
)
def test_rounding_goes_to_what_the_currency_can_pay(code: str, text: str, down: int, half: int, up: int) -> None:
    nanos = parse_decimal(text)
    assert to_minor_units(nanos, code, Rounding.DOWN) == down
    assert to_minor_units(nanos, code, Rounding.HALF_EVEN) == half
    assert to_minor_units(nanos, code, Rounding.UP) == up
    assert round_charge_down(nanos, code) == from_minor_units(down, code)
    assert round_charge_up(nanos, code) == from_minor_units(up, code)
    with pytest.raises(MoneyError, match="multiple"):
        to_minor_units(nanos, code)


def test_a_negative_amount_is_no_charge() -> None:
    with pytest.raises(MoneyError, match="negative"):
        to_minor_units(-1, "USD")


def test_a_charge_under_the_minimum_is_refused_with_the_minimum() -> None:
    assert check_charge(parse_decimal("0.50"), "USD") == 50
    with pytest.raises(MoneyError, match=r"at least 0\.50 USD"):
        check_charge(parse_decimal("0.49"), "USD")
    with pytest.raises(MoneyError, match="multiple"):
        check_charge(parse_decimal("0.505"), "USD")
    assert check_charge(parse_decimal("1"), "ISK") == 100


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0", 0),
        ("12.50", 12_500_000_000),
        ("-0.000000001", -1),
        ("+1", NANOS),
        ("007.5", 7_500_000_000),
        ("9223372036.854775807", MAX_NANOS),
    ],
)
def test_decimals_are_parsed_exactly(text: str, nanos: int) -> None:
    assert parse_decimal(text) == nanos


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1.", ".5", "1e3", "1,000", "NaN", "--1", "1.0000000001", "9223372036.854775808", "١", "1\n"],
)
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(MoneyError):
        parse_decimal(text)


@pytest.mark.parametrize(
    ("nanos", "code", "text"),
    [
        (12_500_000_000, "USD", "12.50 USD"),
        (18_750, "USD", "0.00001875 USD"),
        (-1, "USD", "-0.000000001 USD"),
        (500 * NANOS, "JPY", "500 JPY"),
        (5_120_000_000, "KWD", "5.120 KWD"),
        (0, "USD", "0.00 USD"),
    ],
)
def test_amounts_are_written_exactly(nanos: int, code: str, text: str) -> None:
    assert format_nanos(nanos, code) == text


@pytest.mark.parametrize(
    ("numerator", "expected"), [(5, 0), (15, 2), (25, 2), (26, 3), (-5, 0), (-15, -2), (-25, -2), (24, 2)]
)
def test_halves_round_to_the_even_neighbour(numerator: int, expected: int) -> None:
    assert divide_half_even(numerator, 10) == expected
