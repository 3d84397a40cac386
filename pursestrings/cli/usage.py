"""`purse usage`: what was used, and what a call would cost."""

import uuid
from typing import Annotated

import typer

from pursestrings._call import CallContext, attributes, usage_event
from pursestrings._usage import token_counts
from pursestrings.cli import corrections
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, amount, begin, instant, labels
from pursestrings.cli.output import Output, bar, money, to_plain
from pursestrings.cli.savings import rules, savings
from pursestrings.cli.usage_export import export
from pursestrings.cli.usage_views import burn, forecast, runs
from pursestrings.metering.v1 import metering_pb2

app = typer.Typer(help="What was used, what it cost, and what a call would cost.", no_args_is_help=True)
app.command()(corrections.correct)
app.command()(corrections.unrated)

app.command()(runs)
app.command()(burn)
app.command()(forecast)
app.command()(savings)
app.command()(rules)
app.command()(export)

Subject = Annotated[str, typer.Argument(help="Whose, those below it included.")]
TimeZone = Annotated[str, typer.Option("--time-zone", help="IANA zone of the days. Default: UTC.")]
Model = Annotated[str, typer.Option("--model", help="The model.")]
Provider = Annotated[str, typer.Option("--provider", help="Its provider, where the model does not tell.")]
_TOTALS = ("cost", "requests", "input", "output", "sessions", "errors", "unrated")


@app.command()
def today(context: typer.Context, subject: Subject, time_zone: TimeZone = "", as_json: Json = False) -> None:
    """Show today and this month."""
    where, output = begin(context, as_json=as_json)
    request = metering_pb2.GetUsageRequest(subject=subject, time_zone=time_zone)
    found = with_suite(where, lambda suite: suite.metering("GetUsage", request))
    if output.as_json:
        output.object(found)
        return
    rows = [("today", *_totals(found.today)), ("this month", *_totals(found.month))]
    output.table(("", *_TOTALS), rows, right=_TOTALS)


