"""The inbox of Stripe's events: stored before they are acknowledged, processed after."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

NO_ORG = "-"
"""Where an event names no organisation."""

_PUT = """
INSERT INTO stripe_events
    (org, id, type, payload_hash, payload, livemode, payment_intent, recharge, object_id, received_at, due_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
ON CONFLICT (org, id) DO NOTHING
RETURNING 1
"""
_HASH = "SELECT payload_hash FROM stripe_events WHERE org = $1 AND id = $2"
_TAKE = """
UPDATE stripe_events e SET tries = e.tries + 1, due_at = clock_timestamp() + $2::interval * least(e.tries + 1, 60)
FROM (
    SELECT org, id FROM stripe_events WHERE done_at IS NULL AND parked_at IS NULL AND due_at <= clock_timestamp()
    ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
) due
WHERE e.org = due.org AND e.id = due.id
RETURNING e.org, e.id, e.type, e.livemode, e.payment_intent, e.recharge, e.object_id
"""
_DONE = """
UPDATE stripe_events SET done_at = clock_timestamp(), outcome = $3, payload = NULL
WHERE (org, id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""
_FAILED = """
UPDATE stripe_events
SET failures = failures + 1, outcome = $3, parked_at = CASE WHEN failures + 1 >= $4 THEN clock_timestamp() END
WHERE org = $1 AND id = $2 RETURNING parked_at IS NOT NULL
"""
_WAITING = "SELECT count(*) FROM stripe_events WHERE done_at IS NULL AND parked_at IS NULL"

_PAGE = """
SELECT org, id, type, $1, outcome, failures, received_at FROM stripe_events
WHERE (org, id) > ($2, $3) AND CASE $1
    WHEN 'PARKED' THEN parked_at IS NOT NULL
    WHEN 'WAITING' THEN parked_at IS NULL AND done_at IS NULL
    ELSE done_at IS NOT NULL END
ORDER BY org, id LIMIT $4
"""
_REQUEUE = """
UPDATE stripe_events SET parked_at = NULL, failures = 0, due_at = clock_timestamp()
WHERE parked_at IS NOT NULL AND ($1 = '' OR id = $1)
"""

FAILURES_MAX = 10
"""How often an event may fail for no foreseen reason before it is parked."""
_AGAIN_AFTER = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event to process.

    Attributes:
        recharge: The recharge, top-up or card setup that it names; None where it names none.
        object_id: Stripe's id of what it is about.
    """

    org: str
    id: str
    type: str
    livemode: bool
    payment_intent: str | None
    recharge: str | None
    object_id: str | None


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event as a person sees it; `state` is PARKED, WAITING or DONE."""

    org: str
    id: str
    type: str
    state: str
    outcome: str
    failures: int
    received_at: datetime


async def put(
    connection: asyncpg.Connection, row: EventRow, payload: bytes, payload_hash: bytes, now: datetime
) -> bool:
    """Stores an event; returns whether it is new."""
    new = await connection.fetchval(
        _PUT,
        row.org,
        row.id,
        row.type,
        payload_hash,
        payload,
        row.livemode,
        row.payment_intent,
        row.recharge,
        row.object_id,
        now,
    )
    return new is not None


async def hash_of(connection: asyncpg.Connection, org: str, event_id: str) -> bytes:
    """The hash that a stored event came with."""
    found: bytes = await connection.fetchval(_HASH, org, event_id)
    return found


async def take(connection: asyncpg.Connection, limit: int) -> list[EventRow]:
    """Events that are due. Each comes back, ever later, until it is done: whoever took it may have died."""
    return [EventRow(*row) for row in await connection.fetch(_TAKE, limit, _AGAIN_AFTER)]


async def done(connection: asyncpg.Connection, rows: Sequence[EventRow], outcome: str) -> None:
    """Ends events with what became of them, and lets their payloads go."""
    await connection.execute(_DONE, [row.org for row in rows], [row.id for row in rows], outcome)


async def failed(connection: asyncpg.Connection, row: EventRow, error: str) -> bool:
    """Counts a failure that nobody foresaw; returns whether the event is parked now: the audit lists it."""
    parked: bool = await connection.fetchval(_FAILED, row.org, row.id, error[:500], FAILURES_MAX)
    return parked


async def page(connection: asyncpg.Connection, state: str, after: tuple[str, str], limit: int) -> list[ListedEvent]:
    """Events of a state by (organisation, id), after the given one."""
    return [ListedEvent(*row) for row in await connection.fetch(_PAGE, state, *after, limit)]


async def requeue(connection: asyncpg.Connection, event_id: str) -> int:
    """Lets a parked event, or every one where none is named, be processed again; returns how many."""
    status: str = await connection.execute(_REQUEUE, event_id)
    return int(status.rpartition(" ")[2])


async def waiting(connection: asyncpg.Connection) -> int:
    """How many events are not processed yet."""
    count: int = await connection.fetchval(_WAITING)
    return count
