"""The status of budgets: of one, and of all in a subtree with totals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget import standing
from services.budget.domain import policy
from services.budget.domain.budgets import Budget
from services.budget.domain.totals import Totals
from services.budget.standing import Standing
from services.budget.store import allocations, budgets, windows
from services.kit.errors import conflict, not_found
from services.kit.subject import Subject

TOTALS_MAX: Final = 10_000
"""The most budgets that are summed up in one answer."""
_CHUNK: Final = 1_001
"""Read at once for totals: more than any page, so that the first one is among them."""


@dataclass(frozen=True, slots=True)
class Status:
    """A budget's running window, and what is allocated out of it.

    Attributes:
        raised_left: What is left of temporary raises.
        crossed: Thresholds that use has reached.
        allocated: What budgets below have together.
    """

    standing: Standing
    raised_left: int
    crossed: list[int]
    allocated: int


class Statuses:
    """What GetBudgetStatus and ListBudgetStatuses do, on plain values.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def get(self, subject: Subject, budget_id: str) -> Status:
        """The status of the definition in force; NOT_FOUND."""
        async with self._pool.acquire() as connection:
            now_us = await budgets.now_us(connection)
            rows = await budgets.find(connection, subject.org, subject.name, budget_id)
            if not rows:
                raise not_found(f"budget {subject.name}/budgets/{budget_id}", "BUDGET_UNKNOWN")
            return (await _of(connection, [policy.in_force(rows, now_us)], now_us))[0]

    async def list_page(
        self, subject: Subject, allocated_from: str, after: tuple[str, str], size: int, *, with_totals: bool
    ) -> tuple[list[Status], tuple[str, str] | None, Totals | None]:
        """Statuses of a subtree by subject and id, what the next page comes behind, and totals if asked.

        All of one instant.

        Args:
            subject: The subtree's root.
            allocated_from: Only budgets carved from this one; empty: all.
            after: Subject and id that the page comes behind; empty ones: the first page.
            size: The most on a page.
            with_totals: Sum up all of them on the first page, for which all are read.

        Raises:
            PurseError: TOO_MANY_TO_TOTAL.
        """
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            now_us = await budgets.now_us(connection)
            if after[0] or not with_totals:
                found = await _page(connection, subject, allocated_from, after, size + 1)
                page = await _of(connection, await _in_force(connection, found[:size], now_us), now_us)
                return page, _behind(found, size), None
            count = await budgets.count_below(connection, subject.org, subject.name, allocated_from, TOTALS_MAX + 1)
            if count > TOTALS_MAX:
                raise conflict(
                    "TOO_MANY_TO_TOTAL",
                    f"{subject.name} and those below it have more than {TOTALS_MAX} budgets, which is the limit of "
                    "totals; name a subject below it, or leave with_totals out",
                    field="with_totals",
                )
            page, behind, totals = [], None, Totals()
            while True:
                found = await _page(connection, subject, allocated_from, after, _CHUNK)
                statuses = await _of(connection, await _in_force(connection, found, now_us), now_us)
                for one in statuses:
                    totals.add(one.standing.budget, one.standing.spent, one.standing.reserved, one.allocated)
                if not after[0]:
                    page, behind = statuses[:size], _behind(found, size)
                if len(found) < _CHUNK:
                    return page, behind, totals
                after = (found[-1].subject, found[-1].id)


async def _page(
    connection: asyncpg.Connection, subject: Subject, allocated_from: str, after: tuple[str, str], size: int
) -> list[Budget]:
    return await budgets.list_page(
        connection, subject.org, subject.name, after, size, descendants=True, allocated_from=allocated_from
    )


def _behind(found: Sequence[Budget], size: int) -> tuple[str, str] | None:
    return (found[size - 1].subject, found[size - 1].id) if len(found) > size else None


async def _in_force(connection: asyncpg.Connection, found: Sequence[Budget], now_us: int) -> list[Budget]:
    """The definitions that decide now, for those that begin when a window has ended."""
    to_come = [(budget.subject, budget.id) for budget in found if budget.from_us > now_us]
    if not to_come:
        return list(found)
    rows = await budgets.find_all(connection, found[0].org, to_come)
    return [
        policy.in_force(rows.get((budget.subject, budget.id), [budget]), now_us) if budget.from_us > now_us else budget
        for budget in found
    ]


async def _of(connection: asyncpg.Connection, found: Sequence[Budget], now_us: int) -> list[Status]:
    if not found:
        return []
    running = await standing.of(connection, found, now_us)
    crossed = await windows.crossed(connection, [(one.budget.org, one.budget.no, one.key) for one in running])
    sums = await allocations.allocated(connection, found[0].org, [budget.name for budget in found])
    return [
        Status(one, one.raised_left(now_us), crossed.get(one.budget.no, []), sums.get(one.budget.name, (0, 0))[0])
        for one in running
    ]
