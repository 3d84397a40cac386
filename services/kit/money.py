"""Money as integer nanos of a currency unit: exact arithmetic, currencies, and what a card can pay.

One unit is 1,000,000,000 nanos, and amounts fit a signed 64-bit integer: about ±9.2 billion units. Nothing
here is a float. **Minor units** are what Stripe's API calls the amount: cents for USD, yen for JPY, and for
ISK and UGX hundredths that must end in 00, though both have no cents.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NANOS: Final = 1_000_000_000
"""Nanos in one unit of any currency."""
MAX_NANOS: Final = 2**63 - 1
"""The largest amount; the smallest is its negative."""

_DECIMAL: Final = re.compile(r"([+-]?)([0-9]{1,10})(?:\.([0-9]{1,9}))?")


class MoneyError(ValueError):
    """An amount or a currency is invalid. The message says what was wrong and what to do."""


class Rounding(StrEnum):
    """What to do with the part of an amount that is smaller than what the currency can pay."""

    EXACT = "EXACT"
    """Refuse it."""
    UP = "UP"
    """Away from nothing: towards the larger amount, as a charge that must cover a need."""
    DOWN = "DOWN"
    """Towards the smaller amount, as a refund or a cap that must not be exceeded."""
    HALF_EVEN = "HALF_EVEN"
    """To the nearest; halves to the even neighbour."""


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency and what Stripe can charge in it.

    Attributes:
        code: ISO 4217, upper case.
        exponent: Decimals that people write, as ISO 4217 has it.
        minor_exponent: Decimals of Stripe's minor unit; differs from ``exponent`` for ISK and UGX.
        increment_minor: A charge is a multiple of this many minor units.
        minimum_charge_minor: The least that Stripe documents for one charge, in minor units. Where it
            documents none, one increment: Stripe then judges by the settlement currency and may still refuse.
    """

    code: str
    exponent: int
    minor_exponent: int
    increment_minor: int
    minimum_charge_minor: int

    @property
    def minor_nanos(self) -> int:
        """Nanos in one minor unit."""
        return NANOS // int(10**self.minor_exponent)

    @property
    def increment_nanos(self) -> int:
        """Nanos in the smallest step between two charges."""
        return self.increment_minor * self.minor_nanos


_EXPONENT_0: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_EXPONENT_3: Final = "BHD IQD JOD KWD LYD OMR TND"
_EXPONENT_2: Final = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
    "CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF "
    "IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR "
    "MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD "
    "SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD XCG YER "
    "ZAR ZMW"
)
_MINIMUMS_MINOR: Final = {
    "AED": 200, "AUD": 50, "BGN": 100, "BRL": 50, "CAD": 50, "CHF": 50, "CZK": 1_500, "DKK": 250, "EUR": 50,
    "GBP": 30, "HKD": 400, "HUF": 17_500, "INR": 50, "JPY": 50, "MXN": 1_000, "MYR": 200, "NOK": 300,
    "NZD": 50, "PLN": 200, "RON": 200, "SEK": 300, "SGD": 50, "THB": 1_000, "USD": 50,
}  # fmt: skip


def _build() -> dict[str, Currency]:
    table = {}
    for exponent, codes in ((0, _EXPONENT_0), (2, _EXPONENT_2), (3, _EXPONENT_3)):
        for code in codes.split():
            minor_exponent, increment = exponent, 1
            if code in {"ISK", "UGX"}:
                # Both lost their cents; Stripe still takes two decimals, which must be zeros.
                minor_exponent, increment = 2, 100
            elif code == "MGA":
                # An ariary is five iraimbilanja, which nobody writes: Stripe takes whole ariary.
                minor_exponent = 0
            elif exponent == 3:
                # Card networks refuse a third decimal other than 0.
                increment = 10
            minimum = _MINIMUMS_MINOR.get(code, increment)
            table[code] = Currency(code, exponent, minor_exponent, increment, minimum)
    return table


CURRENCIES: Final = _build()
"""Every currency known here, by its ISO 4217 code."""


def currency(code: str) -> Currency:
    """Look a currency up by its upper-case ISO 4217 code.

    Raises:
        MoneyError: The code is not in the table.
    """
    found = CURRENCIES.get(code)
    if found is None:
        raise MoneyError(f"{code[:16]!r} is no currency known here; use an ISO 4217 code such as 'USD'")
    return found


