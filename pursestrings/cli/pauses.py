"""`purse pause`, `purse resume` and `purse paused`: who may not spend."""

from typing import Annotated

import typer

from pursestrings.budget.v1 import pauses_pb2
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.options import Json, Limit, begin
from pursestrings.cli.output import to_plain, when

Subject = Annotated[str, typer.Argument(help="The subject, for example orgs/acme/teams/support.")]


def pause(
    context: typer.Context,
    *,
    subject: Subject,
    reason: Annotated[str, typer.Option("--reason", help="Why; whoever is denied reads it.")],
    as_json: Json = False,
) -> None:
    """Pause a subject: its spends and those below it are denied until it is resumed."""
    where, output = begin(context, as_json=as_json)
    request = pauses_pb2.PauseRequest(subject=subject, reason=reason)
    made = with_suite(where, lambda suite: suite.budget("Pause", request)).pause
    output.object(made) if output.as_json else output.say(f"paused {made.subject}: {made.reason}")


def resume(
    context: typer.Context,
    *,
    subject: Subject,
    note: Annotated[str, typer.Option("--note", help="For the history.")] = "",
    as_json: Json = False,
) -> None:
    """End all pauses of a subject, those that its budgets made too."""
    where, output = begin(context, as_json=as_json)
    request = pauses_pb2.ResumeRequest(subject=subject, note=note)
    answer = with_suite(where, lambda suite: suite.budget("Resume", request))
    if output.as_json:
        output.object(answer)
        return
    for one in answer.ended:
        output.say(f"ended {one.name}: {one.reason}")
    for one in answer.remaining:
        output.say(f"still paused by {one.subject}: {one.reason}")


def paused(
    context: typer.Context,
    *,
    subject: Subject,
    above: Annotated[bool, typer.Option("--above/--no-above", help="Pauses of its ancestors too.")] = True,
    ended: Annotated[bool, typer.Option("--ended", help="Those that have ended too.")] = False,
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """Show what is paused, since when, why, and how it ends."""
    where, output = begin(context, as_json=as_json)
    request = pauses_pb2.ListPausesRequest(parent=subject, include_ancestors=above, include_ended=ended)

    async def work(suite: Suite) -> list[pauses_pb2.Pause]:
        return await pages(lambda page: suite.budget("ListPauses", page), request, lambda page: page.pauses, limit)

    found = with_suite(where, work)
    if output.as_json:
        output.object({"pauses": [to_plain(one) for one in found]})
        return
    output.table(
        ("subject", "since", "by", "until", "why"),
        [(p.subject, when(p.pause_time), p.budget or p.paused_by, _until(p), p.reason) for p in found],
    )


def _until(found: pauses_pb2.Pause) -> str:
    if found.HasField("end_time"):
        return f"ended {when(found.end_time)}"
    if found.HasField("until_time"):
        return when(found.until_time)
    return "resumed" if not found.budget else "resumed or raised"
