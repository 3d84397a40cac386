"""What many budgets have together, none of it counted twice."""

from dataclasses import dataclass, field
from typing import Final

from services.budget.domain.budgets import Budget, Dimension, Selector
from services.kit.subject import parse
from services.kit.windows import WindowSpec

KINDS_MAX: Final = 100
"""The most kinds in one answer."""

Kind = tuple[Dimension, str, WindowSpec, Selector | None]
"""Dimension, currency, window and selector: budgets that differ in one of them have no common sum."""


@dataclass(slots=True)
class Sum:
    """The budgets of one kind. Amounts are of the topmost alone: one below counts what the one above counts too.

    Attributes:
        budgets: How many there are.
        exhausted: How many have nothing left.
        counted: How many are in the amounts.
    """

    budgets: int = 0
    exhausted: int = 0
    counted: int = 0
    limit: int = 0
    spent: int = 0
    reserved: int = 0
    allocated: int = 0
    tops: set[str] = field(default_factory=set)


class Totals:
    """Sums by kind of budgets that come in the order of their subjects, ancestors before those below them."""

    def __init__(self) -> None:
        self.by_kind: dict[Kind, Sum] = {}

    def add(self, budget: Budget, spent: int, reserved: int, allocated: int) -> None:
        """Adds one budget.

        Args:
            budget: With the limit in force.
            spent: Of its running window.
            reserved: Of its running window.
            allocated: What is carved out of it.
        """
        kind = (budget.dimension, budget.currency, budget.window, budget.selector)
        total = self.by_kind.setdefault(kind, Sum())
        total.budgets += 1
        total.exhausted += spent + reserved >= budget.limit
        if not total.tops.isdisjoint(parse(budget.subject).ancestors):
            return
        total.tops.add(budget.subject)
        total.counted += 1
        total.limit += budget.limit
        total.spent += spent
        total.reserved += reserved
        total.allocated += allocated

    def largest(self) -> list[tuple[Kind, Sum]]:
        """The kinds with the most budgets, at most `KINDS_MAX`."""
        return sorted(self.by_kind.items(), key=lambda item: -item[1].budgets)[:KINDS_MAX]
