"""The SQL of spend by hour, of many subjects at once."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from services.metering.domain.periods import parts_of
from services.metering.domain.questions import Span
from services.metering.store import folding

# Hours are read folded; of the last one or two, and of late ones, the quarters of all descendants.
_HOURS: Final = """
SELECT scope, currency, bucket AS hour, sum(cost_nanos) AS cost_nanos
FROM usage_scopes
WHERE org = $1 AND scope = ANY($2::text[]) AND hours = 1 AND currency <> '' AND bucket >= $3 AND bucket < $4
GROUP BY scope, currency, bucket
"""
_QUARTERS: Final = """
SELECT s.scope, r.currency, date_bin('1 hour', r.bucket, 'epoch'::timestamptz) AS hour, sum(r.cost_nanos) AS cost_nanos
FROM usage_rollups r JOIN unnest($2::text[]) AS s (scope)
  ON r.subject = s.scope COLLATE "C"
  OR (r.subject >= s.scope || '/' COLLATE "C" AND r.subject < s.scope || '0' COLLATE "C")
WHERE r.org = $1 AND r.currency <> '' AND r.bucket >= $3 AND r.bucket < $4
GROUP BY s.scope, r.currency, hour
"""

Spent = dict[tuple[str, str], dict[datetime, int]]
"""Nanos by (subject, currency) and start of the hour in UTC; hours without spend are left out."""


async def spend(connection: asyncpg.Connection, org: str, subjects: Sequence[str], span: Span) -> Spent:
    """The spend of subjects of one organisation, descendants included, by hour of UTC.

    Args:
        connection: In a snapshot.
        org: The organisation's bare id.
        subjects: Their full names.
        span: Whole hours.
    """
    fold = await folding.read(connection, org, span.start, span.end)
    parts = parts_of(span, fold)
    found: Spent = {}
    for statement, spans in ((_HOURS, (*parts.days, *parts.hours)), (_QUARTERS, parts.quarters)):
        for start, end in spans:
            for scope, currency, hour, nanos in await connection.fetch(statement, org, list(subjects), start, end):
                hours = found.setdefault((scope, currency), {})
                hours[hour] = hours.get(hour, 0) + int(nanos)
    return found
