"""Options and arguments that many commands share."""

import re
from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from pursestrings._money import Money
from pursestrings.cli.connection import Where
from pursestrings.cli.failures import CliError
from pursestrings.cli.output import Output

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="The most to list.")]
RequestId = Annotated[
    str | None, typer.Option("--request-id", help="Your id of this request: the same again is done once.")
]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RESOURCE = re.compile(r"(orgs/.+)/([a-z]+)/([^/]+)")


class State:
    """What the root command learned, and where the running command prints."""

    def __init__(self) -> None:
        self.where = Where()
        self.output = Output(as_json=False)


def state_of(context: typer.Context) -> State:
    """The state of this run."""
    found = context.find_root().obj
    assert isinstance(found, State), "main() makes it"
    return found


def begin(context: typer.Context, *, as_json: bool) -> tuple[Where, Output]:
    """What a command needs first: where the suite is, and where to print."""
    state = state_of(context)
    state.output = Output(as_json=as_json)
    return state.where, state.output


def split_name(name: str, collection: str) -> tuple[str, str]:
    """`{subject}/{collection}/{id}` as subject and id.

    Raises:
        CliError: It is no such name.
    """
    match = _RESOURCE.fullmatch(name)
    if match is None or match.group(2) != collection:
        raise CliError(
            f"{name!r} is no name of this kind",
            f"write the full name, for example orgs/acme/{collection}/main",
        )
    return match.group(1), match.group(3)


def amount(text: str, currency_code: str = "USD") -> Money:
    """An amount of money: `12.50`, `12.50 EUR`."""
    try:
        return Money.of(text, currency_code)
    except ValueError as error:
        raise CliError(str(error)) from None


def seconds(text: str) -> int:
    """A length of time: `90`, `90s`, `15m`, `12h`, `7d`."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    if match is None:
        raise CliError(f"{text!r} is no length of time", "write for example 90s, 15m, 12h or 7d")
    return int(match.group(1)) * _UNITS_S[match.group(2) or "s"]


def instant(text: str) -> Timestamp:
    """A date or an instant, in UTC unless it names a zone: `2026-11-22`, `2026-11-22T10:00:00+01:00`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(f"{text!r} is no instant", "write for example 2026-11-22 or 2026-11-22T10:00:00Z") from None
    stamp = Timestamp()
    stamp.FromDatetime(at if at.tzinfo else at.replace(tzinfo=UTC))
    return stamp


def labels(pairs: list[str]) -> dict[str, str]:
    """`key=value` pairs."""
    found = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise CliError(f"{pair!r} is no label", "write key=value")
        found[key] = value
    return found
