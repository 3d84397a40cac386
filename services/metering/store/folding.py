"""The SQL that folds sums of 15 minutes into hours and days, exactly, while usage arrives.

An hour closes in three steps: `closing` is written, so that whoever begins to write usage of the hour from then on
leaves a mark; every transaction that may have begun before is waited for; then the hour is summed. A mark of another
transaction, and with it the need to sum again, stays until a fold has seen that transaction's usage.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import asyncpg

from services.kit.database import is_certain_rollback
from services.metering.domain.periods import Fold
from services.metering.store import sealing
from services.metering.store.columns import SUMS

SETTLE: Final = timedelta(minutes=5)
"""How long after its end an hour begins to close: most of what is late has come by then."""
AT_ONCE: Final = timedelta(days=1)
"""The most time folded in one transaction."""
LATE_MAX: Final = 200
"""The most late hours folded again in one transaction."""

_STATE: Final = """
SELECT closing, folded, barrier IS NOT NULL AS is_fenced,
       coalesce(pg_snapshot_xmin(pg_current_snapshot()) >= barrier, false) AS is_clear,
       date_bin('1 hour', clock_timestamp() - $1::interval, 'epoch'::timestamptz) AS due
FROM usage_fold WHERE org = '-' FOR UPDATE SKIP LOCKED
"""
_FENCE: Final = "UPDATE usage_fold SET barrier = pg_snapshot_xmax(pg_current_snapshot()) WHERE org = '-'"
_CLOSE: Final = "UPDATE usage_fold SET closing = $1, barrier = NULL WHERE org = '-'"
_DONE: Final = "UPDATE usage_fold SET folded = $1 WHERE org = '-'"
_FIRST: Final = "SELECT date_bin('1 hour', min(bucket), 'epoch'::timestamptz) FROM usage_rollups WHERE bucket >= $1"
_LATE: Final = "SELECT DISTINCT org, hour FROM usage_late WHERE hour < $1 ORDER BY org, hour LIMIT $2"
_DUE: Final = """
SELECT DISTINCT org, date_bin('1 hour', bucket, 'epoch'::timestamptz) AS hour FROM usage_rollups
WHERE bucket >= $1 AND bucket < $2
"""
_OVER: Final = """
SELECT DISTINCT org, date_bin('24 hours', bucket, 'epoch'::timestamptz) AS day FROM usage_periods
WHERE hours = 1 AND bucket >= $1 AND bucket < $2
"""
_UNMARK: Final = """
DELETE FROM usage_late l USING unnest($1::text[], $2::timestamptz[]) AS f (org, hour)
WHERE l.org = f.org AND l.hour = f.hour
"""

_KEYS: Final = "provider, model, operation, currency"
_SUM_NAMES: Final = ", ".join(SUMS)
_SUMMED: Final = ", ".join(f"sum(s.{column})" for column in SUMS)
_FOLDED: Final = "unnest($1::text[], $2::timestamptz[]) AS f (org, bucket)"
_DROP: Final = tuple(
    f"DELETE FROM {table} t USING {_FOLDED} WHERE t.org = f.org AND t.hours = {{hours}} AND t.bucket = f.bucket"  # noqa: S608 - of constants
    for table in ("usage_periods", "usage_scopes")
)
_SUM_HOURS: Final = f"""
INSERT INTO usage_periods (org, hours, bucket, subject, {_KEYS}, {_SUM_NAMES})
SELECT s.org, 1, f.bucket, s.subject, {_KEYS}, {_SUMMED}
FROM {_FOLDED}
JOIN usage_rollups s ON s.org = f.org AND s.bucket >= f.bucket AND s.bucket < f.bucket + interval '1 hour'
GROUP BY s.org, f.bucket, s.subject, {_KEYS}
"""  # noqa: S608 - of constants
_SUM_DAYS: Final = f"""
INSERT INTO usage_periods (org, hours, bucket, subject, {_KEYS}, {_SUM_NAMES})
SELECT s.org, 24, f.bucket, s.subject, {_KEYS}, {_SUMMED}
FROM {_FOLDED}
JOIN usage_periods s
  ON s.org = f.org AND s.hours = 1 AND s.bucket >= f.bucket AND s.bucket < f.bucket + interval '24 hours'
GROUP BY s.org, f.bucket, s.subject, {_KEYS}
"""  # noqa: S608 - of constants
# A name's ancestors and itself are its first 1, 2, 3, … pairs.
_PAIRS: Final = """
    SELECT p.parts, generate_series(1, cardinality(p.parts) / 2) AS depth
    FROM (SELECT string_to_array(s.subject, '/') AS parts) AS p
"""
_SUM_SCOPES: Final = f"""
INSERT INTO usage_scopes (org, scope, hours, bucket, {_KEYS}, {_SUM_NAMES})
SELECT s.org, array_to_string(n.parts[1:2 * n.depth], '/') AS scope, {{hours}}, f.bucket, {_KEYS}, {_SUMMED}
FROM {_FOLDED}
JOIN usage_periods s ON s.org = f.org AND s.hours = {{hours}} AND s.bucket = f.bucket
CROSS JOIN LATERAL (
{_PAIRS}
) AS n
GROUP BY s.org, scope, f.bucket, {_KEYS}
"""  # noqa: S608 - of constants
# Only added to: no later word takes a session from an hour.
_NAME_SESSIONS: Final = f"""
INSERT INTO usage_scope_sessions (org, scope, bucket, session)
SELECT DISTINCT s.org, array_to_string(n.parts[1:2 * n.depth], '/') AS scope, f.bucket, s.session
FROM {_FOLDED}
JOIN usage_sessions s
  ON s.org = f.org AND s.bucket >= f.bucket AND s.bucket < f.bucket + interval '1 hour'
