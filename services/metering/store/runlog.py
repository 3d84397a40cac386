"""The SQL of the run log: events or runs, a page at a time, and what is usual for their subjects."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from services.metering.domain.questions import Filter, Span
from services.metering.domain.unusual import HISTORY_DAYS, History
from services.metering.store import retention
from services.metering.store.reports import Params, matching, within

MODELS_MAX: Final = 10
"""The most models named of one run."""

_SORTS: Final = {"TIME": "0::numeric", "COST": "cost", "TOKENS": "tokens::numeric"}
_COUNTS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class LogQuestion:
    """A page of the run log.

    Attributes:
        subject: Whose.
        span: Of when.
        runs: Whether rows are runs instead of calls.
        order: TIME, COST or TOKENS.
        wanted: Which usage.
        page_size: The most rows.
        after: Where the page before ended: sort value, time and name of its last row; None on the first page.
    """

    subject: str
    span: Span
    runs: bool
    order: str
    wanted: Filter
    page_size: int
    after: tuple[int, datetime, str] | None


@dataclass(frozen=True, slots=True)
class LogRow:
    """A call, or a run's calls together. Amounts are nanos by currency."""

    subject: str
    source: str
    id: str
    first_at: datetime
    last_at: datetime
    run: str
    session: str
    models: list[str]
    operation: str
    calls: int
    errors: int
    counts: tuple[int, ...]
    extra: dict[str, int]
    costs: dict[str, int]
    place: tuple[int, datetime, str]

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.counts[0] + self.counts[3]


def page_sql(params: Params, question: LogQuestion) -> str:
    """The rows of a page, one more than it has."""
    owner, matches = within(params, question.subject), matching(params, question.wanted)
    start, end = params.put(question.span.start, "timestamptz"), params.put(question.span.end, "timestamptz")
    chosen = f"FROM usage_events WHERE {owner} AND occurred_at >= {start} AND occurred_at < {end}{matches}"
    if question.runs:
        rows = _runs_sql(chosen)
    else:
        rows = f"""
            SELECT subject, source, id, occurred_at AS first_at, occurred_at AS last_at, run, session,
                   ARRAY[provider || '/' || model] AS models, operation, 1 AS calls,
                   CASE WHEN failed THEN 1 ELSE 0 END AS errors, {", ".join(_COUNTS)},
                   CASE WHEN currency = '' THEN '{{}}' ELSE jsonb_build_object(currency, cost_nanos::text) END AS costs,
                   CASE WHEN extra IS NULL THEN '[]' ELSE jsonb_build_array(extra) END AS extras,
                   coalesce(cost_nanos, 0)::numeric AS cost, input_tokens + output_tokens AS tokens,
                   lpad(seq::text, 20, '0') AS name
            FROM ({_calls_sql(params, question.subject, chosen)}) AS calls"""  # noqa: S608 - of constants
    after = ""
    if question.after is not None:
        value, at, name = question.after
        values = f"{params.put(value, 'numeric')}, {params.put(at, 'timestamptz')}, {params.put(name, 'text')}"
        after = f"WHERE (sort, last_at, name) < ({values})"
    limit = params.put(question.page_size + 1, "bigint")
    return f"""
        SELECT * FROM (SELECT *, {_SORTS[question.order]} AS sort FROM ({rows}) AS r) AS sorted
        {after} ORDER BY sort DESC, last_at DESC, name DESC LIMIT {limit}
    """  # noqa: S608 - of constants


def _calls_sql(params: Params, subject: str, chosen: str) -> str:
    """Calls, each as it was last said to be: rows that adjust others are no calls, and their sums are in the others."""
    org = params.put(subject.split("/")[1], "text")
    counts = ", ".join(f"coalesce(c_tokens[{n}], {count}) AS {count}" for n, count in enumerate(_COUNTS, 1))
    given = ", ".join(
        f"CASE WHEN c_tokens IS NULL THEN {column} ELSE c_{column} END AS {column}"
        for column in ("cost_nanos", "currency", "extra")
    )
    return f"""
        SELECT subject, source, id, occurred_at, run, session, provider, model, operation, failed, seq,
               {counts}, {given}
        FROM (SELECT * {chosen} AND corrects_source IS NULL) AS events
        LEFT JOIN (
            SELECT DISTINCT ON (source, id) source AS c_source, id AS c_id, tokens AS c_tokens,
                   cost_nanos AS c_cost_nanos, currency AS c_currency, extra AS c_extra
            FROM usage_corrections WHERE org = {org} ORDER BY source, id, n DESC
        ) AS corrected ON c_source = source AND c_id = id"""  # noqa: S608 - of constants


