"""The SQL of the audit: whether keys, rollups and sessions say what the events say, and what is still to be told.

Of hours that are sealed (see `store.sealing`) it reads what their events said when they were read last, and compares
that with the rollups; the events of all other hours it reads. `store.deep_audit` reads all of them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

import asyncpg

from services.metering.domain.usage import PAST_MAX
from services.metering.store import audit_folds, sealing
from services.metering.store.columns import SUMS
from services.metering.store.recording import TOPIC

SHOWN_MAX: Final = 10
"""The most offenders named."""
TOTALS_MAX: Final = 20_000
"""The most totals in one answer, one an organisation and currency."""
_SKEW: Final = timedelta(hours=1)
"""More than an event may lie before the time at which it is recorded."""
END: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""After everything."""

_ROLLUP_KEY: Final = "org, bucket, subject, provider, model, operation, currency"
_KIND_KEY: Final = "org, bucket, subject, provider, model, operation, kind"
_SESSION_KEY: Final = "org, bucket, subject, provider, model, operation, session"

_STATE: Final = """
SELECT greatest(f.folded, r.events_from) AS folded, r.events_from, clock_timestamp() AS at
FROM usage_fold f JOIN usage_retention r ON r.org = f.org WHERE f.org = '-'
"""
# By the primary key from organisation to organisation, however many events each has.
_ORGS: Final = """
WITH RECURSIVE having_events AS (
    (SELECT org FROM usage_events ORDER BY org LIMIT 1)
    UNION ALL
    SELECT (SELECT e.org FROM usage_events e WHERE e.org > o.org ORDER BY e.org LIMIT 1)
    FROM having_events o WHERE o.org IS NOT NULL
), having_sums AS (
    (SELECT org FROM usage_rollups ORDER BY org LIMIT 1)
    UNION ALL
    SELECT (SELECT r.org FROM usage_rollups r WHERE r.org > o.org ORDER BY r.org LIMIT 1)
    FROM having_sums o WHERE o.org IS NOT NULL
)
SELECT org FROM having_events WHERE org IS NOT NULL UNION SELECT org FROM having_sums WHERE org IS NOT NULL ORDER BY org
"""
_STALE: Final = """
SELECT org, hour FROM usage_late WHERE ($1::text IS NULL OR org = $1) AND hour >= $2 AND hour < $3
UNION
SELECT org, hour FROM usage_unsealed WHERE ($1::text IS NULL OR org = $1) AND hour >= $2 AND hour < $3
ORDER BY org, hour
"""

_EVENTS_WITHOUT_KEY: Final = f"""
SELECT count(*) OVER () AS offenders, p.org || '/' || e.source || '/' || e.id AS name
FROM {sealing.events_of("occurred_at, seq, source, id", "recorded_at > $4")}
LEFT JOIN usage_keys k ON k.org = p.org AND k.key = usage_key_of(e.source, e.id)
WHERE (k.seq, k.occurred_at) IS DISTINCT FROM (e.seq, e.occurred_at) LIMIT $5
"""  # noqa: S608 - of constants
_KEYS_WITHOUT_EVENT: Final = """
SELECT count(*) OVER () AS offenders, k.org || '/' || encode(k.key, 'hex') AS name
FROM usage_keys k LEFT JOIN usage_events e ON e.org = k.org AND e.seq = k.seq AND e.occurred_at = k.occurred_at
WHERE e.org IS NULL AND k.recorded_at > $2 AND k.occurred_at >= $3 AND ($1::text IS NULL OR k.org = $1) LIMIT $4
"""
_EVENT_COLUMNS: Final = (
    f"{sealing.QUARTER_OF} AS bucket, {sealing.KEYS}, currency, session, extra, {', '.join(SUMS[:7])}, failed, "
    "cost_nanos"
)


def _kept_of(columns: str, table: str) -> str:
    """Columns of the sums of `PIECES`."""
    return f"""SELECT {columns} FROM {sealing.PIECES} CROSS JOIN LATERAL (
        SELECT * FROM {table} WHERE org = p.org AND bucket >= p.low AND bucket < p.high OFFSET 0
    ) AS r"""  # noqa: S608 - of constants


