"""What the methods about months do, on plain values."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from services.budget import standing
from services.budget.domain.budgets import Budget
from services.budget.months import store
from services.budget.months.domain import Ended, Month, Report, WalletMonth, ended_window, payload, summary
from services.budget.store import budgets
from services.kit.database import transact
from services.kit.errors import conflict
from services.kit.windows import Window, from_unix_us

_CHUNK: Final = 1_000


class Months:
    """Reports of months, and who was told of them.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def zones(self, after: str, size: int) -> tuple[list[str], list[tuple[str, str, int]], str]:
        """Organisations behind `after`; org, zone and since when, of these; and what the next page comes behind."""
        async with self._pool.acquire() as connection:
            found = await store.orgs(connection, after, size + 1)
            page = found[:size]
            return page, await store.zones(connection, page), page[-1] if len(found) > size else ""

    async def open(self, keys: Sequence[store.Key]) -> list[store.Key]:
        """Those that nobody was told of yet, in order."""
        async with self._pool.acquire() as connection:
            closed = await store.closed(connection, keys)
        return [key for key in keys if key not in closed]

    async def report(self, month: Month) -> Report:
        """A month's report, all of one instant.

        Raises:
            PurseError: MONTH_RUNS.
        """
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            _check_over(month, await budgets.now_us(connection))
            report = Report(month, await store.closed_at(connection, month))
            after = 0
            while True:
                found = await store.budgets_after(connection, month, after, _CHUNK)
                report.add(await _ended(connection, month, found))
                if len(found) < _CHUNK:
                    return report
                after = found[-1].no

    async def close(self, month: Month, wallets: Sequence[WalletMonth], count: int) -> tuple[Report, bool, str]:
        """Tells people of a month, once: its report, whether this call closed it, and in which words.

        Args:
            month: Which.
            wallets: What it did to wallets, the first of `count`.
            count: How many wallets people are told of.

        Raises:
            PurseError: MONTH_RUNS.
        """
        report = await self.report(month)
        if report.closed_us is not None:
            return report, False, ""
        words = summary(report, wallets, count) if count or report.windows else ""

        async def run(connection: asyncpg.Connection) -> int | None:
            now_us = await budgets.now_us(connection)
            event = payload(report, wallets, count, now_us) if words else None
            return now_us if await store.close(connection, month, event, now_us) else None

        closed_us = await transact(self._pool, run)
        if closed_us is None:
            return await self.report(month), False, ""
        report.closed_us = closed_us
        return report, True, words


def _check_over(month: Month, now_us: int) -> None:
    if now_us < month.end_us:
        raise conflict(
            "MONTH_RUNS",
            f"{month.label} in {month.zone} ends {from_unix_us(month.end_us):%Y-%m-%d %H:%M} UTC; ask after that",
        )


async def _ended(connection: asyncpg.Connection, month: Month, found: Sequence[Budget]) -> list[Ended]:
    """The windows of these budgets that ended in the month."""
    by_end: dict[int, list[tuple[Budget, Window]]] = {}
    for budget in found:
        if (window := ended_window(budget, month)) is not None:
            by_end.setdefault(window.end_us, []).append((budget, window))
    ended = []
    for end_us, pairs in by_end.items():
        of = [budget for budget, _ in pairs]
        resumed = await store.resumed(connection, month, [budget.no for budget in of])
        last = await standing.of(connection, of, end_us - 1)
        # A definition that ended with the window left nothing to a next one.
        going_on = [budget for budget in of if budget.until_us > end_us]
        carried = {one.written.no: one.carried for one in await standing.of(connection, going_on, end_us)}
        ended += [
            Ended(
                one.written,
                one.key,
                end_us,
                one.budget.limit,
                one.spent,
                carried.get(one.written.no, 0),
                (one.written.no, one.key) in resumed,
            )
            for one in last
        ]
    return ended
