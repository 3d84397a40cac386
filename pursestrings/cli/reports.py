"""`purse budget month` and `purse wallet concerns`: what a month's end did, and what a person should know of."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from pursestrings._money import format_nanos
from pursestrings.budget.v1 import months_pb2
from pursestrings.cli.connection import Suite, with_suite
from pursestrings.cli.failures import CHECK_FAILED
from pursestrings.cli.options import Json, begin
from pursestrings.cli.output import money, to_plain, when
from pursestrings.wallet.v1 import reports_pb2

_PAGE = 1_000
_PREFIX = "CONCERN_KIND_"


def month(
    context: typer.Context,
    *,
    org: Annotated[str, typer.Argument(help="The organisation, orgs/ID.")],
    label: Annotated[str, typer.Argument(metavar="MONTH", help="YYYY-MM. Default: the month before this one.")] = "",
    zone: Annotated[str, typer.Option("--zone", help="The IANA zone whose budgets are meant.")] = "UTC",
    as_json: Json = False,
) -> None:
    """Show what the end of a month did to budgets: used up, carried over, who may spend again."""
    where, output = begin(context, as_json=as_json)
    last = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    request = months_pb2.GetMonthReportRequest(org=org, time_zone=zone, month=label or f"{last:%Y-%m}")
    report = with_suite(where, lambda suite: suite.budget("GetMonthReport", request)).report
    if output.as_json:
        output.object(report)
        return
    output.table(
        ("budget", "window", "ended", "used", "of", "carried", "goes on"),
        [
            (
                one.budget,
                one.window,
                when(one.window_end_time),
                *(_amount(one, value) for value in (one.spent_amount, one.limit_amount, one.carried_amount)),
                "yes" if one.resumed else "",
            )
            for one in report.budgets
        ],
        right=("used", "of", "carried"),
    )
    told = f"told {when(report.close_time)}" if report.HasField("close_time") else "not told yet"
    output.say(
        f"{report.month.month} {report.month.time_zone}: {report.windows} windows ended, {report.exhausted_windows} "
        f"used up, {report.carrying_windows} left something, {report.resuming_windows} let a subject go on; {told}"
    )


def concerns(
    context: typer.Context,
    *,
    org: Annotated[str, typer.Argument(help="The organisation, orgs/ID. Default: all.")] = "",
    as_json: Json = False,
) -> None:
    """List what a person should know of: money that expires, leases that stand still, recharges without an end."""
    where, output = begin(context, as_json=as_json)

    async def work(suite: Suite) -> reports_pb2.ListConcernsResponse:
        found = reports_pb2.ListConcernsResponse()
        for kind in [one for one in reports_pb2.ConcernKind.values() if one]:
            request = reports_pb2.ListConcernsRequest(org=org, kind=kind, page_size=_PAGE)
            while True:
                page = await suite.wallet("ListConcerns", request)
                found.concerns.extend(page.concerns)
                request.page_token = page.next_page_token
                if not request.page_token:
                    break
        return found

    found = with_suite(where, work)
    if output.as_json:
        output.object(to_plain(found))
    else:
        output.table(
            ("concern", "wallet", "about", "amount", "when", "why"),
            [
                (
                    reports_pb2.ConcernKind.Name(one.kind).removeprefix(_PREFIX),
                    one.wallet,
                    one.reference,
                    money(one.amount),
                    when(one.concern_time),
                    one.detail,
                )
                for one in found.concerns
            ],
            right=("amount",),
        )
        output.say(f"{len(found.concerns)} concerns" if found.concerns else "nothing to look at")
    if found.concerns:
        raise typer.Exit(CHECK_FAILED)


def _amount(one: months_pb2.BudgetMonth, value: int) -> str:
    if one.currency_code:
        return f"{format_nanos(value)} {one.currency_code}"
    return f"{value:,} {one.limit_type.replace('_', ' ').lower()}"
