"""The SQL of the audit that reads every event again, by parts of time, each in a snapshot of its own."""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import asyncpg

from services.metering.store import audit, sealing
from services.metering.store.audit import SHOWN_MAX, Offenders, Pieces, Snapshot

SLICE: Final = timedelta(hours=6)
"""How much time is looked at in one snapshot."""
PART_S: Final = 8.0
"""After how many seconds a part ends; it has at least one slice."""
_HOUR: Final = timedelta(hours=1)
_NEXT: Final = """
SELECT least(
    (SELECT min(first) FROM unnest($1::text[]) AS o (org) CROSS JOIN LATERAL (
        SELECT min(occurred_at) AS first FROM usage_events WHERE org = o.org AND occurred_at >= $2) AS e),
    (SELECT min(first) FROM unnest($1::text[]) AS o (org) CROSS JOIN LATERAL (
        SELECT min(bucket) AS first FROM usage_rollups WHERE org = o.org AND bucket >= $2) AS r)
)
"""
_KEYS_WITHOUT_EVENT: Final = """
SELECT count(*) OVER () AS offenders, k.org || '/' || encode(k.key, 'hex') AS name
FROM usage_keys k LEFT JOIN usage_events e ON e.org = k.org AND e.seq = k.seq AND e.occurred_at = k.occurred_at
WHERE e.org IS NULL AND k.recorded_at >= $2 AND k.recorded_at < $3 AND k.occurred_at >= $4
  AND ($1::text IS NULL OR k.org = $1) LIMIT $5
"""
_SEALS_DIFFER: Final = f"""
WITH said AS ({sealing.SEALS_OF_EVENTS}),
sealed AS (
    SELECT s.* FROM {sealing.PIECES} JOIN usage_seals s ON s.org = p.org AND s.hour = p.low
)
SELECT count(*) OVER () AS offenders, concat_ws(' ', 'orgs/' || org, hour, 'sealed', currency) AS name
FROM said FULL JOIN sealed USING (org, hour, currency)
WHERE (said.events, said.operations, said.cost_nanos, said.credit_nanos, said.rollups)
    IS DISTINCT FROM (sealed.events, sealed.operations, sealed.cost_nanos, sealed.credit_nanos, sealed.rollups)
LIMIT $4
"""  # noqa: S608 - of constants
_LISTS_DIFFER: Final = f"""
WITH said AS ({sealing.LISTS_OF_EVENTS})
SELECT count(*) OVER () AS offenders, concat_ws(' ', 'orgs/' || s.org, s.hour, 'sealed') AS name
FROM said JOIN usage_seal_lists s USING (org, hour)
WHERE (said.sessions, said.kinds) IS DISTINCT FROM (s.sessions, s.kinds) LIMIT $4
"""  # noqa: S608 - of constants


class Part(NamedTuple):
    """What a part of the audit found: offenders by check, from and to which time, and whether it was the last."""

    found: dict[str, Offenders]
    start: datetime
    end: datetime
    is_last: bool


async def part(pool: asyncpg.Pool, org: str | None, after: datetime) -> Part:
    """Reads the events from `after` on for some seconds; go on after the part's end."""
    began_s = time.monotonic()
    found: dict[str, Offenders] = {}
    low, start = after, None
    while True:
        async with audit.snapshot(pool, org) as books:
            first = await books.connection.fetchval(_NEXT, books.orgs, max(low, books.events_from))
            keys_from, low = low, low if first is None else first.replace(minute=0, second=0, microsecond=0)
            start = start or low
            for name, check in _checks(books, low, keys_from, is_last=first is None).items():
                found[name] = found.get(name, Offenders(0, [])) + await check()
            if first is None:
                return Part(found, start, books.at, is_last=True)
        low += SLICE
        if time.monotonic() - began_s >= PART_S:
            return Part(found, start, low, is_last=False)


def _checks(
    books: Snapshot, low: datetime, keys_from: datetime, *, is_last: bool
) -> dict[str, Callable[[], Awaitable[Offenders]]]:
    """The checks of a slice, and of the keys since the one before; after the last slice there are keys alone."""
    high = low + SLICE
    pieces = Pieces(books.orgs, [low] * len(books.orgs), [high] * len(books.orgs))
    hours = [low + _HOUR * n for n in range(SLICE // _HOUR)]
    current = [
        (org, hour) for org in books.orgs for hour in hours if hour < books.folded and (org, hour) not in books.stale
    ]
    sealed = Pieces([org for org, _ in current], [hour for _, hour in current], [hour + _HOUR for _, hour in current])

    async def seals() -> Offenders:
        return await books.offenders(_SEALS_DIFFER, *sealed, SHOWN_MAX) + await books.offenders(
            _LISTS_DIFFER, *sealed, SHOWN_MAX
        )

    async def keys() -> Offenders:
        until = audit.END if is_last else high
        return await books.offenders(_KEYS_WITHOUT_EVENT, books.org, keys_from, until, books.events_from, SHOWN_MAX)

    if is_last:
        return {"I2.keys_have_events": keys}
    return {
        "I2.events_have_keys": lambda: books.events_without_key(pieces),
        "I2.keys_have_events": keys,
        "I2.rollups_equal_events": lambda: books.offenders(audit.ROLLUPS_DIFFER, *pieces, SHOWN_MAX),
        "I2.kinds_equal_events": lambda: books.offenders(audit.KINDS_DIFFER, *pieces, SHOWN_MAX),
        "I2.sessions_equal_events": lambda: books.offenders(audit.SESSIONS_DIFFER, *pieces, SHOWN_MAX),
        "I2.seals_equal_events": seals,
    }
