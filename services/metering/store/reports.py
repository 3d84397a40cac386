"""The SQL of questions: sums over a subject and its descendants, from rollups and, at a range's ends, from events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from services.kit import subject as subjects
from services.metering.domain.questions import (
    Cut,
    Days,
    GroupBy,
    Question,
    Span,
    Totals,
    cut,
    days_of,
    sum_totals,
)

_SUMS: Final = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "requests",
    "operations",
    "errors",
    "cost_nanos",
)
_DIMENSIONS: Final = ("subject", "provider", "model", "operation")
_ROLLUP_COLUMNS: Final = ", ".join(("bucket AS at", *_DIMENSIONS, "currency", *_SUMS))
_EVENT_COLUMNS: Final = ", ".join(
    (
        "occurred_at AS at",
        *_DIMENSIONS,
        "currency",
        *_SUMS[:6],
        "operations",
        "CASE WHEN failed THEN operations ELSE 0 END AS errors",
        "coalesce(cost_nanos, 0) AS cost_nanos",
    )
)
_SESSION_COLUMNS: Final = ", ".join(("{at} AS at", *_DIMENSIONS, "session"))
_SUM_ALL: Final = ", ".join(f"sum({column}) AS {column}" for column in _SUMS)
_KEYS: Final = {
    GroupBy.MODEL: "provider || '/' || model",
    GroupBy.SUBJECT: "subject",
    GroupBy.PROVIDER: "provider",
    GroupBy.OPERATION: "operation",
}


@dataclass(frozen=True, slots=True)
class Group:
    """One group of an answer."""

    keys: tuple[str, ...]
    totals: Totals


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: groups in the order of their keys, the whole range's totals, and whether there are more groups."""

    groups: list[Group]
    totals: Totals
    more: bool


class Params(list[Any]):
    """The values of a statement; each becomes a `$n` where it is put in."""

    def put(self, value: object, type_: str) -> str:
        """The placeholder of a value."""
        self.append(value)
        return f"${len(self)}::{type_}"


def within(params: Params, subject: str) -> str:
    """The condition that rows are of a subject or its descendants, as ranges of names that an index holds.

    '0' is the character after '/', so from `{subject}/` up to `{subject}0` lie the descendants and nothing else.
    """
    who = subjects.parse(subject)
    condition = f"org = {params.put(who.org, 'text')}"
    if who.depth == 1:
        return condition
    name = params.put(who.name, "text")
    low, high = params.put(f"{who.name}/", "text"), params.put(f"{who.name}0", "text")
    return f"{condition} AND (subject = {name} OR (subject >= {low} AND subject < {high}))"


def facts_sql(params: Params, subject: str, parts: Cut) -> str:
    """Rows of sums of a range."""
    owner = within(params, subject)
    arms = []
    if parts.whole.start < parts.whole.end:
        arms.append(
            f"SELECT {_ROLLUP_COLUMNS} FROM usage_rollups WHERE {owner} AND {_in(params, 'bucket', parts.whole)}"  # noqa: S608 - of constants
        )
    arms.extend(
        f"SELECT {_EVENT_COLUMNS} FROM usage_events WHERE {owner} AND {_in(params, 'occurred_at', edge)}"  # noqa: S608
        for edge in parts.edges
    )
    return " UNION ALL ".join(arms)


def sessions_sql(params: Params, subject: str, parts: Cut) -> str:
    """Rows of sessions of a range."""
    owner = within(params, subject)
    arms = []
    if parts.whole.start < parts.whole.end:
        columns = _SESSION_COLUMNS.format(at="bucket")
        arms.append(f"SELECT {columns} FROM usage_sessions WHERE {owner} AND {_in(params, 'bucket', parts.whole)}")  # noqa: S608
    columns = _SESSION_COLUMNS.format(at="occurred_at")
    arms.extend(
        f"SELECT {columns} FROM usage_events WHERE {owner} AND session <> '' AND {_in(params, 'occurred_at', edge)}"  # noqa: S608
        for edge in parts.edges
    )
    return " UNION ALL ".join(arms)


