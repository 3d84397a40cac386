"""What commands print: tables for people, JSON for programs.

JSON goes to standard output, one object a command (or one a line, where a command says so). What is said
meanwhile, progress and notes, goes to standard error, so that standard output stays readable by programs.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console
from rich.table import Table

from pursestrings._money import format_nanos
from pursestrings.type.v1 import type_pb2

BAR_WIDTH = 20
_FILE_WIDTH = 250


class Output:
    """Where one command prints.

    Attributes:
        as_json: Whether a program reads.
        console: Standard output, for people.
        notes: Standard error.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            # A file has no edge to fold at.
            self.console.width = _FILE_WIDTH
        self.notes = Console(stderr=True, highlight=False)

    def object(self, value: Mapping[str, Any] | Message) -> None:
        """Prints one JSON object on one line."""
        plain = to_plain(value) if isinstance(value, Message) else value
        sys.stdout.write(json.dumps(plain, ensure_ascii=False, separators=(", ", ": ")) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tells a person, not a program."""
        if not self.as_json:
            self.notes.print(text, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Prints a line for people on standard output."""
        self.console.print(text, markup=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
        """Prints a table; the columns named in `right` hold numbers. Cells are plain text."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
        self.console.print(table)

    def pairs(self, pairs: Mapping[str, str]) -> None:
        """Prints names and values below each other."""
        width = max(map(len, pairs), default=0)
        for name, value in pairs.items():
            self.say(f"{name.ljust(width)}  {value}")


def to_plain(message: Message) -> dict[str, Any]:
    """A message as JSON-able values: ints stay ints, enums are their bare names, times RFC 3339, durations seconds.

    Fields that are absent are left out; fields that cannot be absent are always there.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        found[field.name] = _plain(getattr(message, field.name), field)
    return found


def _plain(value: Any, field: Any) -> Any:
    if isinstance(value, Timestamp):
        return rfc3339(value)
    if isinstance(value, Duration):
        return value.ToNanoseconds() / 1e9
    if isinstance(value, Message):
        return to_plain(value)
    if isinstance(value, int) and field.enum_type is not None:
        return _enum_name(field.enum_type, value)
    if isinstance(value, (str, bool, int, float)):
        return value
    # What is left is a map or a list; no message that is printed has bytes.
    return dict(value) if isinstance(value, Mapping) else [_plain(item, field) for item in value]


def _enum_name(enum: Any, number: int) -> str | int:
    known = enum.values_by_number.get(number)
    if known is None:
        return number
    # The zero value, ..._UNSPECIFIED, tells what all names begin with.
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(known.name).removeprefix(prefix)


def rfc3339(value: Timestamp) -> str:
    """An instant in UTC, to the microsecond where there is one."""
    at = datetime.fromtimestamp(value.seconds, UTC).replace(microsecond=value.nanos // 1000)
    return at.isoformat().replace("+00:00", "Z")


def when(value: Timestamp | None) -> str:
    """An instant for people, to the minute; empty where there is none."""
    if value is None or not (value.seconds or value.nanos):
        return ""
    return f"{datetime.fromtimestamp(value.seconds, UTC):%Y-%m-%d %H:%M}Z"


def money(value: type_pb2.Money) -> str:
    """An amount with its currency."""
    return f"{format_nanos(value.amount_nanos)} {value.currency_code}"


def bar(part: float) -> str:
    """A bar of text for a share; over 1 it is full and marked."""
    full = max(0, min(BAR_WIDTH, round(part * BAR_WIDTH)))
    return "█" * full + "░" * (BAR_WIDTH - full) + ("!" if part > 1 else "")
