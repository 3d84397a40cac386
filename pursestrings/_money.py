"""Money as callers write and read it; inside it is always an integer of nano-units."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from pursestrings.type.v1 import type_pb2

NANOS: Final = 1_000_000_000
"""Nano-units in one unit of any currency."""
_INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount.

    Attributes:
        amount_nanos: Nano-units: 1 USD is 1_000_000_000.
        currency_code: ISO 4217, upper case.
    """

    amount_nanos: int
    currency_code: str = "USD"

    @classmethod
    def of(cls, amount: "Decimal | str | Money", currency_code: str = "USD") -> "Money":
        """Reads `"0.25"`, `"0.25 EUR"` or a Decimal, all in whole units; without a code it is `currency_code`.

        Raises:
            TypeError: An int or a float: the one could mean nanos or units, the other is not exact.
            ValueError: It is no number, finer than a nano, or beyond int64.
        """
        if isinstance(amount, Money):
            return amount
        if not isinstance(amount, (Decimal, str)):
            raise TypeError(
                f"an amount of money is a string such as '0.25', a Decimal or Money, not {amount!r}: "
                "write Money(amount_nanos, 'USD') for nanos"
            )
        text, code = (str(amount), currency_code) if isinstance(amount, Decimal) else _split(amount, currency_code)
        try:
            nanos = Decimal(text) * NANOS
            whole = int(nanos)
        except (InvalidOperation, ValueError, OverflowError):
            raise ValueError(f"{amount!r} is no amount; write for example '0.25' or '0.25 EUR'") from None
        if whole != nanos:
            raise ValueError(f"{amount!r} is finer than a nano-unit (9 decimals)")
        if abs(whole) > _INT64_MAX:
            raise ValueError(f"{amount!r} is beyond the largest amount, about 9.2 billion units")
        return cls(whole, code)

    @classmethod
    def from_proto(cls, message: type_pb2.Money) -> "Money":
        """The amount of a message."""
        return cls(message.amount_nanos, message.currency_code)

    def to_proto(self) -> type_pb2.Money:
        """The amount as a message."""
        return type_pb2.Money(currency_code=self.currency_code, amount_nanos=self.amount_nanos)

    def __str__(self) -> str:
        return f"{format_nanos(self.amount_nanos)} {self.currency_code}"


def format_nanos(amount_nanos: int) -> str:
    """An amount in units, exact: at least two decimals, no zeros after them; 1_234_500_000_000 → `1,234.50`."""
    units, nanos = divmod(abs(amount_nanos), NANOS)
    decimals = f"{nanos:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount_nanos < 0 else ''}{units:,}.{decimals}"


def _split(text: str, currency_code: str) -> tuple[str, str]:
    parts = text.replace("_", "").split()
    if len(parts) == 2 and len(parts[1]) == 3 and parts[1].isalpha():
        return parts[0], parts[1].upper()
    if len(parts) == 1:
        return parts[0], currency_code
    raise ValueError(f"{text!r} is no amount; write for example '0.25' or '0.25 EUR'")
