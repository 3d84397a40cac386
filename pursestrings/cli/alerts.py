"""`purse alerts`: what budgets have told of, and who has seen it."""

from typing import Annotated

import typer

from pursestrings._money import Money
from pursestrings.budget.v1 import budget_pb2
from pursestrings.cli.budget import enum_value
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.options import Json, Limit, begin, instant
from pursestrings.cli.output import to_plain, when

app = typer.Typer(help="Alerts of budgets.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose alerts; those below it too.")],
    state: Annotated[str | None, typer.Option("--state", help="open or acknowledged.")] = None,
    severity: Annotated[
        str | None, typer.Option("--severity", help="warning, critical or exceeded: that and higher.")
    ] = None,
    budget: Annotated[str, typer.Option("--budget", help="Only of this budget.")] = "",
    since: Annotated[str | None, typer.Option("--since", help="Raised from then on, for example 2026-11-22.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Raised before.")] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List alerts, the newest first."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.ListAlertsRequest(parent=subject, budget=budget)
    if state is not None:
        request.state = enum_value(budget_pb2.AlertState, "ALERT_STATE_", state, "--state")
    if severity is not None:
        request.severity_min = enum_value(budget_pb2.Severity, "SEVERITY_", severity, "--severity")
    if since is not None:
        request.start_time.CopyFrom(instant(since))
    if until is not None:
        request.end_time.CopyFrom(instant(until))

    async def work(suite: Suite) -> list[budget_pb2.Alert]:
        return await pages(lambda page: suite.budget("ListAlerts", page), request, lambda page: page.alerts, limit)

    found = with_suite(where, work)
    if output.as_json:
        output.object({"alerts": [to_plain(one) for one in found]})
        return
    output.table(
        ("raised", "severity", "alert", "reached", "spent", "of", "seen by", "what to do"),
        [_row(one) for one in found],
        right=("reached", "spent", "of"),
    )


@app.command()
def ack(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="The alert, as `list` names it.")],
    note: Annotated[str, typer.Option("--note", help="What you found.")] = "",
    as_json: Json = False,
) -> None:
    """Note that you have seen an alert."""
    where, output = begin(context, as_json=as_json)
    request = budget_pb2.AcknowledgeAlertRequest(name=name, note=note)
    alert = with_suite(where, lambda suite: suite.budget("AcknowledgeAlert", request)).alert
    output.object(alert) if output.as_json else output.say(f"seen by {alert.acknowledged_by}: {alert.name}")


def _row(alert: budget_pb2.Alert) -> tuple[str, ...]:
    what = "denied" if alert.cause == budget_pb2.ALERT_CAUSE_DENIAL else f"{alert.threshold_percent} %"
    return (
        when(alert.raise_time),
        budget_pb2.Severity.Name(alert.severity).removeprefix("SEVERITY_").lower(),
        alert.name,
        what,
        _amount(alert, alert.spent_amount),
        _amount(alert, alert.limit_amount),
        alert.acknowledged_by,
        alert.recommended_action,
    )


def _amount(alert: budget_pb2.Alert, amount: int) -> str:
    return str(Money(amount, alert.currency_code)) if alert.currency_code else f"{amount:,}"