def _runs_sql(chosen: str) -> str:
    sums = ", ".join(f"sum({count}) AS {count}" for count in _COUNTS)
    return f"""
        SELECT subject, '' AS source, '' AS id, min(first_at) AS first_at, max(last_at) AS last_at, run,
               (array_agg(session ORDER BY last_at DESC))[1] AS session,
               (array_agg(DISTINCT model))[1:{MODELS_MAX}] AS models,
               (array_agg(operation ORDER BY last_at DESC))[1] AS operation, sum(calls) AS calls, sum(errors) AS errors,
               {sums}, coalesce(jsonb_agg(by_model.extras) FILTER (WHERE by_model.extras IS NOT NULL), '[]') AS extras,
               coalesce(jsonb_object_agg(currency, summed::text) FILTER (WHERE currency <> ''), '{{}}') AS costs,
               max(summed) AS cost, sum(input_tokens) + sum(output_tokens) AS tokens,
               (subject || '/' || run) COLLATE "C" AS name
        FROM (
            SELECT subject, run, currency, min(occurred_at) AS first_at, max(occurred_at) AS last_at,
                   max(provider || '/' || model) AS model, (array_agg(session ORDER BY occurred_at DESC))[1] AS session,
                   (array_agg(operation ORDER BY occurred_at DESC))[1] AS operation,
                   sum(operations) AS calls, sum(CASE WHEN failed THEN operations ELSE 0 END) AS errors,
                   {sums}, jsonb_agg(extra) FILTER (WHERE extra IS NOT NULL) AS extras,
                   sum(sum(coalesce(cost_nanos, 0))) OVER (PARTITION BY subject, run, currency) AS summed
            {chosen} AND run <> '' GROUP BY subject, run, currency, provider, model
        ) AS by_model
        GROUP BY subject, run"""  # noqa: S608 - of constants


async def page(connection: asyncpg.Connection, question: LogQuestion) -> tuple[list[LogRow], bool]:
    """The rows of a page, and whether there are more.

    Raises:
        PurseError: EVENTS_DROPPED: the range begins before there are events.
    """
    await retention.require_events(connection, question.span.start)
    params = Params()
    rows = await connection.fetch(page_sql(params, question), *params)
    return [_row(row) for row in rows[: question.page_size]], len(rows) > question.page_size


async def histories(connection: asyncpg.Connection, question: LogQuestion, subjects: list[str]) -> dict[str, History]:
    """What is usual for subjects: of their rows up to the range's end, at least a week of them."""
    params = Params()
    org = subjects[0].split("/")[1]
    owner = f"org = {params.put(org, 'text')} AND subject = ANY({params.put(subjects, 'text[]')})"
    start = min(question.span.start, question.span.end - timedelta(days=HISTORY_DAYS))
    since, until = params.put(start, "timestamptz"), params.put(question.span.end, "timestamptz")
    chosen = f"FROM usage_events WHERE {owner} AND occurred_at >= {since} AND occurred_at < {until}"
    if question.runs:
        tokens = (
            f"SELECT subject, sum(input_tokens + output_tokens) AS tokens {chosen} AND run <> '' GROUP BY subject, run"
        )
    else:
        calls = _calls_sql(params, question.subject, chosen)
        tokens = f"SELECT subject, input_tokens + output_tokens AS tokens FROM ({calls}) AS calls"  # noqa: S608
    rows = await connection.fetch(
        f"""
        WITH rows AS MATERIALIZED ({tokens}),
        medians AS (
            SELECT subject, percentile_cont(0.5) WITHIN GROUP (ORDER BY tokens) AS median FROM rows GROUP BY subject
        )
        SELECT subject, count(*), min(median),
               percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(tokens - median)) AS mad
        FROM rows JOIN medians USING (subject) GROUP BY subject
        """,  # noqa: S608 - of constants
        *params,
    )
    return {row[0]: History(row[1], float(row[2]), float(row[3])) for row in rows}


def _row(row: Any) -> LogRow:
    return LogRow(
        row["subject"],
        row["source"],
        row["id"],
        row["first_at"],
        row["last_at"],
        row["run"],
        row["session"],
        list(row["models"]),
        row["operation"],
        int(row["calls"]),
        int(row["errors"]),
        tuple(int(row[count]) for count in _COUNTS),
        _sum_extras(json.loads(row["extras"])),
        {code: int(nanos) for code, nanos in json.loads(row["costs"]).items()},
        (int(row["sort"]), row["last_at"], row["name"]),
    )


def _sum_extras(extras: Any) -> dict[str, int]:
    """Further kinds of use, of objects in lists however deep."""
    sums: dict[str, int] = {}
    waiting = [extras]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(one)
        else:
            for kind, count in one.items():
                sums[kind] = sums.get(kind, 0) + count
    return {kind: count for kind, count in sorted(sums.items()) if count}