ROLLUPS_DIFFER: Final = f"""
WITH summed AS (
    SELECT p.org, bucket, {sealing.KEYS}, currency, ARRAY[{", ".join(sealing.EVENT_SUMS)}] AS sums
    FROM {sealing.events_of(_EVENT_COLUMNS)} GROUP BY p.org, bucket, {sealing.KEYS}, currency
), kept AS (
    {_kept_of(f"r.{_ROLLUP_KEY.replace(', ', ', r.')}, ARRAY[{', '.join(SUMS)}] AS sums", "usage_rollups")}
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', subject, bucket, provider, model, operation, currency) AS name
FROM summed FULL JOIN kept USING ({_ROLLUP_KEY})
WHERE summed.sums IS DISTINCT FROM kept.sums LIMIT $4
"""  # noqa: S608 - of constants
KINDS_DIFFER: Final = f"""
WITH summed AS (
    SELECT p.org, bucket, {sealing.KEYS}, one.key AS kind, sum(one.value::numeric) AS quantity
    FROM {sealing.events_of(_EVENT_COLUMNS, "extra IS NOT NULL")}, jsonb_each_text(e.extra) AS one
    GROUP BY p.org, bucket, {sealing.KEYS}, one.key
), kept AS (
    {_kept_of(f"r.{_KIND_KEY.replace(', ', ', r.')}, r.quantity", "usage_kind_rollups")}
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', subject, bucket, provider, model, operation, kind) AS name
FROM summed FULL JOIN kept USING ({_KIND_KEY})
WHERE summed.quantity IS DISTINCT FROM kept.quantity LIMIT $4
"""  # noqa: S608 - of constants
SESSIONS_DIFFER: Final = f"""
WITH named AS (
    SELECT DISTINCT p.org, bucket, {sealing.KEYS}, session, true AS here
    FROM {sealing.events_of(_EVENT_COLUMNS, "session <> ''")}
), kept AS (
    {_kept_of(f"r.{_SESSION_KEY.replace(', ', ', r.')}, true AS here", "usage_sessions")}
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', subject, bucket, provider, model, operation, session) AS name
FROM named FULL JOIN kept USING ({_SESSION_KEY})
WHERE named.here IS NULL OR kept.here IS NULL LIMIT $4
"""  # noqa: S608 - of constants

_HOUR_OF: Final = "date_bin('1 hour', bucket, 'epoch'::timestamptz)"
# Sums of 15 minutes against the seals of their hours, without the hours that are not current.
_SEALED_ROLLUPS_DIFFER: Final = f"""
WITH stale AS (SELECT * FROM unnest($3::text[], $4::timestamptz[]) AS s (org, hour)), kept AS (
    SELECT org, {_HOUR_OF} AS hour, currency, sum({sealing.ROLLUP_HASH}) AS rollups FROM usage_rollups
    WHERE bucket < $2 AND ($1::text IS NULL OR org = $1) GROUP BY 1, 2, 3
), sealed AS (
    SELECT org, hour, currency, rollups FROM usage_seals WHERE hour < $2 AND ($1::text IS NULL OR org = $1)
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', 'orgs/' || org, hour, 'sealed', currency) AS name
FROM kept FULL JOIN sealed USING (org, hour, currency) LEFT JOIN stale USING (org, hour)
WHERE kept.rollups IS DISTINCT FROM sealed.rollups AND stale.org IS NULL LIMIT $5
"""  # noqa: S608 - of constants


