"""`purse rates`: what models cost, and prices of one's own."""

import json
import uuid
from pathlib import Path
from typing import Annotated, Final

import typer

from pursestrings._call import attributes
from pursestrings.cli.connection import Suite, pages, with_suite
from pursestrings.cli.failures import CliError
from pursestrings.cli.options import Json, Limit, begin, instant
from pursestrings.cli.output import Output, to_plain
from pursestrings.metering.v1 import rates_pb2

app = typer.Typer(help="What models cost, and prices and markups of one's own.", no_args_is_help=True)

Org = Annotated[str, typer.Option("--org", help="Whose, orgs/ID. Default: the installation's.")]
Provider = Annotated[str, typer.Option("--provider", help="Its provider, where the model does not tell.")]
From = Annotated[str | None, typer.Option("--from", help="From this day or instant. Default: in about a minute.")]
Description = Annotated[str, typer.Option("--description", help="What it is for.")]
RequestId = Annotated[str | None, typer.Option("--request-id", help="The same again is done once.")]
_FILE_BYTES_MAX: Final = 3 * 1024 * 1024
_NANOS: Final = 1_000_000_000


@app.command()
def show(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Argument(help="The model.")],
    subject: Annotated[str, typer.Option("--subject", help="Whose rates apply, orgs/ID or deeper.")],
    provider: Provider = "",
    service_tier: Annotated[str, typer.Option("--tier", help="batch, flex, priority. Default: standard.")] = "",
    at: Annotated[str | None, typer.Option("--at", help="On this day or instant. Default: now.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a model costs, markups included."""
    where, output = begin(context, as_json=as_json)
    request = rates_pb2.GetRateRequest(subject=subject, call=attributes(model, provider, "", None))
    request.call.service_tier = service_tier
    if at is not None:
        request.at_time.CopyFrom(instant(at))
    found = with_suite(where, lambda suite: suite.metering("GetRate", request))
    if output.as_json:
        output.object(found)
        return
    price = found.price
    rows = [("", kind, _amount(nanos)) for kind, nanos in sorted(price.prices.items())]
    for tier in price.tiers:
        rows += [(f"> {tier.above_input_tokens:,}", kind, _amount(n)) for kind, n in sorted(tier.prices.items())]
    output.table(("input", "kind", f"{found.currency_code} a unit of sale"), rows, right=("input",))
    output.say(
        f"{price.provider}/{price.model} {price.service_tier or 'standard'}, rate card {found.rate_card_version}"
    )


@app.command("list")
def list_(context: typer.Context, *, org: Org = "", limit: Limit = 100, as_json: Json = False) -> None:
    """Show the cards that were published, the newest first."""
    where, output = begin(context, as_json=as_json)
    request = rates_pb2.ListRateCardsRequest(org=org)

    async def work(suite: Suite) -> list[rates_pb2.RateCard]:
        return await pages(lambda page: suite.metering("ListRateCards", page), request, lambda page: page.cards, limit)

    cards = with_suite(where, work)
    if output.as_json:
        output.object({"cards": [to_plain(card) for card in cards]})
        return
    rows = [
        (str(one.revision), one.version, f"{one.effective_time.ToDatetime():%Y-%m-%d %H:%M}", one.description)
        for one in cards
    ]
    output.table(("revision", "version", "from (UTC)", "description"), rows, right=("revision",))


@app.command("import")
def import_(
    context: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(help="LiteLLM's model_prices_and_context_window.json.", exists=True)],
    org: Org = "",
    keep_others: Annotated[bool, typer.Option("--keep-others", help="Keep prices that the file lacks.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be imported.")] = False,
    effective: From = None,
    description: Description = "",
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Publish the prices of a LiteLLM price map."""
    where, output = begin(context, as_json=as_json)
    request = rates_pb2.ImportRateCardRequest(
        org=org,
        format=rates_pb2.RATE_FORMAT_LITELLM,
        content=_content(file),
        keep_others=keep_others,
        validate_only=check,
        description=description,
        request_id=request_id or str(uuid.uuid4()),
    )
    if effective is not None:
        request.effective_time.CopyFrom(instant(effective))
    done = with_suite(where, lambda suite: suite.metering("ImportRateCard", request))
    if output.as_json:
        output.object(done)
        return
    output.table(("model", "why not, or not all"), [(one.model, one.reason) for one in done.skipped_models])
    said = "would be imported" if check else f"imported as {done.card.version}"
    output.say(f"{done.imported} models {said}, {done.skipped} left out")


@app.command()
def publish(
    context: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(help="A JSON file: prices and markups by the contract's names.", exists=True)],
    org: Org = "",
    effective: From = None,
    description: Description = "",
    request_id: RequestId = None,
    as_json: Json = False,
) -> None:
    """Publish prices and markups from a file; they take the place of the card before."""
    where, output = begin(context, as_json=as_json)
    # Read when it is needed: the command line starts without it.
    from google.protobuf import json_format

    request = rates_pb2.PublishRateCardRequest()
    try:
        json_format.ParseDict(json.loads(_content(file)), request)
    except (ValueError, json_format.ParseError) as error:
        raise CliError(f"{file} cannot be read: {error}", "see docs/rating.md for its form") from None
    request.org = org or request.org
    request.description = description or request.description
    request.request_id = request_id or str(uuid.uuid4())
    if effective is not None:
        request.effective_time.CopyFrom(instant(effective))
    done = with_suite(where, lambda suite: suite.metering("PublishRateCard", request))
    _published(output, done.card)


@app.command()
def override(
    context: typer.Context,
    *,
    org: Annotated[str, typer.Option("--org", help="Whose, orgs/ID.")],
    model: Annotated[str, typer.Option("--model", help="The model; with --markup it may be left out.")] = "",
    provider: Provider = "",
    price: Annotated[
        list[str] | None,
        typer.Option("--price", help="kind=amount a unit of sale: input_tokens=2.50 a million; repeat it."),
    ] = None,
    markup: Annotated[float | None, typer.Option("--markup", help="Percent on top of listed prices.")] = None,
    effective: From = None,
    as_json: Json = False,
) -> None:
    """Change one price or markup of an organisation's card and publish it anew."""
    where, output = begin(context, as_json=as_json)
    if bool(price) == (markup is not None) or (price and not model):
        raise CliError("nothing to override", "give --model and --price, or --markup")
    prices = dict(_price(one) for one in price or [])

    async def work(suite: Suite) -> rates_pb2.RateCard:
        request = await _current(suite, org)
        if markup is not None:
            mine = [one for one in request.markups if (one.provider, one.model) != (provider, model)]
            del request.markups[:]
            request.markups.extend(mine)
            request.markups.add(provider=provider, model=model, parts_per_million=round(markup * 10_000))
        else:
            others = [one for one in request.prices if one.model != model or (provider and one.provider != provider)]
            del request.prices[:]
            request.prices.extend(others)
            request.prices.add(provider=provider, model=model, prices=prices)
        if effective is not None:
            request.effective_time.CopyFrom(instant(effective))
        done: rates_pb2.PublishRateCardResponse = await suite.metering("PublishRateCard", request)
        return done.card

    _published(output, with_suite(where, work))


async def _current(suite: Suite, org: str) -> rates_pb2.PublishRateCardRequest:
    """A request that would publish the newest card as it is, unless another is published in between."""
    request = rates_pb2.PublishRateCardRequest(org=org, request_id=str(uuid.uuid4()), expected_revision=0)
    listed = await suite.metering("ListRateCards", rates_pb2.ListRateCardsRequest(org=org, page_size=1))
    if not listed.cards:
        return request
    ask = rates_pb2.GetRateCardRequest(org=org, version=listed.cards[0].version, page_size=1000)
    while True:
        page = await suite.metering("GetRateCard", ask)
        request.prices.extend(page.prices)
        if not page.next_page_token:
            break
        ask.page_token = page.next_page_token
    request.markups.extend(page.card.markups)
    request.currency_code = page.card.currency_code
    request.expected_revision = page.card.revision
    return request


def _content(file: Path) -> bytes:
    if file.stat().st_size > _FILE_BYTES_MAX:
        raise CliError(f"{file} is larger than {_FILE_BYTES_MAX} bytes", "leave out models")
    return file.read_bytes()


def _price(text: str) -> tuple[str, int]:
    kind, _, amount = text.partition("=")
    whole, _, part = amount.partition(".")
    if not (kind and whole.isdecimal() and (part or "0").isdecimal() and len(part) <= 9):
        raise CliError(f"--price {text} cannot be read", "write it as input_tokens=2.50")
    return kind, int(whole) * _NANOS + int(part.ljust(9, "0") or 0)


def _amount(nanos: int) -> str:
    return f"{nanos // _NANOS}.{nanos % _NANOS:09d}".rstrip("0").rstrip(".")


def _published(output: Output, card: rates_pb2.RateCard) -> None:
    if output.as_json:
        output.object(card)
        return
    begins = f"{card.effective_time.ToDatetime():%Y-%m-%d %H:%M:%S}"
    output.say(
        f"published {card.version}: {card.model_count} models, {len(card.markups)} markups, from {begins} UTC, "
        f"in use from {card.usable_time.ToDatetime():%H:%M:%S}"
    )