CROSS JOIN LATERAL (
{_PAIRS}
) AS n
ON CONFLICT DO NOTHING
"""  # noqa: S608 - of constants
_CHANGED: Final = """
INSERT INTO usage_session_changes AS c (org, changes) SELECT DISTINCT org, 1 FROM unnest($1::text[]) AS org
ON CONFLICT (org) DO UPDATE SET changes = c.changes + 1
"""
_REFOLDED: Final = """
INSERT INTO usage_refolds AS r (org, refolds) SELECT DISTINCT org, 1 FROM unnest($1::text[]) AS org
ON CONFLICT (org) DO UPDATE SET refolds = r.refolds + 1
"""
_READ: Final = """
SELECT f.folded, coalesce((
    SELECT array_agg(DISTINCT l.hour) FROM usage_late l
    WHERE l.org = $1 AND l.hour > $2::timestamptz - interval '1 hour' AND l.hour < $3::timestamptz
), '{}') AS late, coalesce((SELECT changes FROM usage_session_changes WHERE org = $1), 0) AS changes
FROM usage_fold f WHERE f.org = '-'
"""


class _State(NamedTuple):
    closing: datetime
    folded: datetime
    is_fenced: bool
    is_clear: bool
    due: datetime


async def fold(pool: asyncpg.Pool) -> bool:
    """Does the next step of folding; returns whether there may be more to do at once.

    Safe with several replicas: one folds at a time, and who finds another at it goes away.
    """
    try:
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            # By index, an hour at a time: a join by the organisation alone would compare every hour with every row.
            await connection.execute(
                "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_hashjoin = off; "
                "SET LOCAL enable_mergejoin = off; SET LOCAL work_mem = '32MB'"
            )
            row = await connection.fetchrow(_STATE, SETTLE)
            return False if row is None else await _step(connection, _State(*row))
    except asyncpg.PostgresError as error:
        if is_certain_rollback(error):
            return False  # another replica was faster
        raise


async def read(connection: asyncpg.Connection, org: str, start: datetime, end: datetime) -> Fold:
    """What is folded of a range, in the caller's snapshot."""
    row = await connection.fetchrow(_READ, org, start, end)
    return Fold(row["folded"], frozenset(row["late"]), row["changes"])


async def _step(connection: asyncpg.Connection, state: _State) -> bool:
    more = await _fold_late(connection, state.folded)
    if state.folded < state.closing:
        if not state.is_fenced:
            await connection.execute(_FENCE)
            return True
        if state.is_clear:
            await _fold_due(connection, state)
            return True
        return more
    if state.due > state.closing:
        await connection.execute(_CLOSE, state.due)
        return True
    return more


async def _fold_due(connection: asyncpg.Connection, state: _State) -> None:
    first = await connection.fetchval(_FIRST, state.folded)
    through = state.closing if first is None else min(first + AT_ONCE, state.closing)
    rows = await connection.fetch(_DUE, first or through, through)
    await _sum(connection, [tuple(row) for row in rows], through, days_from=state.folded)
    await connection.execute(_DONE, through)


async def _fold_late(connection: asyncpg.Connection, folded: datetime) -> bool:
    rows = await connection.fetch(_LATE, folded, LATE_MAX)
    if rows:
        await _sum(connection, [tuple(row) for row in rows], folded, days_from=folded)
        await connection.execute(_REFOLDED, [row["org"] for row in rows])
    return len(rows) == LATE_MAX


async def _sum(
    connection: asyncpg.Connection, hours: Sequence[tuple[str, datetime]], folded: datetime, *, days_from: datetime
) -> None:
    """Sums hours anew, and the days that they belong to as far as those are over.

    A day that ends between `days_from` and `folded` is summed for every organisation with usage in it, though its last
    hours had none.
    """
    orgs, starts = [org for org, _ in hours], [hour for _, hour in hours]
    await connection.execute(_UNMARK, orgs, starts)
    await sealing.mark(connection, orgs, starts)
    for statement in _DROP:
        await connection.execute(statement.format(hours=1), orgs, starts)
    await connection.execute(_SUM_HOURS, orgs, starts)
    await connection.execute(_SUM_SCOPES.format(hours=1), orgs, starts)
    status: str = await connection.execute(_NAME_SESSIONS, orgs, starts)
    if status != "INSERT 0 0" and starts and min(starts) < days_from:
        await connection.execute(_CHANGED, orgs)
    days = {(org, _day_of(hour)) for org, hour in hours}
    if _day_of(days_from) < _day_of(folded):
        rows = await connection.fetch(_OVER, _day_of(days_from), _day_of(folded))
        days |= {(row["org"], row["day"]) for row in rows}
    over = sorted(day for day in days if day[1] < _day_of(folded))
    if not over:
        return
    orgs, starts = [org for org, _ in over], [day for _, day in over]
    for statement in _DROP:
        await connection.execute(statement.format(hours=24), orgs, starts)
    await connection.execute(_SUM_DAYS, orgs, starts)
    await connection.execute(_SUM_SCOPES.format(hours=24), orgs, starts)


def _day_of(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)
