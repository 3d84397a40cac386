"""The SQL of questions: sums over a subject and its descendants, by the coarsest sums that are exact for a range."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from services.kit import subject as subjects
from services.kit.errors import Code, PurseError
from services.metering.domain.periods import Fold, Parts, parts_of
from services.metering.domain.questions import (
    NO_FILTER,
    TIMES,
    Filter,
    GroupBy,
    Question,
    Span,
    Steps,
    Totals,
    steps_of,
    sum_totals,
)
from services.metering.store import folding, retention
from services.metering.store.columns import DERIVED, SUM_ALL, SUMS
from services.metering.store.sessions import SessionCounts

TIMEOUT_S: Final = 20
"""The longest that one question may take."""

# One round trip. The pool plans statements once for all values; the plan of a question hangs on how much it spans. The
# coarse indexes by time alone are folding's: of one organisation they would read everybody's rows.
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
    f"SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL statement_timeout = '{TIMEOUT_S}s'; "
    "SET LOCAL work_mem = '32MB'; SET LOCAL enable_bitmapscan = off"
)
_KINDS: Final = ("provider", "model", "operation")
_FROM_EVENTS: Final = ("effort", "session", "run", "labels")
_SUM_NAMES: Final = ", ".join(SUMS)
_TEAM: Final = r"^orgs/[^/]+(?:/workspaces/[^/]+)?/teams/[^/]+"
# Pairs that are no agent, then one that is: a shortest match would cut the id short as well.
_AGENT: Final = r"^(?:(?!agents/)[^/]+/[^/]+/)*agents/[^/]+"
_WORKSPACE: Final = r"^orgs/[^/]+/workspaces/[^/]+"
_KEYS: Final = {
    GroupBy.MODEL: "provider || '/' || model",
    GroupBy.SUBJECT: "subject",
    GroupBy.PROVIDER: "provider",
    GroupBy.OPERATION: "operation",
    GroupBy.WORKSPACE: f"coalesce(substring(subject FROM '{_WORKSPACE}'), '')",
    GroupBy.TEAM: f"coalesce(substring(subject FROM '{_TEAM}'), '')",
    GroupBy.AGENT: f"coalesce(substring(subject FROM '{_AGENT}'), '')",
    GroupBy.EFFORT: "effort",
    GroupBy.SESSION: "session",
    GroupBy.RUN: "run",
}
_BY_SUBJECT: Final = frozenset({GroupBy.SUBJECT, GroupBy.WORKSPACE, GroupBy.TEAM, GroupBy.AGENT})


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


@asynccontextmanager
async def snapshot(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """A connection for one question: one instant, plans made for its values, and an end.

    Raises:
        PurseError: QUESTION_TOO_LARGE: it took too long.
    """
    try:
        async with pool.acquire() as connection:
            await connection.execute(_BEGIN)
            try:
                yield connection
            finally:
                # After a failure it says ROLLBACK.
                await connection.execute("COMMIT")
    except asyncpg.QueryCanceledError:
        raise PurseError(
            Code.RESOURCE_EXHAUSTED,
            "QUESTION_TOO_LARGE",
            f"the answer takes more than {TIMEOUT_S} s; ask about a shorter range or a smaller part of the whole",
        ) from None


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


def facts_sql(params: Params, subject: str, parts: Parts, *, by_subject: bool, wanted: Filter = NO_FILTER) -> str:
    """Rows of sums of a range. Where subjects need not be told apart, they are read already summed."""
    matches = matching(params, wanted)
    name = "subject" if by_subject else "''::text AS subject"
    columns = ", ".join(("bucket AS at", name, *_KINDS, "currency", *SUMS))
    arms: list[str] = []
    if parts.days or parts.hours:
        table = "usage_periods" if by_subject else "usage_scopes"
        owner = within(params, subject) if by_subject else _of_scope(params, subject)
        arms.extend(
            f"SELECT {columns} FROM {_during(params, table, spans)} AND {owner} AND hours = {hours}{matches}"  # noqa: S608
            for hours, spans in ((24, parts.days), (1, parts.hours))
            if spans
        )
    if not (parts.quarters or parts.events):
        return " UNION ALL ".join(arms)
    owner = within(params, subject)
    if parts.quarters:
        rows = _during(params, "usage_rollups", parts.quarters)
        arms.append(f"SELECT {columns} FROM {rows} AND {owner}{matches}")  # noqa: S608
    arms.extend(event_facts_sql(params, owner, span, matches) for span in parts.events)
    return " UNION ALL ".join(arms)


def _of_scope(params: Params, subject: str) -> str:
    who = subjects.parse(subject)
    return f"org = {params.put(who.org, 'text')} AND scope = {params.put(who.name, 'text')}"


def event_facts_sql(params: Params, owner: str, span: Span, matches: str) -> str:
    """Rows of sums of one event each, with what no sum has."""
    columns = ", ".join(("occurred_at AS at", "subject", *_KINDS, "currency", *SUMS[:6], *DERIVED))
    return f"SELECT {columns} FROM usage_events WHERE {owner} AND {_in(params, 'occurred_at', span)}{matches}"  # noqa: S608


def matching(params: Params, wanted: Filter) -> str:
    """The condition of a filter, to be put after others."""
    conditions = [
        f"{column} = ANY({params.put(list(values), 'text[]')})"
        for column, values in (
            ("provider", wanted.providers),
            ("operation", wanted.operations),
            ("effort", wanted.efforts),
            ("session", wanted.sessions),
            ("run", wanted.runs),
        )
        if values
    ]
    if wanted.models:
        values = params.put(list(wanted.models), "text[]")
        conditions.append(f"(model = ANY({values}) OR provider || '/' || model = ANY({values}))")
    conditions.extend(
        f"labels ->> {params.put(key, 'text')} = {params.put(value, 'text')}" for key, value in wanted.labels
    )
    return "".join(f" AND {condition}" for condition in conditions)


def sessions_sql(params: Params, subject: str, parts: Parts, wanted: Filter) -> str:
    """Rows of sessions of a range."""
    owner, matches = within(params, subject), matching(params, wanted)
    columns = ", ".join(("{at} AS at", "subject", *_KINDS, "session"))
    arms = [
        f"SELECT {columns.format(at='bucket')} FROM usage_sessions WHERE {owner} AND {_in(params, 'bucket', span)}{matches}"  # noqa: S608, E501
        for span in _quarters(parts)
    ]
    arms.extend(
        f"SELECT {columns.format(at='occurred_at')} FROM usage_events "  # noqa: S608
        f"WHERE {owner} AND session <> '' AND {_in(params, 'occurred_at', edge)}{matches}"
        for edge in parts.events
    )
    return " UNION ALL ".join(arms)


def kinds_sql(params: Params, subject: str, parts: Parts, wanted: Filter) -> str:
    """Rows of further kinds of use of a range."""
    owner, matches = within(params, subject), matching(params, wanted)
    arms = []
    if spans := _quarters(parts):
        columns = ", ".join(("bucket AS at", "subject", *_KINDS, "kind", "quantity"))
        arms.append(f"SELECT {columns} FROM {_during(params, 'usage_kind_rollups', spans)} AND {owner}{matches}")  # noqa: S608
    # What only events tell is there where a question is answered by them alone.
    told = () if arms else _FROM_EVENTS
    columns = ", ".join(
        ("occurred_at AS at", "subject", *_KINDS, "e.key AS kind", "e.value::numeric AS quantity", *told)
    )
    arms.extend(
        f"SELECT {columns} FROM usage_events, jsonb_each_text(extra) AS e "  # noqa: S608
        f"WHERE {owner} AND extra IS NOT NULL AND {_in(params, 'occurred_at', edge)}{matches}"
        for edge in parts.events
    )
    return " UNION ALL ".join(arms)


async def costs_of(connection: asyncpg.Connection, subject: str, span: Span) -> dict[str, int]:
    """What was spent in a range, in nanos by currency."""
    parts = await _parts(connection, subject, span, ())
    return (await _totals(connection, subject, parts, NO_FILTER)).costs


async def answer(pool: asyncpg.Pool, question: Question, counts: SessionCounts) -> Page:
    """The page that a question asks for, and the whole range's totals, in one snapshot."""
    steps = steps_of(question)
    async with snapshot(pool) as connection:
        if question.from_events:
            await retention.require_events(connection, question.span.start)
            parts = whole = Parts((), (), (), (question.span,))
        else:
            parts = await _parts(connection, question.subject, question.span, steps.starts)
            # The whole has no borders inside, so it is read in larger pieces.
            whole = await _parts(connection, question.subject, question.span, ())
        totals = await _totals(connection, question.subject, whole, question.wanted)
        if question.count_sessions:
            if question.wanted == NO_FILTER and not question.from_events:
                fold = await _fold(connection, question.subject, question.span)
                (totals.sessions,) = await counts.count(connection, question.subject, (question.span,), fold)
            else:
                totals.sessions = await _count_sessions(connection, question.subject, parts, question.wanted)
        if not question.group_by:
            groups = [Group((), totals)] if totals.operations else []
            return Page(groups, totals, more=False)
        groups = await _groups(connection, question, parts, steps)
        more = len(groups) > question.page_size
        del groups[question.page_size :]
        if groups and question.count_sessions:
            await _add_sessions(connection, question, parts, steps, groups)
        if groups and totals.extra:
            await _add_kinds(connection, question, parts, steps, groups)
    return Page(groups, totals, more)


