"""The gRPC face of months. Mixed into budget's servicer."""

from typing import Any, Final

import asyncpg
import grpc

from pursestrings.budget.v1 import months_pb2 as pb
from pursestrings.type.v1 import type_pb2
from services.budget import paging, wire
from services.budget.domain.budgets import Dimension, key_text
from services.budget.months.domain import Month, Report, WalletMonth, month_of
from services.budget.months.months import Months
from services.kit.errors import invalid
from services.kit.money import MoneyError, currency

MONTHS_MAX: Final = 5_000
"""The most months of one ListOpenMonths."""
WALLETS_MAX: Final = 10_000
"""The most wallets of one CloseMonth."""
_UTC: Final = "UTC"
_SCOPE: Final = "months"

Context = grpc.aio.ServicerContext[Any, Any]


class MonthMethods:
    """A part of the service.

    Args:
        pool: Budget's database.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._months = Months(pool)

    async def ListMonthZones(self, request: pb.ListMonthZonesRequest, context: Context) -> pb.ListMonthZonesResponse:
        """A page of organisations' zones."""
        (after,) = paging.after_of(request.page_token, _SCOPE, ("",))
        orgs, found, behind = await self._months.zones(after, paging.size_of(request.page_size))
        response = pb.ListMonthZonesResponse(
            next_page_token=paging.token_of(_SCOPE, [behind]) if behind else "", orgs=[f"orgs/{org}" for org in orgs]
        )
        for org, zone, since_us in found:
            one = type_pb2.MonthZone(org=f"orgs/{org}", time_zone=zone)
            wire.set_time(one.since_time, since_us)
            response.zones.append(one)
        return response

    async def ListOpenMonths(self, request: pb.ListOpenMonthsRequest, context: Context) -> pb.ListOpenMonthsResponse:
        """Those of the months that nobody was told of yet."""
        if len(request.months) > MONTHS_MAX:
            raise invalid("months", f"are {len(request.months)}; the limit is {MONTHS_MAX}")
        keys = [
            (wire.subject_of(one.org, f"months[{index}].org").org, one.time_zone, one.month)
            for index, one in enumerate(request.months)
        ]
        return pb.ListOpenMonthsResponse(
            months=[
                pb.OrgMonth(org=f"orgs/{org}", time_zone=zone, month=month)
                for org, zone, month in await self._months.open(keys)
            ]
        )

    async def GetMonthReport(self, request: pb.GetMonthReportRequest, context: Context) -> pb.GetMonthReportResponse:
        """What became of budgets with the end of a month."""
        month = _month(pb.OrgMonth(org=request.org, time_zone=request.time_zone, month=request.month), "")
        return pb.GetMonthReportResponse(report=_report_message(await self._months.report(month)))

    async def CloseMonth(self, request: pb.CloseMonthRequest, context: Context) -> pb.CloseMonthResponse:
        """Tells people of a month that is over, once."""
        month = _month(request.month, "month.")
        if len(request.wallets) > WALLETS_MAX:
            raise invalid("wallets", f"are {len(request.wallets)}; the limit is {WALLETS_MAX}")
        wallets = [_wallet(one, month, index) for index, one in enumerate(request.wallets)]
        count = request.wallets_count or len(wallets)
        if count < len(wallets):
            raise invalid(
                "wallets_count", f"is {count}, and `wallets` has {len(wallets)}; count them all, or leave it 0"
            )
        report, is_new, words = await self._months.close(month, wallets, count)
        return pb.CloseMonthResponse(
            report=_report_message(report), already_closed=not is_new, told=bool(words), summary=words
        )


def _month(given: pb.OrgMonth, within: str) -> Month:
    subject = wire.subject_of(given.org, f"{within}org")
    if subject.depth > 1:
        raise invalid(f"{within}org", f"{given.org!r} lies within an organisation; give `{subject.root}`")
    return month_of(subject.org, given.time_zone or _UTC, given.month)


def _wallet(given: pb.WalletMonth, month: Month, index: int) -> WalletMonth:
    field = f"wallets[{index}]"
    owner, _ = wire.resource_of(given.wallet, "wallets", f"{field}.wallet")
    if owner.org != month.org:
        raise invalid(f"{field}.wallet", f"is of another organisation than orgs/{month.org}")
    try:
        currency(given.currency_code)
    except MoneyError as error:
        raise invalid(f"{field}.currency_code", str(error)) from None
    return WalletMonth(
        given.wallet,
        given.currency_code,
        given.opening_nanos,
        given.received_nanos,
        given.spent_nanos,
        given.returned_nanos,
        given.expired_nanos,
        given.moved_nanos,
        given.closing_nanos,
    )


def _report_message(report: Report) -> pb.MonthReport:
    month = report.month
    message = pb.MonthReport(
        month=pb.OrgMonth(org=f"orgs/{month.org}", time_zone=month.zone, month=month.label),
        windows=report.windows,
        exhausted_windows=report.exhausted,
        carrying_windows=report.carrying,
        resuming_windows=report.resuming,
    )
    wire.set_time(message.start_time, month.start_us)
    wire.set_time(message.end_time, month.end_us)
    if report.closed_us is not None:
        wire.set_time(message.close_time, report.closed_us)
    for one in report.named:
        named = message.budgets.add(
            budget=one.budget.name,
            limit_type=Dimension(one.budget.dimension).name,
            currency_code=one.budget.currency,
            window=key_text(one.key),
            limit_amount=one.limit,
            spent_amount=one.spent,
            carried_amount=one.carried,
            resumed=one.resumed,
        )
        wire.set_time(named.window_end_time, one.end_us)
    return message
