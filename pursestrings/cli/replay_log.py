"""Reads usage logs and spreads their calls over subjects: no network, no clock."""

import csv
import hashlib
import itertools
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pursestrings.cli.failures import CliError

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
ROWS_MAX: Final = 5_000_000
"""The most rows of one log."""
TOKENS_MAX: Final = 1_000_000_000
"""The most tokens of one kind in one row; more is no call but a mistake."""
BAD_ROWS_SHOWN: Final = 100
"""How many unreadable rows are told one by one; all are counted."""
SUBJECTS_MAX: Final = 10_000
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"
_BRACES: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read."""

    line: int
    problem: str


@dataclass(slots=True)
class Log:
    """A usage log in memory.

    Attributes:
        digest: SHA-256 of the file, in hex.
        offsets_us: When each call happened, in microseconds after the first.
        input_tokens: Input tokens of each call.
        output_tokens: Output tokens of each call.
        bad_rows: The first unreadable rows.
        bad_count: How many there are in all.
    """

    digest: str = ""
    offsets_us: "array[int]" = field(default_factory=lambda: array("q"))
    input_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    output_tokens: "array[int]" = field(default_factory=lambda: array("q"))
    bad_rows: list[BadRow] = field(default_factory=list)
    bad_count: int = 0

    def __len__(self) -> int:
        return len(self.offsets_us)


def read_log(path: Path, limit: int | None = None) -> Log:
    """Reads a CSV file with the columns TIMESTAMP, ContextTokens, GeneratedTokens, found by name, in any order.

    Args:
        path: The file; UTF-8.
        limit: Read only so many calls.

    Raises:
        CliError: A column is missing, the file is empty, or it has more than `ROWS_MAX` rows.
        OSError: The file cannot be read.
    """
    log = Log(digest=_digest(path))
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file)
        try:
            places = _find_columns(path, next(rows, None))
            first: int | None = None
            for row in rows:
                if limit is not None and len(log) >= limit:
                    break
                first = _read_row(log, places, row, rows.line_num, first)
        except csv.Error as error:
            raise CliError(f"{path}, line {rows.line_num}: {error}", "is it a CSV file?") from None
    if not len(log):
        raise CliError(f"{path} has no call that can be read", f"{log.bad_count} rows are unreadable")
    return log


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_columns(path: Path, header: list[str] | None) -> tuple[int, int, int]:
    names = [name.strip() for name in header or []]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise CliError(f"{path} has no column {', '.join(missing)}", f"its first line must name {', '.join(COLUMNS)}")
    when, context, generated = (names.index(column) for column in COLUMNS)
    return when, context, generated


def _read_row(log: Log, places: tuple[int, int, int], row: list[str], line: int, first: int | None) -> int | None:
    """Appends a row, or what is wrong with it; returns the time of the first good one, in microseconds."""
    if not row:
        return first
    if len(log) >= ROWS_MAX:
        raise CliError(f"the log has more than {ROWS_MAX:,} rows", "replay it in parts, or use --limit")
    try:
        at_us = _instant_us(row, places[0])
        input_tokens = _tokens(row, places[1], COLUMNS[1])
        output_tokens = _tokens(row, places[2], COLUMNS[2])
    except ValueError as error:
        log.bad_count += 1
        if len(log.bad_rows) < BAD_ROWS_SHOWN:
            log.bad_rows.append(BadRow(line, str(error)))
        return first
    begin = at_us if first is None else first
    log.offsets_us.append(max(0, at_us - begin))
    log.input_tokens.append(input_tokens)
    log.output_tokens.append(output_tokens)
    return begin


def _cell(row: list[str], place: int, column: str) -> str:
    if place >= len(row):
        raise ValueError(f"{column} is missing")
    return row[place].strip()


def _instant_us(row: list[str], place: int) -> int:
    text = _cell(row, place, COLUMNS[0])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{COLUMNS[0]} {_shown(text)} is no time") from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _tokens(row: list[str], place: int, column: str) -> int:
    text = _cell(row, place, column)
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{column} {_shown(text)} is no count of tokens")
    count = int(text) if len(text) <= 18 else TOKENS_MAX + 1
    if count > TOKENS_MAX:
        raise ValueError(f"{column} {_shown(text)} is more than {TOKENS_MAX:,}")
    return count


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def subjects(spread: str, org: str) -> list[str]:
    """The subjects that calls are spread over, in turn.

    Args:
        spread: A number: so many agents in teams of five under `org`. Or a pattern with ranges and choices
            in braces: `orgs/acme/teams/{a..d}/agents/bot-{1..5}`, `orgs/acme/agents/{fast,slow}`.
        org: `orgs/ID`, for a number.

    Raises:
        CliError: Neither, or more than `SUBJECTS_MAX` subjects.
    """
    if spread.isdecimal():
        count = int(spread)
        if not 1 <= count <= SUBJECTS_MAX:
            raise CliError(f"--subjects {spread}: there can be 1 to {SUBJECTS_MAX:,}")
        return [f"{org}/teams/{_team(n // 5)}/agents/bot-{n % 5 + 1}" for n in range(count)]
    if not spread.startswith("orgs/"):
        raise CliError(
            f"--subjects {spread!r} is neither a number nor a pattern",
            "write for example 20, or orgs/acme/teams/{a..d}/agents/bot-{1..5}",
        )
    found = list(itertools.islice(_expand(spread), SUBJECTS_MAX + 1))
    if len(found) > SUBJECTS_MAX:
        raise CliError(f"--subjects {spread!r} names more than {SUBJECTS_MAX:,} subjects")
    return found


def _team(number: int) -> str:
    """The name of a team: a to z, then aa, ab and so on."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, len(_ALPHABET))
        name = _ALPHABET[rest] + name
    return name


def _expand(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    head, tail = pattern[: match.start()], pattern[match.end() :]
    for choice in _choices(match.group(1)):
        yield from (f"{head}{choice}{rest}" for rest in _expand(tail))


def _choices(text: str) -> list[str]:
    begin, dots, end = text.partition("..")
    if not dots:
        return text.split(",")
    if begin.isdecimal() and end.isdecimal():
        low, high = int(begin), int(end)
        if low <= high <= low + SUBJECTS_MAX:
            return [str(number) for number in range(low, high + 1)]
    elif len(begin) == len(end) == 1 and begin in _ALPHABET and end in _ALPHABET and begin <= end:
        return list(_ALPHABET[_ALPHABET.index(begin) : _ALPHABET.index(end) + 1])
    raise CliError(f"{{{text}}} is no range", "write {a..f} or {1..20}, or choices {fast,slow}")
