"""`purse usage correct` and `purse usage unrated`: later words on usage, and usage without a price."""

import uuid
from typing import Annotated

import typer

from pursestrings._usage import token_counts
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, amount, begin, instant
from pursestrings.cli.output import money, to_plain
from pursestrings.metering.v1 import corrections_pb2

Org = Annotated[str, typer.Option("--org", help="The organisation, orgs/ID.")]


def correct(
    context: typer.Context,
    *,
    org: Org,
    source: Annotated[str, typer.Option("--source", help="The event's source.")],
    event_id: Annotated[str, typer.Option("--id", help="The event's id there.")],
    reason: Annotated[str, typer.Option("--reason", help="Why. Kept.")],
    cost: Annotated[str | None, typer.Option("--cost", help="What it really cost: '0.25 USD'.")] = None,
    input_tokens: Annotated[int | None, typer.Option("--input", min=0, help="Input tokens, all.")] = None,
    output_tokens: Annotated[int | None, typer.Option("--output", min=0, help="Output tokens, all.")] = None,
    cache_read: Annotated[int, typer.Option("--cache-read", min=0, help="Of the input, from a cache.")] = 0,
    cache_write: Annotated[int, typer.Option("--cache-write", min=0, help="Of the input, to a cache.")] = 0,
    reasoning: Annotated[int, typer.Option("--reasoning", min=0, help="Of the output, reasoning.")] = 0,
    requests: Annotated[int | None, typer.Option("--requests", min=0, help="Requests.")] = None,
    occurred_at: Annotated[str | None, typer.Option("--at", help="When it happened, if over 90 days ago.")] = None,
    request_id: Annotated[str | None, typer.Option("--request-id", help="The same again is done once.")] = None,
    as_json: Json = False,
) -> None:
    """Say anew what an event used or cost; budgets and wallets follow by the difference."""
    where, output = begin(context, as_json=as_json)
    request = corrections_pb2.CorrectUsageRequest(
        org=org, source=source, id=event_id, reason=reason, request_id=request_id or str(uuid.uuid4())
    )
    if (input_tokens is None) != (output_tokens is None):
        raise CliError("--input and --output belong together", "give both: counts take the place of all that was said")
    if input_tokens is not None and output_tokens is not None:
        counts = token_counts(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=cache_read,
            cache_write_tokens=cache_write,
            reasoning_tokens=reasoning,
        )
        request.tokens.CopyFrom(counts)
    if requests is not None:
        request.requests = requests
    if cost is not None:
        request.cost.CopyFrom(amount(cost).to_proto())
    if occurred_at is not None:
        request.occurred_at.CopyFrom(instant(occurred_at))
    found = with_suite(where, lambda suite: suite.metering("CorrectUsage", request)).usage
    if output.as_json:
        output.object(found)
        return
    price = money(found.cost) if found.HasField("cost") else "unrated"
    differs = f", {money(found.cost_difference)} different" if found.HasField("cost_difference") else ""
    again = ", which had been corrected so before" if found.duplicate else ""
    output.say(f"{found.id} of {found.source} is {price} now{differs}{again}")


def unrated(context: typer.Context, *, org: Org, limit: Limit = 1000, as_json: Json = False) -> None:
    """Show usage that has no price yet; it is rated as soon as its model has one."""
    where, output = begin(context, as_json=as_json)
    request = corrections_pb2.ListUnratedUsageRequest(org=org)
    models: list[corrections_pb2.UnratedModel] = []

    async def ask(
        suite: Suite, page: corrections_pb2.ListUnratedUsageRequest
    ) -> corrections_pb2.ListUnratedUsageResponse:
        answer: corrections_pb2.ListUnratedUsageResponse = await suite.metering("ListUnratedUsage", page)
        models.extend(answer.models)
        return answer

    async def work(suite: Suite) -> list[corrections_pb2.UnratedUsage]:
        return await pages(lambda page: ask(suite, page), request, lambda page: page.usage, limit)

    found = with_suite(where, work)
    if output.as_json:
        output.object({"usage": [to_plain(one) for one in found], "models": [to_plain(one) for one in models]})
        return
    rows = [
        (one.subject, one.provider, one.model, f"{one.occurred_at.ToDatetime():%Y-%m-%d %H:%M}", one.source, one.id)
        for one in found
    ]
    output.table(("subject", "provider", "model", "at (UTC)", "source", "id"), rows)
    for model in models:
        output.say(f"{model.model}: {model.reason}")