async def _parts(connection: asyncpg.Connection, subject: str, span: Span, borders: Sequence[Any]) -> Parts:
    parts = parts_of(span, await _fold(connection, subject, span), borders)
    if parts.events:
        await retention.require_events(connection, min(part.start for part in parts.events))
    return parts


async def _fold(connection: asyncpg.Connection, subject: str, span: Span) -> Fold:
    return await folding.read(connection, subjects.parse(subject).org, span.start, span.end)


async def _totals(connection: asyncpg.Connection, subject: str, parts: Parts, wanted: Filter) -> Totals:
    params = Params()
    facts = facts_sql(params, subject, parts, by_subject=False, wanted=wanted)
    rows = await connection.fetch(f"SELECT currency, {SUM_ALL} FROM ({facts}) AS f GROUP BY currency", *params)  # noqa: S608
    totals = sum_totals((row[0], row[1:]) for row in rows)
    totals.extra = await _sum_kinds(connection, subject, parts, wanted)
    totals.check()
    return totals


async def _sum_kinds(connection: asyncpg.Connection, subject: str, parts: Parts, wanted: Filter) -> dict[str, int]:
    params = Params()
    facts = kinds_sql(params, subject, parts, wanted)
    rows = await connection.fetch(
        f"SELECT kind, sum(quantity) FROM ({facts}) AS f GROUP BY kind ORDER BY kind",  # noqa: S608
        *params,
    )
    return {kind: int(quantity) for kind, quantity in rows if quantity}


