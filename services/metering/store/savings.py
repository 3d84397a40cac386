"""The SQL of savings: an organisation's routing rules, and calls as they are said now."""

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg

from services.kit.errors import conflict
from services.kit.rating import Tokens
from services.metering.domain.kinds import extra_of
from services.metering.domain.questions import Span
from services.metering.domain.savings import Call, Rule
from services.metering.store.reports import Params, within

CHUNK: Final = 5_000
"""How many calls are read at a time."""
NEVER_SET: Final = 0
"""The revision of rules that were never set."""

_FIND: Final = "SELECT revision, rules, updated_at, updated_by FROM routing_rules WHERE org = $1"
_LOCKED: Final = "SELECT revision FROM routing_rules WHERE org = $1 FOR UPDATE"
_SET: Final = """
INSERT INTO routing_rules AS r (org, revision, rules, updated_at, updated_by) VALUES ($1, 1, $2, $3, $4)
ON CONFLICT (org) DO UPDATE SET revision = r.revision + 1, rules = excluded.rules, updated_at = excluded.updated_at,
    updated_by = excluded.updated_by
RETURNING revision
"""
# What was said last of an event counts; the rows that adjust sums for it are no calls.
_CALLS: Final = """
SELECT e.occurred_at, e.provider, e.model, e.operation, e.effort, e.labels, e.service_tier, e.failed, e.prompt_hash,
       coalesce(c.tokens, ARRAY[e.input_tokens, e.cache_read_tokens, e.cache_write_tokens, e.output_tokens,
           e.reasoning_tokens]) AS tokens,
       coalesce(c.requests_now, e.requests) AS requests,
       CASE WHEN c.n IS NULL THEN e.extra ELSE c.extra_now END AS extra,
       CASE WHEN c.n IS NULL THEN e.cost_nanos ELSE c.cost_now END AS cost_nanos,
       CASE WHEN c.n IS NULL THEN e.currency ELSE c.currency_now END AS currency
FROM usage_events e LEFT JOIN (
    SELECT DISTINCT ON (source, id) source, id, n, tokens, requests AS requests_now, extra AS extra_now,
           cost_nanos AS cost_now, currency AS currency_now
    FROM usage_corrections
    WHERE org = {org} AND occurred_at >= {start} AND occurred_at < {end} ORDER BY source, id, n DESC
) AS c ON c.source = e.source AND c.id = e.id
WHERE {owner} AND e.occurred_at >= {start} AND e.occurred_at < {end} AND e.corrects_source IS NULL
ORDER BY e.occurred_at, e.seq
"""


class StoredRules(NamedTuple):
    """Routing rules, and which revision they are; 0 where none were ever set."""

    revision: int
    rules: list[Rule]
    updated_at: datetime | None = None
    updated_by: str = ""


async def rules_of(source: asyncpg.Pool | asyncpg.Connection, org: str) -> StoredRules:
    """The rules of an organisation, by its bare id."""
    row = await source.fetchrow(_FIND, org)
    if row is None:
        return StoredRules(NEVER_SET, [])
    return StoredRules(row["revision"], _rules_in(row["rules"]), row["updated_at"], row["updated_by"])


async def set_rules(
    pool: asyncpg.Pool, org: str, rules: list[Rule], *, expected: int | None, now: datetime, by: str
) -> StoredRules:
    """Replaces the rules of an organisation.

    Raises:
        PurseError: RULES_CHANGED where they have not the revision that is expected.
    """
    async with pool.acquire() as connection, connection.transaction():
        found = await connection.fetchval(_LOCKED, org)
        if expected not in (None, found or NEVER_SET):
            raise _changed(found or NEVER_SET)
        revision: int = await connection.fetchval(_SET, org, _rules_out(rules), now, by)
        if expected is not None and revision != expected + 1:
            raise _changed(revision - 1)  # the first rules, set by two at once
    return StoredRules(revision, rules, now, by)


async def calls_of(connection: asyncpg.Connection, org: str, subject: str, span: Span) -> AsyncIterator[list[Call]]:
    """The calls of a subject and its descendants as they are said now, the oldest first, some at a time."""
    params = Params()
    names = {
        "owner": within(params, subject),
        "org": params.put(org, "text"),
        "start": params.put(span.start, "timestamptz"),
        "end": params.put(span.end, "timestamptz"),
    }
    cursor = await connection.cursor(_CALLS.format(**names), *params)
    while rows := await cursor.fetch(CHUNK):
        yield [_call(row) for row in rows]


def _call(row: asyncpg.Record) -> Call:
    at, provider, model, operation, effort, labels, tier, failed, prompt_hash, tokens, requests, extra, cost, code = row
    read, cached, written, made, reasoned = tokens
    return Call(
        at, provider, model, operation, effort, {} if labels == "{}" else json.loads(labels), tier, failed, prompt_hash,
        Tokens(read, cached, written, made, reasoned, requests, extra_of(extra)), cost, code,
    )  # fmt: skip


def _rules_out(rules: list[Rule]) -> str:
    return json.dumps([rule._asdict() for rule in rules], ensure_ascii=False)


def _rules_in(content: str) -> list[Rule]:
    stored: list[dict[str, Any]] = json.loads(content)
    return [
        Rule(
            one["id"],
            tuple(one["operations"]),
            tuple(one["efforts"]),
            tuple((key, value) for key, value in one["labels"]),
            tuple(one["from_models"]),
            tuple(one["candidates"]),
            one["batchable"],
        )
        for one in stored
    ]


def _changed(revision: int) -> Exception:
    return conflict(
        "RULES_CHANGED",
        f"etag: the rules have the etag {revision} by now; read them and set them again",
        field="etag",
        etag=str(revision),
    )
