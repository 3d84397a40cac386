"""The month-close workflow's activities: the wallet and budget services by gRPC. All may run twice."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from temporalio import activity

from pursestrings.budget.v1 import months_pb2
from pursestrings.type.v1 import type_pb2
from pursestrings.wallet.v1 import reports_pb2, statements_pb2, wallet_pb2
from services.kit.telemetry import get_logger
from services.kit.windows import UnknownZoneError
from workflows.month_close import types
from workflows.month_close.rules import due_months
from workflows.month_close.types import NAMED_MAX, Ask, Closed, OrgMonth, Page, WalletsOf
from workflows.working import working

if TYPE_CHECKING:
    from pursestrings.budget.v1.budget_pb2_grpc import BudgetServiceAsyncStub
    from pursestrings.wallet.v1.wallet_pb2_grpc import WalletServiceAsyncStub

_ORGS_A_PAGE: Final = 200
_ASKED_MAX: Final = 5_000
_MONTHS_A_PAGE: Final = 1_000
# An organisation has at most 10,000 wallets: ten pages. So the months of one page always fit into a history.
_WALLETS_A_PAGE: Final = 1_000
_STATEMENTS_AT_ONCE: Final = 4
_RPC_TIMEOUT_S: Final = 28.0

_log = get_logger(__name__)


class MonthCloseActivities:
    """Bound to the services.

    Args:
        budget: Knows which months were closed, and tells people.
        wallet: Has the statements.
    """

    def __init__(self, budget: "BudgetServiceAsyncStub", wallet: "WalletServiceAsyncStub") -> None:
        self._budget = budget
        self._wallet = wallet

    @activity.defn(name=types.LIST)
    async def list_months(self, ask: Ask) -> Page:
        """Months of a page of organisations that are over and that nobody was told of."""
        async with working():
            zones, token = await self._zones(ask)
            due = [
                months_pb2.OrgMonth(org=zone.org, time_zone=zone.time_zone, month=month)
                for zone in zones
                for month in _due(zone, ask.now_us)
            ]
            found: list[months_pb2.OrgMonth] = []
            for start in range(0, len(due), _ASKED_MAX):
                request = months_pb2.ListOpenMonthsRequest(months=due[start : start + _ASKED_MAX])
                found += (await self._budget.ListOpenMonths(request, timeout=_RPC_TIMEOUT_S)).months
        if len(found) > _MONTHS_A_PAGE:
            _log.warning("more months than one page takes are left to the next run", left=len(found) - _MONTHS_A_PAGE)
        return Page([OrgMonth(one.org, one.time_zone, one.month) for one in found[:_MONTHS_A_PAGE]], token)

    @activity.defn(name=types.CLOSE)
    async def close(self, month: WalletsOf) -> Closed:
        """Looks at a page of wallets; behind the last one tells of the month, once, with what budget knows."""
        async with working():
            wallets, page_token = await self._wallets(month)
            moved = month.moved + len(wallets)
            if page_token:
                named = [*month.named, *(one.wallet for one in wallets)][:NAMED_MAX]
                return Closed(told=False, rest=replace(month, page_token=page_token, moved=moved, named=named))
            # The figures of a month that is over stay what they were on the pages before.
            named_before = [_in_short(one) for one in await self._statements(month.named, month.month)]
            request = months_pb2.CloseMonthRequest(
                month=months_pb2.OrgMonth(org=month.org, time_zone=month.time_zone, month=month.month),
                wallets=[*named_before, *wallets][:NAMED_MAX],
                wallets_count=moved,
            )
            answer = await self._budget.CloseMonth(request, timeout=_RPC_TIMEOUT_S)
        return Closed(answer.told, answer.summary)

    async def _zones(self, ask: Ask) -> tuple[list[type_pb2.MonthZone], str]:
        if ask.source == types.WALLETS:
            wallets = await self._wallet.ListMonthZones(
                reports_pb2.ListMonthZonesRequest(page_size=_ORGS_A_PAGE, page_token=ask.page_token),
                timeout=_RPC_TIMEOUT_S,
            )
            return list(wallets.zones), wallets.next_page_token
        budgets = await self._budget.ListMonthZones(
            months_pb2.ListMonthZonesRequest(page_size=_ORGS_A_PAGE, page_token=ask.page_token), timeout=_RPC_TIMEOUT_S
        )
        return list(budgets.zones), budgets.next_page_token

    async def _wallets(self, month: WalletsOf) -> tuple[list[months_pb2.WalletMonth], str]:
        """Statements in short of those on a page that are of the zone and have money or moved some; the next page."""
        request = wallet_pb2.ListWalletsRequest(
            parent=month.org, page_size=_WALLETS_A_PAGE, page_token=month.page_token
        )
        page = await self._wallet.ListWallets(request, timeout=_RPC_TIMEOUT_S)
        names = [one.name for one in page.wallets if one.time_zone == month.time_zone]
        statements = await self._statements(names, month.month)
        return [short for one in statements if _moves(short := _in_short(one))], page.next_page_token

    async def _statements(self, names: Sequence[str], month: str) -> list[statements_pb2.Statement]:
        room = asyncio.Semaphore(_STATEMENTS_AT_ONCE)

        async def one(name: str) -> statements_pb2.Statement:
            async with room:
                asked = statements_pb2.GetStatementRequest(wallet=name, month=month)
                return (await self._wallet.GetStatement(asked, timeout=_RPC_TIMEOUT_S)).statement

        return await asyncio.gather(*map(one, names))


def _due(zone: type_pb2.MonthZone, now_us: int) -> list[str]:
    try:
        return due_months(zone.time_zone, zone.since_time.ToMicroseconds(), now_us)
    except UnknownZoneError:
        # Of newer zone data than ours: this organisation waits for the worker's next release, the others do not.
        _log.warning("a zone is unknown to this worker", org=zone.org, time_zone=zone.time_zone)
        return []


def _in_short(one: statements_pb2.Statement) -> months_pb2.WalletMonth:
    return months_pb2.WalletMonth(
        wallet=one.wallet,
        currency_code=one.currency_code,
        opening_nanos=one.opening_nanos,
        received_nanos=one.paid_nanos + one.granted_nanos + one.promotional_nanos,
        spent_nanos=one.spent_nanos,
        returned_nanos=one.refunded_nanos + one.disputed_nanos,
        expired_nanos=one.expired_nanos,
        moved_nanos=one.moved_in_nanos - one.moved_out_nanos,
        closing_nanos=one.closing_nanos,
    )


def _moves(one: months_pb2.WalletMonth) -> bool:
    figures = (one.received_nanos, one.spent_nanos, one.returned_nanos, one.expired_nanos, one.moved_nanos)
    return any((one.opening_nanos, one.closing_nanos, *figures))