async def _count_sessions(connection: asyncpg.Connection, subject: str, parts: Parts, wanted: Filter) -> int:
    params = Params()
    facts = sessions_sql(params, subject, parts, wanted)
    # Counted by hashes: counting distinct values in an aggregate would sort them.
    count: int = await connection.fetchval(
        f"SELECT count(*) FROM (SELECT session FROM ({facts}) AS f GROUP BY session) AS s",  # noqa: S608
        *params,
    )
    return count


async def _groups(connection: asyncpg.Connection, question: Question, parts: Parts, steps: Steps) -> list[Group]:
    """One group more than the page has, where there is one."""
    params = Params()
    keys = _key_columns(params, question, steps)
    names = ", ".join(f"k{n}" for n in range(len(question.group_by)))
    facts = _facts(params, question, parts)
    after = f"WHERE ({names}) > ({_values(params, question.after)})" if question.after else ""
    limit = params.put(question.page_size + 1, "bigint")
    source = _series(params, question, steps) if question.fill_zeros else "summed"
    rows = await connection.fetch(
        f"""
        WITH keyed AS (SELECT {keys}, currency, {_SUM_NAMES} FROM ({facts}) AS f),
        summed AS MATERIALIZED (SELECT {names}, currency, {SUM_ALL} FROM keyed GROUP BY {names}, currency),
        page AS (SELECT DISTINCT {names} FROM {source} {after} ORDER BY {names} LIMIT {limit})
        SELECT {names}, currency, {_SUM_NAMES} FROM page LEFT JOIN summed USING ({names}) ORDER BY {names}
        """,  # noqa: S608 - of constants
        *params,
    )
    width = len(question.group_by)
    by_keys: dict[tuple[str, ...], Totals] = {}
    for row in rows:
        totals = by_keys.setdefault(tuple(row[:width]), Totals())
        if row[width] is not None:
            totals.add(row[width], row[width + 1 :])
    return [Group(group_keys, totals) for group_keys, totals in by_keys.items()]


def _series(params: Params, question: Question, steps: Steps) -> str:
    """Every time of the range with every other key that there is."""
    keys = [(f"k{n}", one in TIMES) for n, one in enumerate(question.group_by)]
    (time,) = (key for key, is_time in keys if is_time)
    others = ", ".join(key for key, is_time in keys if not is_time)
    labels = params.put(steps.labels, "text[]")
    series = f'(SELECT label COLLATE "C" AS {time} FROM unnest({labels}) AS label) AS times'  # noqa: S608 - of constants
    return f"{series} CROSS JOIN (SELECT DISTINCT {others} FROM summed) AS others" if others else series  # noqa: S608


