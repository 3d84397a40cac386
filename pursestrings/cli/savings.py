"""`purse usage savings|rules`: what other models, a cache and batch prices would have saved."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pursestrings.cli.connection import with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, begin, instant
from pursestrings.cli.output import Output, bar, money
from pursestrings.metering.v1 import savings_pb2
from pursestrings.type.v1 import type_pb2

_FILE_BYTES_MAX = 1024 * 1024


def savings(
    context: typer.Context,
    *,
    subject: Annotated[str, typer.Argument(help="Whose, those below it included.")],
    start: Annotated[str | None, typer.Option("--from", help="From this day or instant. Default: a week ago.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="To this day or instant, not included. Default: now.")] = None,
    as_json: Json = False,
) -> None:
    """Show what the same usage would have cost by the organisation's rules."""
    where, output = begin(context, as_json=as_json)
    request = savings_pb2.GetSavingsRequest(subject=subject)
    if start is not None:
        request.start_time.CopyFrom(instant(start))
    if end is not None:
        request.end_time.CopyFrom(instant(end))
    found = with_suite(where, lambda suite: suite.metering("GetSavings", request))
    if output.as_json:
        output.object(found)
        return
    _print(output, found)


def rules(
    context: typer.Context,
    *,
    org: Annotated[str, typer.Argument(help="The organisation, orgs/ID.")],
    file: Annotated[
        Path | None, typer.Option("--set", help="A JSON file of rules that takes their place.", exists=True)
    ] = None,
    etag: Annotated[str, typer.Option("--etag", help="Set them only if they have this etag.")] = "",
    as_json: Json = False,
) -> None:
    """Show an organisation's routing rules, or with --set replace them."""
    where, output = begin(context, as_json=as_json)
    if file is None:
        asked = savings_pb2.GetRoutingRulesRequest(org=org)
        found = with_suite(where, lambda suite: suite.metering("GetRoutingRules", asked)).rules
    else:
        request = _read(file)
        request.org, request.etag = org, etag
        found = with_suite(where, lambda suite: suite.metering("SetRoutingRules", request)).rules
    if output.as_json:
        output.object(found)
        return
    rows = [(rule.id, _conditions(rule), ", ".join(rule.candidate_models)) for rule in found.rules]
    output.table(("rule", "work", "could be done by"), rows)
    output.say(f"{len(found.rules)} rules, etag {found.etag}")


def _read(file: Path) -> savings_pb2.SetRoutingRulesRequest:
    # Read when it is needed: the command line starts without it.
    from google.protobuf import json_format

    request = savings_pb2.SetRoutingRulesRequest()
    if file.stat().st_size > _FILE_BYTES_MAX:
        raise CliError(f"{file} is larger than {_FILE_BYTES_MAX:,} bytes", "an organisation has at most 50 rules")
    try:
        json_format.ParseDict(json.loads(file.read_text()), request)
    except (ValueError, json_format.ParseError) as error:
        raise CliError(f"{file} cannot be read: {error}", "see docs/usage.md for its form") from None
    return request


def _conditions(rule: savings_pb2.RoutingRule) -> str:
    said = [
        ("operation", ", ".join(rule.operations)),
        ("effort", ", ".join(rule.efforts)),
        ("label", ", ".join(f"{key}={value}" for key, value in sorted(rule.labels.items()))),
        ("model", ", ".join(rule.from_models)),
        ("batchable", "yes" if rule.batchable else ""),
    ]
    return "; ".join(f"{name} {value}" for name, value in said if value) or "any"


def _print(output: Output, found: savings_pb2.GetSavingsResponse) -> None:
    def amount(nanos: int) -> str:
        return money(type_pb2.Money(currency_code=found.currency_code, amount_nanos=nanos))

    def share(nanos: int) -> str:
        return bar(nanos / found.cost_nanos if found.cost_nanos else 0.0)

    lines = [
        (one.rule or "all rules", one.candidate_model, one.calls, one.cost_nanos, one.savings_nanos)
        for one in (*found.rules, found.total)
    ]
    lines += [
        (name, "", one.calls, one.cost_nanos, one.savings_nanos)
        for name, one in (("repeated prompts", found.caching), ("batch prices", found.batching))
    ]
    rows = [
        (name, model, f"{calls:,}", amount(cost), amount(cost - saved), amount(saved), share(saved))
        for name, model, calls, cost, saved in lines
    ]
    numbers = ("calls", "cost", "could have cost", "less")
    output.table(("", "best candidate", *numbers, "of all cost"), rows, right=numbers)
    for sentence in (*(rule.sentence for rule in found.rules), found.total.sentence):
        if sentence:
            output.say(sentence)
    for other in (found.caching, found.batching):
        if other.sentence:
            output.say(other.sentence)
    for rule in found.rules:
        for candidate in rule.candidates:
            if candidate.unpriced_calls:
                output.say(f"! {rule.rule}: {candidate.model} has no price for {candidate.unpriced_calls:,} calls")
    left_out = f"; {found.left_out_calls:,} without a price in {found.currency_code}" if found.left_out_calls else ""
    output.say(f"of {found.calls:,} calls at {amount(found.cost_nanos)}{left_out}")
