"""The SQL of the audit: whether keys, rollups and sessions say what the events say, and what is still to be told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from services.metering.domain.usage import PAST_MAX
from services.metering.store.recording import TOPIC

SHOWN_MAX: Final = 10
"""The most offenders named."""
TOTALS_MAX: Final = 20_000
"""The most totals in one answer, one an organisation and currency."""

_BUCKET_OF: Final = "date_bin('15 minutes', occurred_at, 'epoch'::timestamptz)"
_SUMS: Final = (
    "sum(input_tokens)",
    "sum(cache_read_tokens)",
    "sum(cache_write_tokens)",
    "sum(output_tokens)",
    "sum(reasoning_tokens)",
    "sum(requests)",
)
_ROLLUP_KEY: Final = "org, bucket, subject, provider, model, operation, currency"
_KIND_KEY: Final = "org, bucket, subject, provider, model, operation, kind"
_SESSION_KEY: Final = "org, bucket, subject, provider, model, operation, session"

_EVENTS_WITHOUT_KEY: Final = """
SELECT count(*) OVER () AS offenders, e.org || '/' || e.source || '/' || e.id AS name
FROM usage_events e LEFT JOIN usage_keys k ON k.org = e.org AND k.seq = e.seq AND k.occurred_at = e.occurred_at
WHERE k.key IS DISTINCT FROM usage_key_of(e.source, e.id) AND e.recorded_at > $2
  AND ($1::text IS NULL OR e.org = $1) LIMIT $3