@app.command()
def query(
    context: typer.Context,
    *,
    subject: Subject,
    by: Annotated[str, typer.Option("--by", help="day, hour, model, team, agent, run, …; up to three.")] = "model",
    start: Annotated[str | None, typer.Option("--from", help="From this day or instant. Default: this month.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="To this day or instant, not included. Default: now.")] = None,
    label_key: Annotated[str, typer.Option("--label-key", help="The label whose values '--by label' shows.")] = "",
    zeros: Annotated[bool, typer.Option("--zeros", help="Also hours, days or months without usage.")] = False,
    time_zone: TimeZone = "",
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """Show the usage of a range, grouped."""
    where, output = begin(context, as_json=as_json)
    dimensions = [one.strip().upper() for one in by.split(",") if one.strip()]
    known = [name.removeprefix("USAGE_DIMENSION_") for name in metering_pb2.UsageDimension.keys()[1:]]
    if unknown := [one.lower() for one in dimensions if one not in known]:
        choices = ", ".join(known).lower()
        raise CliError(f"--by {', '.join(unknown)} is not known", f"choose from {choices}")
    request = metering_pb2.QueryUsageRequest(
        subject=subject,
        group_by=[metering_pb2.UsageDimension.Value(f"USAGE_DIMENSION_{one}") for one in dimensions],
        time_zone=time_zone,
        label_key=label_key,
        fill_zeros=zeros,
        count_sessions=True,
    )
    if start is not None:
        request.start_time.CopyFrom(instant(start))
    if end is not None:
        request.end_time.CopyFrom(instant(end))
    totals: list[metering_pb2.UsageTotals] = []

    async def ask(suite: Suite, page: metering_pb2.QueryUsageRequest) -> metering_pb2.QueryUsageResponse:
        answer: metering_pb2.QueryUsageResponse = await suite.metering("QueryUsage", page)
        totals[:] = [answer.totals]
        return answer

    async def work(suite: Suite) -> list[metering_pb2.UsageGroup]:
        return await pages(lambda page: ask(suite, page), request, lambda page: page.groups, limit)

    groups = with_suite(where, work)
    if output.as_json:
        output.object({"groups": [to_plain(group) for group in groups], "totals": to_plain(totals[0])})
        return
    _print_groups(output, dimensions, groups, totals[0])


@app.command()
def estimate(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose rates apply.")],
    model: Model,
    provider: Provider = "",
    input_tokens: Annotated[int, typer.Option("--input", min=0, help="Input tokens.")] = 0,
    output_tokens: Annotated[int, typer.Option("--output", min=0, help="The most output tokens.")] = 0,
    as_json: Json = False,
) -> None:
    """Show what a call would cost."""
    where, output = begin(context, as_json=as_json)
    request = metering_pb2.EstimateRequest(
        subject=subject,
        call=attributes(model, provider, "", None),
        tokens=token_counts(input_tokens=input_tokens, output_tokens=output_tokens),
    )
    found = with_suite(where, lambda suite: suite.metering("Estimate", request))
    if output.as_json:
        output.object(found)
        return
    output.say(f"{money(found.cost)} for {found.provider}/{found.model}, rate card {found.rate_card_version}")


@app.command()
def record(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Who spent.")],
    model: Model = "",
    provider: Provider = "",
    input_tokens: Annotated[int | None, typer.Option("--input", min=0, help="Input tokens.")] = None,
    output_tokens: Annotated[int | None, typer.Option("--output", min=0, help="Output tokens.")] = None,
    cost: Annotated[str | None, typer.Option("--cost", help="A known price: '0.25 USD'. Takes an operator.")] = None,
    source: Annotated[str, typer.Option("--source", help="Where it comes from.")] = "purse-cli",
    event_id: Annotated[str | None, typer.Option("--id", help="Its id there; the same again is done once.")] = None,
    operation: Annotated[str, typer.Option("--operation", help="The kind of work.")] = "",
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value; may be repeated.")] = None,
    reservation: Annotated[str, typer.Option("--reservation", help="The reservation that it settles.")] = "",
    as_json: Json = False,
) -> None:
    """Record one call that has happened."""
    where, output = begin(context, as_json=as_json)
    call = CallContext(subject=subject, attributes=attributes(model, provider, operation, labels(label or [])))
    try:
        event = usage_event(
            call,
            source=source,
            event_id=event_id or str(uuid.uuid4()),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost=None if cost is None else amount(cost),
            reservation=reservation,
        )
    except TypeError:
        raise CliError("there is nothing to record", "give --input and --output, or --cost") from None
    request = metering_pb2.RecordUsageRequest(event=event)
    found = with_suite(where, lambda suite: suite.metering("RecordUsage", request)).usage
    if output.as_json:
        output.object(found)
        return
    price = money(found.cost) if found.HasField("cost") else "unrated: no rate card prices this model"
    again = ", which had been recorded before" if found.duplicate else ""
    output.say(f"recorded {found.id} of {found.source}{again}: {price}")


@app.command()
def parked(
    context: typer.Context,
    *,
    org: Annotated[str, typer.Option("--org", help="Only this organisation, orgs/ID. Default: all.")] = "",
    requeue: Annotated[bool, typer.Option("--requeue", help="Send it again.")] = False,
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """Show usage that budgets refused for good; with --requeue send it again, once its cause is mended."""
    where, output = begin(context, as_json=as_json)
    if requeue:
        again = metering_pb2.RequeueParkedUsageRequest(org=org)
        done = with_suite(where, lambda suite: suite.metering("RequeueParkedUsage", again))
        if output.as_json:
            output.object(done)
            return
        output.say(f"{done.requeued} events are sent again")
        return
    request = metering_pb2.ListParkedUsageRequest(org=org)

    async def work(suite: Suite) -> list[metering_pb2.ParkedUsage]:
        return await pages(
            lambda page: suite.metering("ListParkedUsage", page), request, lambda page: page.usage, limit
        )

    found = with_suite(where, work)
    if output.as_json:
        output.object({"usage": [to_plain(one) for one in found]})
        return
    rows = [
        (one.org, one.source, one.id, str(one.tries), f"{one.park_time.ToDatetime():%Y-%m-%d %H:%M:%S}", one.last_error)
        for one in found
    ]
    output.table(("org", "source", "id", "tries", "parked (UTC)", "last error"), rows, right=("tries",))


def _totals(totals: metering_pb2.UsageTotals) -> tuple[str, ...]:
    return (
        ", ".join(money(cost) for cost in totals.costs) or "0",
        f"{totals.requests:,}",
        f"{totals.tokens.input_tokens:,}",
        f"{totals.tokens.output_tokens:,}",
        f"{totals.sessions:,}",
        f"{totals.errors:,}",
        f"{totals.unrated:,}",
    )


def _print_groups(
    output: Output,
    dimensions: list[str],
    groups: list[metering_pb2.UsageGroup],
    totals: metering_pb2.UsageTotals,
) -> None:
    names = [one.lower() for one in dimensions]
    rows = [
        (*group.keys, *_totals(group.totals), ", ".join(_share(share) for share in group.cost_share_bps))
        for group in groups
    ]
    last = (*("all" if n == 0 else "" for n in range(len(names))), *_totals(totals), "")
    output.table((*names, *_TOTALS, "share"), [*rows, last], right=(*_TOTALS, "share"))


def _share(bps: int) -> str:
    return f"{bar(bps / 10_000)} {bps / 100:5.1f} %"