def check_nanos(amount_nanos: int) -> int:
    """Return the amount if it fits a signed 64-bit integer.

    Raises:
        MoneyError: The amount is past the limit of about 9.2 billion units.
    """
    if -MAX_NANOS <= amount_nanos <= MAX_NANOS:
        return amount_nanos
    raise MoneyError(
        f"the amount of {amount_nanos} nanos is past the limit of ±{MAX_NANOS} (about 9.2 billion units); "
        "split it into smaller amounts"
    )


def add(*amounts_nanos: int) -> int:
    """Sum amounts and refuse a sum past the limit.

    Raises:
        MoneyError: The sum is past the limit of ``check_nanos``.
    """
    return check_nanos(sum(amounts_nanos))


def divide_half_even(numerator: int, denominator: int) -> int:
    """Divide exactly and round once, halves to the even neighbour. ``denominator`` must be positive."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    if twice > denominator or (twice == denominator and quotient & 1):
        return quotient + 1
    return quotient


def round_charge_up(amount_nanos: int, code: str) -> int:
    """Round a charge up to the next amount that the currency can pay; the minimum is not applied.

    Raises:
        MoneyError: Unknown currency, or the result is past the limit.
    """
    step = currency(code).increment_nanos
    return check_nanos(-(-amount_nanos // step) * step)


def round_charge_down(amount_nanos: int, code: str) -> int:
    """Round a charge down to the next amount that the currency can pay.

    Raises:
        MoneyError: Unknown currency, or the result is past the limit.
    """
    step = currency(code).increment_nanos
    return check_nanos(amount_nanos // step * step)


def to_minor_units(amount_nanos: int, code: str, rounding: Rounding = Rounding.EXACT) -> int:
    """Turn an amount of zero or more into Stripe's minor units, rounded to the currency's increment.

    Raises:
        MoneyError: Unknown currency, a negative amount, one past the limit, or one that is no multiple of the
            increment while ``rounding`` is EXACT.
    """
    found = currency(code)
    if amount_nanos < 0:
        raise MoneyError(f"{format_nanos(amount_nanos, code)} is negative; a charge or refund is a positive amount")
    check_nanos(amount_nanos)
    step = found.increment_nanos
    if rounding is Rounding.EXACT and amount_nanos % step:
        raise MoneyError(
            f"{format_nanos(amount_nanos, code)} is no multiple of {format_nanos(step, code)}, "
            "the smallest step of a charge in that currency; round it first"
        )
    if rounding is Rounding.UP:
        steps = -(-amount_nanos // step)
    elif rounding is Rounding.HALF_EVEN:
        steps = divide_half_even(amount_nanos, step)
    else:
        steps = amount_nanos // step
    return steps * found.increment_minor


def from_minor_units(amount_minor: int, code: str) -> int:
    """Turn Stripe's minor units into nanos, exactly.

    Raises:
        MoneyError: Unknown currency, or the amount is past the limit.
    """
    return check_nanos(amount_minor * currency(code).minor_nanos)


def check_charge(amount_nanos: int, code: str) -> int:
    """Return the charge in minor units if Stripe can take it as it is.

    Raises:
        MoneyError: Unknown currency, no multiple of the increment, or under the documented minimum charge.
    """
    found = currency(code)
    amount_minor = to_minor_units(amount_nanos, code)
    if amount_minor < found.minimum_charge_minor:
        least = format_nanos(from_minor_units(found.minimum_charge_minor, code), code)
        raise MoneyError(f"{format_nanos(amount_nanos, code)} is under the minimum charge; charge at least {least}")
    return amount_minor


def parse_decimal(text: str) -> int:
    """Parse an amount such as ``12.50`` or ``-0.000000001`` into nanos, exactly.

    Raises:
        MoneyError: Not a plain decimal, more than 9 decimals, or past the limit.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise MoneyError(
            f"{text[:40]!r} is no amount; write digits with at most 9 decimals after a point, such as '12.50'"
        )
    sign, whole, fraction = match.groups()
    nanos = int(whole) * NANOS + int((fraction or "").ljust(9, "0"))
    return check_nanos(-nanos if sign == "-" else nanos)


def format_nanos(amount_nanos: int, code: str) -> str:
    """Write an amount exactly, ``12.50 USD``: the currency's decimals, and more only where they are not zero.

    Raises:
        MoneyError: Unknown currency.
    """
    exponent = currency(code).exponent
    whole, fraction = divmod(abs(amount_nanos), NANOS)
    digits = f"{fraction:09d}".rstrip("0").ljust(exponent, "0")
    sign = "-" if amount_nanos < 0 else ""
    return f"{sign}{whole}.{digits} {code}" if digits else f"{sign}{whole} {code}"
