"""Where budgets' running windows stand: the limit in force, and what is used of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from services.budget import carry
from services.budget.domain import limits
from services.budget.domain.budgets import AMOUNT_MAX, Budget, Raise, countable, key_number
from services.budget.domain.model import Use
from services.budget.store import budgets as budget_rows
from services.budget.store import windows
from services.kit.windows import window_at


@dataclass(frozen=True, slots=True)
class Standing:
    """A budget's running window.

    Attributes:
        written: The definition.
        budget: The definition with the limit in force.
        key: The window's.
        start_us: When the window began.
        end_us: When it ends.
        carried: What the window before left to it.
        raised: What temporary raises add now.
    """

    written: Budget
    budget: Budget
    key: int
    start_us: int
    end_us: int
    spent: int
    reserved: int
    carried: int
    raised: int

    def lasting(self, now_us: int) -> list[Raise]:
        """The temporary raises that count now."""
        return [one for one in self.written.raises if one.from_us <= now_us < one.until_us]

    @property
    def room_before(self) -> int:
        """What would be left without temporary raises; below 0 is what they are used for."""
        return self.written.limit + self.carried - self.spent - self.reserved

    def raised_left(self, now_us: int) -> int:
        """What is left of the temporary raises that count now."""
        return sum(limits.remaining(self.lasting(now_us), self.room_before))

    @property
    def use(self) -> Use:
        """The window as an answer shows it."""
        left = countable(self.budget.limit - self.spent - self.reserved)
        return Use(self.budget, self.key, self.spent, self.reserved, 0, left, max(0, -left), self.end_us)


async def of(connection: asyncpg.Connection, budgets: Sequence[Budget], now_us: int) -> list[Standing]:
    """The running window of each budget, in order; reads only."""
    running = [window_at(budget.window, now_us) for budget in budgets]
    keys = [(budget.org, budget.no, key_number(window.key)) for budget, window in zip(budgets, running, strict=True)]
    rows = await windows.read(connection, keys)
    # A window that nothing has touched has no row yet: what it will be carried follows from the one before.
    carries = {
        budget.no: rest
        for budget, (_, no, key) in zip(budgets, keys, strict=True)
        if (no, key) not in rows and (rest := carry.before(budget, key)) is not None
    }
    before = (
        await windows.read(connection, [(b.org, b.no, carries[b.no].from_key) for b in budgets if b.no in carries])
        if carries
        else {}
    )
    found: list[Standing] = []
    for budget, window, (_, no, key) in zip(budgets, running, keys, strict=True):
        row = rows.get((no, key), windows.Row(0, 0, 0, 0))
        carried = row.carried
        if no in carries:
            last = before.get((no, carries[no].from_key))
            carried = carries[no].amount(last.spent + last.reserved if last is not None else 0)
        start_us, end_us = max(window.start_us, budget.from_us), min(window.end_us, budget.until_us)
        raised = limits.raised(budget.raises, start_us, end_us, now_us)[0] if budget.raises else 0
        limit = min(AMOUNT_MAX, budget.limit + carried + raised)
        in_force = budget.with_limit(limit, budget.generation + row.rises)
        found.append(Standing(budget, in_force, key, window.start_us, end_us, row.spent, row.reserved, carried, raised))
    return found


async def rewrite(
    connection: asyncpg.Connection, running: Budget, rows: Sequence[Budget], begun: Budget | None, now_us: int
) -> Budget:
    """Writes a changed definition; the only way to, since what a window was carried must not change by it.

    The caller holds the organisation's row against decisions.

    Args:
        connection: In the transaction of the change.
        running: The definition that decides until the change.
        rows: What its rows become.
        begun: A row that takes over later.
        now_us: The time.

    Returns:
        The newest row.
    """
    if any(one is not None and one.rollover_cap is not None for one in (running, *rows, begun)):
        await _begin(connection, running, now_us)
    for row in rows:
        await budget_rows.update(connection, row)
    if begun is None:
        return rows[-1]
    made = await budget_rows.insert(connection, begun)
    if made is None:
        raise AssertionError(f"{begun.name} is live twice")
    return made


async def _begin(connection: asyncpg.Connection, budget: Budget, now_us: int) -> None:
    """Makes the running window's row, with what it is carried by the definition of now."""
    (standing,) = await of(connection, [budget], now_us)
    found = carry.before(budget, standing.key)
    await windows.begin(connection, budget, standing.key, standing.carried, found)