def _sealed_lists_differ(table: str, hashed: str, column: str) -> str:
    return f"""
        WITH stale AS (SELECT * FROM unnest($3::text[], $4::timestamptz[]) AS s (org, hour)), kept AS (
            SELECT org, {_HOUR_OF} AS hour, sum({hashed}) AS hashes FROM {table}
            WHERE bucket < $2 AND ($1::text IS NULL OR org = $1) GROUP BY 1, 2
        ), sealed AS (
            SELECT org, hour, {column} AS hashes FROM usage_seal_lists
            WHERE hour < $2 AND ($1::text IS NULL OR org = $1)
        )
        SELECT count(*) OVER () AS offenders, concat_ws(' ', 'orgs/' || org, hour, 'sealed') AS name
        FROM kept FULL JOIN sealed USING (org, hour) LEFT JOIN stale USING (org, hour)
        WHERE coalesce(kept.hashes, 0) IS DISTINCT FROM coalesce(sealed.hashes, 0) AND stale.org IS NULL LIMIT $5
    """  # noqa: S608 - of constants


_SEALED_SESSIONS_DIFFER: Final = _sealed_lists_differ("usage_sessions", sealing.SESSION_HASH, "sessions")
_SEALED_KINDS_DIFFER: Final = _sealed_lists_differ("usage_kind_rollups", sealing.KIND_HASH, "kinds")
_PARKED: Final = """
SELECT count(*) OVER () AS offenders, concat_ws('/', o.org, e.source, e.id) || ': ' || coalesce(last_error, '') AS name
FROM outbox o
LEFT JOIN usage_events e ON e.org = o.org AND e.occurred_at = o.event_times[1] AND e.seq = o.event_seqs[1]
WHERE topic = $3 AND parked_at IS NOT NULL AND ($1::text IS NULL OR o.org = $1) ORDER BY o.org, o.id LIMIT $2
"""
# A correction is no further event, and the price of an UNRATED event takes it to its currency: as budget counts them.
_TOTALS: Final = f"""
WITH stale AS (SELECT * FROM unnest($6::text[], $7::timestamptz[]) AS s (org, hour)), said AS (
    SELECT p.org, e.currency, {sealing.TOTALS} FROM {sealing.events_of("currency, operations, cost_nanos")}
    GROUP BY p.org, e.currency
    UNION ALL
    SELECT org, currency, sum(events), sum(operations), sum(cost_nanos), sum(credit_nanos)
    FROM usage_seals LEFT JOIN stale USING (org, hour)
    WHERE hour < $5 AND ($4::text IS NULL OR org = $4) AND stale.hour IS NULL GROUP BY org, currency
)
SELECT org, currency, sum(operations), sum(cost_nanos), sum(credit_nanos), sum(events)
FROM said GROUP BY org, currency ORDER BY org, currency LIMIT $8
"""  # noqa: S608 - of constants
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

    def __add__(self, other: Self) -> "Offenders":
        """Both together."""
        return Offenders(self.count + other.count, [*self.names, *other.names][:SHOWN_MAX])


@dataclass(frozen=True, slots=True)
class OrgTotal:
    """Sums of one organisation's events in one currency; '' is UNRATED.

    Attributes:
        events: A correction is no further one.
        cost_nanos: With corrections.
        credit_nanos: What corrections have taken away.
        rows: How many rows say that.
    """

    org: str
    currency: str
    events: int
    cost_nanos: int
    credit_nanos: int
    rows: int


class Pieces(NamedTuple):
    """Ranges of time of organisations, as columns: those that are read from events."""

    orgs: list[str]
    lows: list[datetime]
    highs: list[datetime]