async def totals_of(pool: asyncpg.Pool, subject: str, spans: Sequence[Span]) -> list[Totals]:
    """The totals of ranges, in one snapshot."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await _plan_with_values(connection)
        return [await _totals(connection, subject, cut(span)) for span in spans]


async def answer(pool: asyncpg.Pool, question: Question) -> Page:
    """The page that a question asks for, and the whole range's totals, in one snapshot."""
    parts = cut(question.span)
    days = days_of(question.span, question.zone) if GroupBy.DAY in question.group_by else Days((), ())
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await _plan_with_values(connection)
        totals = await _totals(connection, question.subject, parts)
        if not question.group_by:
            groups = [Group((), totals)] if totals.operations else []
            return Page(groups, totals, more=False)
        groups = await _groups(connection, question, parts, days)
        more = len(groups) > question.page_size
        del groups[question.page_size :]
        if groups:
            await _add_sessions(connection, question, parts, days, groups)
    return Page(groups, totals, more)


async def _plan_with_values(connection: asyncpg.Connection) -> None:
    """The pool plans statements once for all values; the plan of a question hangs on how much it spans."""
    await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")


async def _totals(connection: asyncpg.Connection, subject: str, parts: Cut) -> Totals:
    params = Params()
    facts = facts_sql(params, subject, parts)
    rows = await connection.fetch(f"SELECT currency, {_SUM_ALL} FROM ({facts}) AS f GROUP BY currency", *params)  # noqa: S608
    totals = sum_totals((row[0], row[1:]) for row in rows)
    params = Params()
    sessions = sessions_sql(params, subject, parts)
    totals.sessions = await connection.fetchval(
        f"SELECT count(DISTINCT session) FROM ({sessions}) AS f",  # noqa: S608
        *params,
    )
    totals.check()
    return totals


async def _groups(connection: asyncpg.Connection, question: Question, parts: Cut, days: Days) -> list[Group]:
    """One group more than the page has, where there is one."""
    params = Params()
    keys = _key_columns(params, question, days)
    names = ", ".join(f"k{n}" for n in range(len(question.group_by)))
    facts = facts_sql(params, question.subject, parts)
    after = f"WHERE ({names}) > ({_values(params, question.after)})" if question.after else ""
    limit = params.put(question.page_size + 1, "bigint")
    rows = await connection.fetch(
        f"""
        WITH keyed AS (SELECT {keys}, currency, {", ".join(_SUMS)} FROM ({facts}) AS f),
        summed AS (SELECT {names}, currency, {_SUM_ALL} FROM keyed {after} GROUP BY {names}, currency),
        page AS (SELECT DISTINCT {names} FROM summed ORDER BY {names} LIMIT {limit})
        SELECT {names}, currency, {", ".join(_SUMS)} FROM summed JOIN page USING ({names}) ORDER BY {names}
        """,  # noqa: S608 - of constants
        *params,
    )
    width = len(question.group_by)
    by_keys: dict[tuple[str, ...], Totals] = {}
    for row in rows:
        by_keys.setdefault(tuple(row[:width]), Totals()).add(row[width], row[width + 1 :])
    return [Group(group_keys, totals) for group_keys, totals in by_keys.items()]


async def _add_sessions(
    connection: asyncpg.Connection, question: Question, parts: Cut, days: Days, groups: list[Group]
) -> None:
    params = Params()
    keys = _key_columns(params, question, days)
    names = ", ".join(f"k{n}" for n in range(len(question.group_by)))
    facts = sessions_sql(params, question.subject, parts)
    low, high = _values(params, groups[0].keys), _values(params, groups[-1].keys)
    rows = await connection.fetch(
        f"""
        SELECT {names}, count(DISTINCT session) FROM (SELECT {keys}, session FROM ({facts}) AS f) AS keyed
        WHERE ({names}) >= ({low}) AND ({names}) <= ({high}) GROUP BY {names}
        """,  # noqa: S608 - of constants
        *params,
    )
    found = {tuple(row[:-1]): row[-1] for row in rows}
    for group in groups:
        group.totals.sessions = found.get(group.keys, 0)


def _in(params: Params, column: str, span: Span) -> str:
    return f"{column} >= {params.put(span.start, 'timestamptz')} AND {column} < {params.put(span.end, 'timestamptz')}"


def _values(params: Params, keys: Sequence[str]) -> str:
    return ", ".join(params.put(key, "text") for key in keys)


def _key_columns(params: Params, question: Question, days: Days) -> str:
    """Each key as a column in the collation that pages are sorted by. A day is found by search in its range's days."""
    columns = []
    for n, dimension in enumerate(question.group_by):
        if dimension is GroupBy.DAY:
            labels, starts = params.put(days.labels, "text[]"), params.put(days.starts, "timestamptz[]")
            expression = f"({labels})[width_bucket(at, {starts})]"
        else:
            expression = _KEYS[dimension]
        columns.append(f'({expression}) COLLATE "C" AS k{n}')
    return ", ".join(columns)
