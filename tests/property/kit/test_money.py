"""Money round-trips exactly, and rounding never goes past one step."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from services.kit.money import (
    CURRENCIES,
    MAX_NANOS,
    Rounding,
    currency,
    divide_half_even,
    format_nanos,
    from_minor_units,
    parse_decimal,
    to_minor_units,
)

CODES = st.sampled_from(sorted(CURRENCIES))
AMOUNTS = st.integers(-MAX_NANOS, MAX_NANOS)


@given(AMOUNTS, CODES)
def test_what_is_written_is_read_back(nanos: int, code: str) -> None:
    amount, _, suffix = format_nanos(nanos, code).partition(" ")
    assert parse_decimal(amount) == nanos
    assert suffix == code


@given(st.integers(0, MAX_NANOS // 2), CODES)
def test_rounding_brackets_the_amount_within_one_step(nanos: int, code: str) -> None:
    step = currency(code).increment_nanos
    down = from_minor_units(to_minor_units(nanos, code, Rounding.DOWN), code)
    near = from_minor_units(to_minor_units(nanos, code, Rounding.HALF_EVEN), code)
    up = from_minor_units(to_minor_units(nanos, code, Rounding.UP), code)
    assert down <= nanos <= up
    assert up - down in {0, step}
    assert (up == down) == (nanos % step == 0)
    assert near in {down, up}
    assert 2 * abs(near - nanos) <= step
    assert to_minor_units(down, code) % currency(code).increment_minor == 0


@given(st.integers(), st.integers(1))
def test_half_even_division_agrees_with_fractions(numerator: int, denominator: int) -> None:
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))