async def _add_sessions(
    connection: asyncpg.Connection, question: Question, parts: Parts, steps: Steps, groups: list[Group]
) -> None:
    params = Params()
    keys = _key_columns(params, question, steps)
    names = ", ".join(f"k{n}" for n in range(len(question.group_by)))
    if question.from_events:
        columns = ", ".join(("occurred_at AS at", "subject", *_KINDS, *_FROM_EVENTS))
        owner = f"{within(params, question.subject)} AND session <> ''"
        matches = matching(params, question.wanted)
        facts = (
            f"SELECT {columns} FROM usage_events WHERE {owner} AND {_in(params, 'occurred_at', question.span)}{matches}"  # noqa: S608
        )
    else:
        facts = sessions_sql(params, question.subject, parts, question.wanted)
    low, high = _values(params, groups[0].keys), _values(params, groups[-1].keys)
    rows = await connection.fetch(
        f"""
        SELECT {names}, count(DISTINCT named) FROM (SELECT {keys}, session AS named FROM ({facts}) AS f) AS keyed
        WHERE ({names}) >= ({low}) AND ({names}) <= ({high}) GROUP BY {names}
        """,  # noqa: S608 - of constants
        *params,
    )
    found = {tuple(row[:-1]): row[-1] for row in rows}
    for group in groups:
        group.totals.sessions = found.get(group.keys, 0)


async def _add_kinds(
    connection: asyncpg.Connection, question: Question, parts: Parts, steps: Steps, groups: list[Group]
) -> None:
    params = Params()
    keys = _key_columns(params, question, steps)
    names = ", ".join(f"k{n}" for n in range(len(question.group_by)))
    facts = kinds_sql(params, question.subject, parts, question.wanted)
    low, high = _values(params, groups[0].keys), _values(params, groups[-1].keys)
    rows = await connection.fetch(
        f"""
        SELECT {names}, kind, sum(quantity) FROM (SELECT {keys}, kind, quantity FROM ({facts}) AS f) AS keyed
        WHERE ({names}) >= ({low}) AND ({names}) <= ({high}) GROUP BY {names}, kind ORDER BY kind
        """,  # noqa: S608 - of constants
        *params,
    )
    by_keys = {group.keys: group.totals.extra for group in groups}
    for *group_keys, kind, quantity in rows:
        if quantity and tuple(group_keys) in by_keys:
            by_keys[tuple(group_keys)][kind] = int(quantity)


def _facts(params: Params, question: Question, parts: Parts) -> str:
    by_subject = not _BY_SUBJECT.isdisjoint(question.group_by)
    if not question.from_events:
        return facts_sql(params, question.subject, parts, by_subject=by_subject, wanted=question.wanted)
    owner, matches = within(params, question.subject), matching(params, question.wanted)
    return event_facts_sql(params, owner, question.span, matches).replace(
        "SELECT ", f"SELECT {', '.join(_FROM_EVENTS)}, ", 1
    )


def _quarters(parts: Parts) -> list[Span]:
    """All but the events' part, as few spans: sessions are kept by 15 minutes alone."""
    joined: list[Span] = []
    for span in sorted((*parts.days, *parts.hours, *parts.quarters)):
        if joined and joined[-1].end == span.start:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


def _during(params: Params, table: str, spans: Sequence[Span]) -> str:
    """The rows of a table of sums in some spans, and the condition that they are; more conditions may follow.

    In zones whose hours are no hours of UTC each day has a span of its own, hence the join: an index range a span.
    """
    if len(spans) == 1:
        return f"{table} WHERE {_in(params, 'bucket', spans[0])}"
    starts = params.put([span.start for span in spans], "timestamptz[]")
    ends = params.put([span.end for span in spans], "timestamptz[]")
    return f"unnest({starts}, {ends}) AS span (low, high) JOIN {table} ON bucket >= low AND bucket < high WHERE true"


def _in(params: Params, column: str, span: Span) -> str:
    return f"{column} >= {params.put(span.start, 'timestamptz')} AND {column} < {params.put(span.end, 'timestamptz')}"


def _values(params: Params, keys: Sequence[str]) -> str:
    return ", ".join(params.put(key, "text") for key in keys)


def _key_columns(params: Params, question: Question, steps: Steps) -> str:
    """Each key as a column in the collation that pages are sorted by. A day is found by search in its range's days."""
    columns = []
    for n, dimension in enumerate(question.group_by):
        if dimension in TIMES:
            labels, starts = params.put(steps.labels, "text[]"), params.put(steps.starts, "timestamptz[]")
            expression = f"({labels})[width_bucket(at, {starts})]"
        elif dimension is GroupBy.LABEL:
            expression = f"coalesce(labels ->> {params.put(question.label_key, 'text')}, '')"
        else:
            expression = _KEYS[dimension]
        columns.append(f'({expression}) COLLATE "C" AS k{n}')
    return ", ".join(columns)