class Snapshot:
    """The books at one instant.

    Args:
        connection: Inside a REPEATABLE READ, READ ONLY transaction.
        org: Only this organisation's bare id; None for all.

    Attributes:
        at: The instant.
        events_from: From when on there are events; those before were dropped.
        folded: Hours before it are sealed, but not those in `stale`, each of an organisation.
        orgs: Whose books these are.
    """

    def __init__(self, connection: asyncpg.Connection, org: str | None) -> None:
        self.connection = connection
        self.org = org

    async def open(self) -> Self:
        """Looks up what is sealed; the rest is read from events."""
        self.folded, self.events_from, self.at = await self.connection.fetchrow(_STATE)
        folded: datetime = self.folded
        stale = await self.connection.fetch(_STALE, self.org, self.events_from, folded)
        self._stale: tuple[list[str], list[datetime]] = ([row[0] for row in stale], [row[1] for row in stale])
        self.stale = {(row[0], row[1]) for row in stale}
        orgs = [self.org] if self.org else [row[0] for row in await self.connection.fetch(_ORGS)]
        self.orgs = orgs
        ends = [hour + timedelta(hours=1) for hour in self._stale[1]]
        self._pieces = Pieces(
            [*orgs, *self._stale[0]], [*[folded] * len(orgs), *self._stale[1]], [*[END] * len(orgs), *ends]
        )
        return self

    async def events_without_key(self, pieces: Pieces | None = None) -> Offenders:
        """Events that would be taken again if they were sent again; of hours that are not sealed, or of `pieces`."""
        return await self.offenders(_EVENTS_WITHOUT_KEY, *(pieces or self._pieces), self.at - PAST_MAX, SHOWN_MAX)

    async def keys_without_event(self) -> Offenders:
        """Keys of calls that were answered as recorded and are not there, recorded since hours are not sealed."""
        since = max(self.at - PAST_MAX, min(self._pieces.lows, default=self.folded) - _SKEW)
        return await self.offenders(_KEYS_WITHOUT_EVENT, self.org, since, self.events_from, SHOWN_MAX)

    async def rollups_that_differ(self) -> Offenders:
        """Rollups that are not their events' sum, are missing, or have no events."""
        return await self._compare(ROLLUPS_DIFFER, _SEALED_ROLLUPS_DIFFER)

    async def kinds_that_differ(self) -> Offenders:
        """Sums of further kinds of use that are not their events'."""
        return await self._compare(KINDS_DIFFER, _SEALED_KINDS_DIFFER)

    async def sessions_that_differ(self) -> Offenders:
        """Sessions that are named by events alone, or by none."""
        return await self._compare(SESSIONS_DIFFER, _SEALED_SESSIONS_DIFFER)

    async def folds_that_differ(self) -> list[tuple[str, str, Offenders]]:
        """Sums of hours, days and subtrees, and sessions, that are not what they were folded from, by check."""
        since = (self.at - PAST_MAX).replace(hour=0, minute=0, second=0, microsecond=0)  # no day is compared in part
        return [
            (name, what, await self.offenders(statement, self.org, since, SHOWN_MAX))
            for name, what, statement in audit_folds.CHECKS
        ]

    async def parked(self) -> Offenders:
        """Usage that the budget service refused again and again."""
        return await self.offenders(_PARKED, self.org, SHOWN_MAX, TOPIC)

    async def totals(self) -> list[OrgTotal]:
        """Sums of events, those that were dropped included; one more than `TOTALS_MAX` where there are more."""
        rows = await self.connection.fetch(_TOTALS, *self._pieces, self.org, self.folded, *self._stale, TOTALS_MAX + 1)
        return [OrgTotal(row[0], row[1], *(int(value) for value in row[2:])) for row in rows]

    async def pending(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """What is not delivered, parked or not, by organisation and currency: events and corrections, cost, credit."""
        rows = await self.connection.fetch(_PENDING, self.org, TOPIC)
        return {(row[0], row[1]): (row[2], int(row[3]), int(row[4])) for row in rows}

    async def _compare(self, of_events: str, of_seals: str) -> Offenders:
        return await self.offenders(of_events, *self._pieces, SHOWN_MAX) + await self.offenders(
            of_seals, self.org, self.folded, *self._stale, SHOWN_MAX
        )

    async def offenders(self, sql: str, *params: object) -> Offenders:
        """What a statement finds that does not hold."""
        rows = await self.connection.fetch(sql, *params)
        return Offenders(rows[0]["offenders"] if rows else 0, [row["name"] for row in rows])


@asynccontextmanager
async def snapshot(pool: asyncpg.Pool, org: str | None) -> AsyncIterator[Snapshot]:
    """The books as they are now, however long the audit takes."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL work_mem = '64MB'")
        yield await Snapshot(connection, org).open()