"""
_KEYS_WITHOUT_EVENT: Final = """
SELECT count(*) OVER () AS offenders, k.org || '/' || encode(k.key, 'hex') AS name
FROM usage_keys k LEFT JOIN usage_events e ON e.org = k.org AND e.seq = k.seq AND e.occurred_at = k.occurred_at
WHERE e.org IS NULL AND k.recorded_at > $2 AND ($1::text IS NULL OR k.org = $1) LIMIT $3
"""
_ROLLUPS_DIFFER: Final = f"""
WITH summed AS (
    SELECT org, {_BUCKET_OF} AS bucket, subject, provider, model, operation, currency,
           ARRAY[{", ".join(_SUMS)}, sum(operations), coalesce(sum(operations) FILTER (WHERE failed), 0),
               coalesce(sum(cost_nanos), 0)] AS sums
    FROM usage_events WHERE $1::text IS NULL OR org = $1 GROUP BY {_ROLLUP_KEY}
), kept AS (
    SELECT {_ROLLUP_KEY}, ARRAY[input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
           reasoning_tokens, requests, operations, errors, cost_nanos] AS sums
    FROM usage_rollups WHERE $1::text IS NULL OR org = $1
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', subject, bucket, provider, model, operation, currency) AS name
FROM summed FULL JOIN kept USING ({_ROLLUP_KEY})
WHERE summed.sums IS DISTINCT FROM kept.sums LIMIT $2
"""  # noqa: S608 - of constants
_KINDS_DIFFER: Final = f"""
WITH summed AS (
    SELECT org, {_BUCKET_OF} AS bucket, subject, provider, model, operation, e.key AS kind,
           sum(e.value::numeric) AS quantity
    FROM usage_events, jsonb_each_text(extra) AS e
    WHERE extra IS NOT NULL AND ($1::text IS NULL OR org = $1) GROUP BY {_KIND_KEY}
), kept AS (
    SELECT {_KIND_KEY}, quantity FROM usage_kind_rollups WHERE $1::text IS NULL OR org = $1
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', subject, bucket, provider, model, operation, kind) AS name
FROM summed FULL JOIN kept USING ({_KIND_KEY})
WHERE summed.quantity IS DISTINCT FROM kept.quantity LIMIT $2
"""  # noqa: S608 - of constants
_SESSIONS_DIFFER: Final = f"""
WITH named AS (
    SELECT DISTINCT org, {_BUCKET_OF} AS bucket, subject, provider, model, operation, session, true AS here
    FROM usage_events WHERE session <> '' AND ($1::text IS NULL OR org = $1)
), kept AS (
    SELECT {_SESSION_KEY}, true AS here FROM usage_sessions WHERE $1::text IS NULL OR org = $1
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', subject, bucket, provider, model, operation, session) AS name
FROM named FULL JOIN kept USING ({_SESSION_KEY})
WHERE named.here IS NULL OR kept.here IS NULL LIMIT $2
"""  # noqa: S608 - of constants
_PARKED: Final = """
SELECT count(*) OVER () AS offenders, concat_ws('/', o.org, e.source, e.id) || ': ' || coalesce(last_error, '') AS name
FROM outbox o
LEFT JOIN usage_events e ON e.org = o.org AND e.occurred_at = o.event_times[1] AND e.seq = o.event_seqs[1]
WHERE topic = $3 AND parked_at IS NOT NULL AND ($1::text IS NULL OR o.org = $1) ORDER BY o.org, o.id LIMIT $2
"""
_COUNTS: Final = """
SELECT (SELECT count(*) FROM usage_events WHERE $1::text IS NULL OR org = $1) AS events,
       (SELECT count(*) FROM usage_keys WHERE $1::text IS NULL OR org = $1) AS keys,
       (SELECT count(*) FROM usage_rollups WHERE $1::text IS NULL OR org = $1) AS rollups,
       (SELECT count(*) FROM usage_sessions WHERE $1::text IS NULL OR org = $1) AS sessions
"""
# A correction is no further event, and the price of an UNRATED event takes it to its currency: as budget counts them.
_TOTALS: Final = """
SELECT org, currency, sum(operations) AS events, coalesce(sum(cost_nanos), 0) AS cost_nanos,
       coalesce(-sum(cost_nanos) FILTER (WHERE cost_nanos < 0), 0) AS credit_nanos
FROM usage_events WHERE $1::text IS NULL OR org = $1 GROUP BY org, currency ORDER BY org, currency LIMIT $2
"""
# A pointer to an event that is not there counts as one in no currency, so that it is astray.
_PENDING: Final = """
SELECT o.org, coalesce(e.currency, '?') AS currency, count(*) AS events, coalesce(sum(e.cost_nanos), 0) AS cost_nanos,
       coalesce(-sum(e.cost_nanos) FILTER (WHERE e.cost_nanos < 0), 0) AS credit_nanos
FROM outbox o CROSS JOIN unnest(o.event_times, o.event_seqs) AS p (occurred_at, seq)
LEFT JOIN usage_events e ON e.org = o.org AND e.occurred_at = p.occurred_at AND e.seq = p.seq
WHERE o.topic = $2 AND ($1::text IS NULL OR o.org = $1) GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Offenders:
    """What does not hold: how many rows, and the first of them by name."""

    count: int
    names: list[str]


@dataclass(frozen=True, slots=True)
class OrgTotal:
    """Sums of one organisation's events in one currency; '' is UNRATED.

    Attributes:
        cost_nanos: With corrections.
        credit_nanos: What corrections have taken away.
    """

    org: str
    currency: str
    events: int
    cost_nanos: int
    credit_nanos: int


class Snapshot:
    """The books at one instant.

    Args:
        connection: Inside a REPEATABLE READ, READ ONLY transaction.
        org: Only this organisation's bare id; None for all.
        at: The instant.
    """

    def __init__(self, connection: asyncpg.Connection, org: str | None, at: datetime) -> None:
        self._connection = connection
        self._org = org
        self.at = at

    async def events_without_key(self) -> Offenders:
        """Events that would be taken again if they were sent again."""
        return await self._offenders(_EVENTS_WITHOUT_KEY, self._org, self.at - PAST_MAX, SHOWN_MAX)

    async def keys_without_event(self) -> Offenders:
        """Keys of calls that were answered as recorded and are not there."""
        return await self._offenders(_KEYS_WITHOUT_EVENT, self._org, self.at - PAST_MAX, SHOWN_MAX)

    async def rollups_that_differ(self) -> Offenders:
        """Rollups that are not their events' sum, are missing, or have no events."""
        return await self._offenders(_ROLLUPS_DIFFER, self._org, SHOWN_MAX)

    async def kinds_that_differ(self) -> Offenders:
        """Sums of further kinds of use that are not their events'."""
        return await self._offenders(_KINDS_DIFFER, self._org, SHOWN_MAX)

    async def sessions_that_differ(self) -> Offenders:
        """Sessions that are named by events alone, or by none."""
        return await self._offenders(_SESSIONS_DIFFER, self._org, SHOWN_MAX)

    async def parked(self) -> Offenders:
        """Usage that the budget service refused again and again."""
        return await self._offenders(_PARKED, self._org, SHOWN_MAX, TOPIC)

    async def counts(self) -> dict[str, int]:
        """How many events, keys, rollups and sessions there are."""
        return dict(await self._connection.fetchrow(_COUNTS, self._org))

    async def totals(self) -> list[OrgTotal]:
        """Sums of events; one more than `TOTALS_MAX` where there are more."""
        rows = await self._connection.fetch(_TOTALS, self._org, TOTALS_MAX + 1)
        return [OrgTotal(row[0], row[1], *(int(value) for value in row[2:])) for row in rows]

    async def pending(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """What is not delivered, parked or not, by organisation and currency: events and corrections, cost, credit."""
        rows = await self._connection.fetch(_PENDING, self._org, TOPIC)
        return {(row[0], row[1]): (row[2], int(row[3]), int(row[4])) for row in rows}

    async def _offenders(self, sql: str, *params: object) -> Offenders:
        rows = await self._connection.fetch(sql, *params)
        return Offenders(rows[0]["offenders"] if rows else 0, [row["name"] for row in rows])


@asynccontextmanager
async def snapshot(pool: asyncpg.Pool, org: str | None) -> AsyncIterator[Snapshot]:
    """The books as they are now, however long the audit takes."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        yield Snapshot(connection, org, await connection.fetchval("SELECT clock_timestamp()"))
