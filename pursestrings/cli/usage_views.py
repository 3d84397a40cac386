"""`purse usage runs|burn|forecast`: the run log, how fast is spent, and what that comes to."""

from typing import Annotated

import typer

from pursestrings.cli.connection import pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, amount, begin, instant
from pursestrings.cli.output import bar, money, to_plain, when
from pursestrings.metering.v1 import analysis_pb2
from pursestrings.type.v1 import type_pb2

Subject = Annotated[str, typer.Argument(help="Whose, those below it included.")]
_BASES = {
    analysis_pb2.FORECAST_BASIS_NOTHING: "nothing was ever spent",
    analysis_pb2.FORECAST_BASIS_SHORT: "too little history for a season, so the margin is wide",
    analysis_pb2.FORECAST_BASIS_SEASON: "the season of the day and the week",
}


def runs(
    context: typer.Context,
    *,
    subject: Subject,
    calls: Annotated[bool, typer.Option("--calls", help="One row a call instead of a run.")] = False,
    sort: Annotated[str, typer.Option("--sort", help="time, cost or tokens.")] = "time",
    run: Annotated[str, typer.Option("--run", help="Only this run.")] = "",
    unusual: Annotated[bool, typer.Option("--unusual", help="Only rows with unusual token counts.")] = False,
    start: Annotated[str | None, typer.Option("--from", help="From this day or instant. Default: a day ago.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="To this day or instant, not included. Default: now.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """Show the run log, with what is unusual."""
    where, output = begin(context, as_json=as_json)
    orders = [name.removeprefix("USAGE_ORDER_").lower() for name in analysis_pb2.UsageOrder.keys()[1:]]
    if sort not in orders:
        raise CliError(f"--sort {sort} is not known", f"choose from {', '.join(orders)}")
    request = analysis_pb2.ListUsageRequest(
        subject=subject,
        view=analysis_pb2.USAGE_VIEW_CALLS if calls else analysis_pb2.USAGE_VIEW_RUNS,
        order=analysis_pb2.UsageOrder.Value(f"USAGE_ORDER_{sort.upper()}"),
        run=run,
        unusual_only=unusual,
    )
    if start is not None:
        request.start_time.CopyFrom(instant(start))
    if end is not None:
        request.end_time.CopyFrom(instant(end))
    found = with_suite(
        where,
        lambda suite: pages(lambda page: suite.metering("ListUsage", page), request, lambda page: page.rows, limit),
    )
    if output.as_json:
        output.object({"rows": [to_plain(row) for row in found]})
        return
    rows = [
        (
            when(row.start_time),
            row.subject,
            row.id if calls else row.run,
            ", ".join(row.models),
            f"{row.calls:,}",
            f"{row.errors:,}",
            f"{row.total_tokens:,}",
            ", ".join(money(cost) for cost in row.costs) or "0",
            "!" if row.unusual else "",
        )
        for row in found
    ]
    name = "call" if calls else "run"
    columns = ("began", "subject", name, "models", "calls", "errors", "tokens", "cost", "unusual")
    output.table(columns, rows, right=("calls", "errors", "tokens", "cost"))
    for row in found:
        if row.unusual:
            output.say(f"! {row.id if calls else row.run} of {row.subject}: {row.unusual_reason}")


def burn(context: typer.Context, subject: Subject, as_json: Json = False) -> None:
    """Show how fast is spent."""
    where, output = begin(context, as_json=as_json)
    request = analysis_pb2.GetBurnRateRequest(subject=subject)
    found = with_suite(where, lambda suite: suite.metering("GetBurnRate", request))
    if output.as_json:
        output.object(found)
        return
    if not found.rates:
        output.say("nothing was spent in the last 7 days")
        return
    columns = ("last hour", "last 24 hours", "last 7 days", "an hour", "a day")
    rows = [
        [
            money(type_pb2.Money(currency_code=rate.currency_code, amount_nanos=nanos))
            for nanos in (
                rate.last_hour_nanos,
                rate.last_day_nanos,
                rate.last_week_nanos,
                rate.per_hour_nanos,
                rate.per_day_nanos,
            )
        ]
        for rate in found.rates
    ]
    output.table(columns, rows, right=columns)


def forecast(
    context: typer.Context,
    *,
    subject: Subject,
    hours: Annotated[int, typer.Option("--hours", min=1, max=720, help="Over how many hours.")] = 24,
    money_left: Annotated[str | None, typer.Option("--amount", help="Also how long this lasts: '20 USD'.")] = None,
    time_zone: Annotated[str, typer.Option("--time-zone", help="Whose hours and weekends. Default: UTC.")] = "",
    as_json: Json = False,
) -> None:
    """Show what will be spent, and how long money lasts."""
    where, output = begin(context, as_json=as_json)
    request = analysis_pb2.ForecastRequest(subject=subject, horizon_hours=hours, time_zone=time_zone)
    if money_left is not None:
        given = amount(money_left)
        request.currency_code, request.amount_nanos = given.currency_code, given.amount_nanos
    found = with_suite(where, lambda suite: suite.metering("Forecast", request))
    if output.as_json:
        output.object(found)
        return
    most = found.spend.p99_nanos or 1
    lines = (
        ("as likely more as less", found.spend.p50_nanos, found.depletion.p50_time),
        ("9 times of 10 no more", found.spend.p90_nanos, found.depletion.p90_time),
        ("99 times of 100 no more", found.spend.p99_nanos, found.depletion.p99_time),
    )
    spend = f"next {found.horizon_hours} h"
    rows = [
        (
            name,
            money(type_pb2.Money(currency_code=found.currency_code, amount_nanos=nanos)),
            bar(nanos / most),
            *([when(at) or "not in 30 days"] if money_left is not None else []),
        )
        for name, nanos, at in lines
    ]
    output.table(("", spend, "", *(["used up"] if money_left is not None else [])), rows, right=(spend,))
    output.say(f"from {found.history_hours:,} hours of history: {_BASES.get(found.basis, '')}")
