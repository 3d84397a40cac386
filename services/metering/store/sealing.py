"""The SQL that seals hours: keeps what their events say in sums, so that an audit need not read the events again.

Folding marks the hours that it has summed, first or again; sealing takes the marks. An hour is current in the seals
where no mark is left of it, neither here nor in `usage_late` (see `folding`): a transaction that comes late to an hour
commits its mark with its events.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from services.kit.database import is_certain_rollback
from services.metering.domain.periods import HOUR
from services.metering.store.columns import SUMS

AT_ONCE: Final = 50
"""The most hours of organisations sealed in one transaction."""
TIMEOUT_S: Final = 600
"""The longest that a transaction may take: an hour may hold millions of events."""

_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtext('seal usage'))"
# Of hours whose events were dropped the seals are all there is.
_MARKED: Final = """
SELECT DISTINCT u.org, u.hour FROM usage_unsealed u JOIN usage_retention r ON r.org = '-' AND u.hour >= r.events_from
ORDER BY u.org, u.hour LIMIT $1
"""
_DROP: Final = tuple(
    f"DELETE FROM {table} t USING unnest($1::text[], $2::timestamptz[]) AS h (org, hour) "  # noqa: S608 - of constants
    "WHERE t.org = h.org AND t.hour = h.hour"
    for table in ("usage_unsealed", "usage_seals", "usage_seal_lists")
)

TOTALS: Final = """count(*) AS events, sum(operations) AS operations, coalesce(sum(cost_nanos), 0) AS cost_nanos,
    coalesce(-sum(cost_nanos) FILTER (WHERE cost_nanos < 0), 0) AS credit_nanos"""
"""What the totals of events are made of; `events` are rows."""
QUARTER_OF: Final = "date_bin('15 minutes', occurred_at, 'epoch'::timestamptz)"
KEYS: Final = "subject, provider, model, operation"
EVENT_SUMS: Final = (
    *(f"sum({column})" for column in SUMS[:7]),
    "coalesce(sum(operations) FILTER (WHERE failed), 0)",
    "coalesce(sum(cost_nanos), 0)",
)
"""`SUMS` of events."""


def hash_of(*columns: str) -> str:
    """The hash of a row, whose sum over rows is the same in any order; numbers must be given as numeric."""
    return f"hash_record_extended(ROW({', '.join(columns)}), 0)"


ROLLUP_HASH: Final = hash_of("bucket", KEYS, "currency", *(f"{column}::numeric" for column in SUMS))
SESSION_HASH: Final = hash_of("bucket", KEYS, "session")
KIND_HASH: Final = hash_of("bucket", KEYS, "kind", "quantity::numeric")

PIECES: Final = "unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS p (org, low, high)"


def events_of(columns: str, where: str = "true") -> str:
    """Columns of the events of `PIECES`, piece by piece: by the primary key, however many there are elsewhere."""
    return f"""{PIECES} CROSS JOIN LATERAL (
        SELECT {columns} FROM usage_events
        WHERE org = p.org AND occurred_at >= p.low AND occurred_at < p.high AND {where} OFFSET 0
    ) AS e"""  # noqa: S608 - of constants


_EVENT_COLUMNS: Final = f"{QUARTER_OF} AS bucket, {KEYS}, currency, {', '.join(SUMS[:7])}, failed, cost_nanos"
SEALS_OF_EVENTS: Final = f"""
WITH summed AS (
    SELECT p.org, p.low AS hour, bucket, {KEYS}, currency, count(*) AS events,
           coalesce(-sum(cost_nanos) FILTER (WHERE cost_nanos < 0), 0) AS credit_nanos,
           {", ".join(f"{value} AS {column}" for column, value in zip(SUMS, EVENT_SUMS, strict=True))}
    FROM {events_of(_EVENT_COLUMNS)}
    GROUP BY p.org, p.low, bucket, {KEYS}, currency
)
SELECT org, hour, currency, sum(events) AS events, sum(operations) AS operations,
       sum(cost_nanos) AS cost_nanos, sum(credit_nanos) AS credit_nanos, sum({ROLLUP_HASH}) AS rollups
FROM summed GROUP BY org, hour, currency
"""  # noqa: S608 - of constants
"""The seals of hours, of their events; the hours are `PIECES`."""
LISTS_OF_EVENTS: Final = f"""
SELECT p.org, p.low AS hour, coalesce(s.hashes, 0) AS sessions, coalesce(k.hashes, 0) AS kinds
FROM {PIECES}
LEFT JOIN LATERAL (
    SELECT sum({SESSION_HASH}) AS hashes FROM (
        SELECT DISTINCT {QUARTER_OF} AS bucket, {KEYS}, session FROM usage_events
        WHERE org = p.org AND occurred_at >= p.low AND occurred_at < p.high AND session <> ''
    ) AS named
) AS s ON true
LEFT JOIN LATERAL (
    SELECT sum({KIND_HASH}) AS hashes FROM (
        SELECT {QUARTER_OF} AS bucket, {KEYS}, one.key AS kind, sum(one.value::numeric) AS quantity
        FROM usage_events, jsonb_each_text(extra) AS one
        WHERE org = p.org AND occurred_at >= p.low AND occurred_at < p.high AND extra IS NOT NULL
        GROUP BY bucket, {KEYS}, one.key
    ) AS summed
) AS k ON true
"""  # noqa: S608 - of constants
"""The seals of hours' lists, of their events; the hours are `PIECES`."""

_SEAL_COLUMNS: Final = "org, hour, currency, events, operations, cost_nanos, credit_nanos, rollups"
_SEAL: Final = f"INSERT INTO usage_seals ({_SEAL_COLUMNS}) {SEALS_OF_EVENTS}"
_SEAL_LISTS: Final = f"INSERT INTO usage_seal_lists (org, hour, sessions, kinds) {LISTS_OF_EVENTS}"
_MARK: Final = """
INSERT INTO usage_unsealed (org, hour) SELECT * FROM unnest($1::text[], $2::timestamptz[]) ON CONFLICT DO NOTHING
"""


async def mark(connection: asyncpg.Connection, orgs: Sequence[str], hours: Sequence[datetime]) -> None:
    """Says, in the transaction that folds hours, that they are to be sealed."""
    await connection.execute(_MARK, orgs, hours)


async def seal(pool: asyncpg.Pool) -> bool:
    """Seals the next hours that are marked; returns whether there may be more.

    Safe with several replicas: one seals at a time, and who finds another at it goes away.
    """
    try:
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            if not await connection.fetchval(_LOCK):
                return False
            marked = await connection.fetch(_MARKED, AT_ONCE)
            if marked:
                await connection.execute(
                    f"SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL work_mem = '32MB'; "
                    f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'"
                )
                await _seal(connection, [row["org"] for row in marked], [row["hour"] for row in marked])
            return len(marked) == AT_ONCE
    except asyncpg.PostgresError as error:
        if is_certain_rollback(error):
            return False  # another replica was faster
        raise


async def _seal(connection: asyncpg.Connection, orgs: Sequence[str], hours: Sequence[datetime]) -> None:
    # The marks first: of two who read the same ones, one fails here.
    for statement in _DROP:
        await connection.execute(statement, orgs, hours)
    ends = [hour + HOUR for hour in hours]
    for statement in (_SEAL, _SEAL_LISTS):
        await connection.execute(statement, orgs, hours, ends, timeout=TIMEOUT_S)
