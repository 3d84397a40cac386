"""Lanes, one a channel of a subscription, and their deliveries. Whoever changes a delivery holds its lane's row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget.notify.domain.lanes import Channel, Lane, State

LaneKey = tuple[str, int, int]
"""org, the subscription's number, channel."""

_COLUMNS: Final = """org, subscription_no, channel, last_number, waiting, due_us, woken_us, held_by, held_until_us,
    sent_us, failing_since_us, off_us, off_reason"""
_MAKE: Final = """
INSERT INTO delivery_lanes (org, subscription_no, channel)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS n (org, no, channel) ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING
"""
_LOCK: Final = f"""
SELECT {", ".join(f"l.{name.strip()}" for name in _COLUMNS.split(","))} FROM delivery_lanes l
JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS n (org, no, channel)
    ON l.org = n.org AND l.subscription_no = n.no AND l.channel = n.channel
ORDER BY 1, 2, 3 FOR UPDATE OF l
"""  # noqa: S608 - of constants
_WRITE: Final = """
UPDATE delivery_lanes l SET last_number = n.last_number, waiting = n.waiting, due_us = n.due_us, woken_us = n.woken_us,
    held_by = n.held_by, held_until_us = n.held_until_us, sent_us = n.sent_us, failing_since_us = n.failing_since_us,
    off_us = n.off_us, off_reason = n.off_reason
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[])
    AS n (org, no, channel, last_number, waiting, due_us, woken_us, held_by, held_until_us, sent_us, failing_since_us,
    off_us, off_reason)
WHERE l.org = n.org AND l.subscription_no = n.no AND l.channel = n.channel
"""
_ADD: Final = """
INSERT INTO deliveries (org, subscription_no, channel, number, message_id, key, event, type, subject, payload,
    created_us, next_try_us)
SELECT org, no, channel, number, 'msg_' || replace(gen_random_uuid()::text, '-', ''), key, event, type, subject,
    payload, $10, $10
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::text[], $8::text[],
    $9::bytea[]) AS n (org, no, channel, number, key, event, type, subject, payload)
"""
_PENDING: Final = """
SELECT number, message_id, tries, payload, created_us FROM deliveries
WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND state = 1 ORDER BY number LIMIT $4
"""
_OF_NUMBERS: Final = """
SELECT number, message_id, tries, first_try_us FROM deliveries
WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND state = 1 AND number = ANY($4::bigint[]) ORDER BY number
"""
_MOVE: Final = """
UPDATE deliveries d SET state = n.state, tries = n.tries, last_error = n.error,
    first_try_us = coalesce(d.first_try_us, $8), next_try_us = coalesce(n.next_us, d.next_try_us),
    closed_us = CASE WHEN n.state <> 1 THEN $8 END
FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $9::bigint[])
    AS n (number, state, tries, error, next_us)
WHERE d.org = $1 AND d.subscription_no = $2 AND d.channel = $3 AND d.number = n.number
"""
_KILL: Final = """
UPDATE deliveries SET state = 3, last_error = $4, closed_us = $5
WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND state = 1 AND created_us < $6
"""
_HEAD: Final = """
SELECT next_try_us FROM deliveries WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND state = 1
ORDER BY number LIMIT 1
"""
_SOON: Final = """
UPDATE deliveries SET next_try_us = $4
WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND state = 1 AND next_try_us > $4
"""
_REVIVE: Final = """
UPDATE deliveries SET state = 1, tries = 0, first_try_us = NULL, closed_us = NULL, next_try_us = $5
WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND state <> 1 AND number = ANY($4::bigint[])
"""
_DEAD: Final = """
SELECT number FROM deliveries WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND state = 3
ORDER BY number LIMIT $4
"""
_KNOWN: Final = """
SELECT count(*) FROM deliveries WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND number = ANY($4::bigint[])
"""
_LISTED: Final = """channel, number, message_id, event, type, subject, key, state, tries, last_error, created_us,
    first_try_us, next_try_us, closed_us"""
_LIST: Final = f"""
SELECT {_LISTED} FROM deliveries
WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND number < $4
ORDER BY number DESC LIMIT $5
"""  # noqa: S608 - of constants
_LIST_STATE: Final = f"""
SELECT {_LISTED} FROM deliveries
WHERE org = $1 AND subscription_no = $2 AND channel = $3 AND number < $4 AND state = $6
ORDER BY number DESC LIMIT $5
"""  # noqa: S608 - of constants


@dataclass(slots=True, frozen=True)
class NewDelivery:
    """An event for one lane, with its number there."""

    lane: LaneKey
    number: int
    key: str
    event: int
    type: str
    subject: str
    payload: bytes


@dataclass(slots=True, frozen=True)
class PendingRow:
    """A delivery to send."""

    number: int
    message_id: str
    tries: int
    payload: bytes
    created_us: int


@dataclass(slots=True, frozen=True)
class Moved:
    """What becomes of a delivery.

    Attributes:
        tries: How often it was tried now.
        next_try_us: PENDING: when it is tried again.
    """

    number: int
    state: State
    tries: int
    error: str
    next_try_us: int | None


@dataclass(slots=True, frozen=True)
class DeliveryRow:
    """A delivery as people see it."""

    channel: Channel
    number: int
    message_id: str
    event: int
    type: str
    subject: str
    key: str
    state: State
    tries: int
    last_error: str
    created_us: int
    first_try_us: int | None
    next_try_us: int
    closed_us: int | None


def _lane_of(row: asyncpg.Record) -> Lane:
    values = list(row)
    values[2] = Channel(values[2])
    return Lane(*values)


def _delivery_of(row: asyncpg.Record) -> DeliveryRow:
    values = list(row)
    values[0], values[7] = Channel(values[0]), State(values[7])
    return DeliveryRow(*values)


async def lock(connection: asyncpg.Connection, keys: Iterable[LaneKey], *, make: bool) -> dict[LaneKey, Lane]:
    """Locks lanes in one order; makes those that are missing, if asked."""
    columns = list(zip(*sorted(set(keys)), strict=True))
    if not columns:
        return {}
    if make:
        await connection.execute(_MAKE, *columns)
    lanes = [_lane_of(row) for row in await connection.fetch(_LOCK, *columns)]
    return {(one.org, one.no, int(one.channel)): one for one in lanes}


async def write(connection: asyncpg.Connection, lanes: Sequence[Lane]) -> None:
    """Writes what became of locked lanes."""
    if not lanes:
        return
    rows = [
        (
            one.org, one.no, int(one.channel), one.last_number, one.waiting, one.due_us, one.woken_us, one.held_by,
            one.held_until_us, one.sent_us, one.failing_since_us, one.off_us, one.off_reason,
        )
        for one in lanes
    ]  # fmt: skip
    await connection.execute(_WRITE, *zip(*rows, strict=True))


async def add(connection: asyncpg.Connection, new: Sequence[NewDelivery], now_us: int) -> None:
    """Writes pending deliveries under numbers that their locked lanes have given."""
    if not new:
        return
    rows = [(*one.lane, one.number, one.key, one.event, one.type, one.subject, one.payload) for one in new]
    await connection.execute(_ADD, *zip(*rows, strict=True), now_us)


async def pending(connection: asyncpg.Connection, lane: Lane, limit: int) -> list[PendingRow]:
    """The first pending deliveries, in order."""
    return [PendingRow(*row) for row in await connection.fetch(_PENDING, *_key(lane), limit)]


async def pending_of(
    connection: asyncpg.Connection, lane: Lane, numbers: Sequence[int]
) -> dict[int, tuple[str, int, int | None]]:
    """Message ids, tries, and when the first one was, of those of these that are pending, by number."""
    rows = await connection.fetch(_OF_NUMBERS, *_key(lane), numbers)
    return {number: (message_id, tries, first_us) for number, message_id, tries, first_us in rows}


async def move(connection: asyncpg.Connection, lane: Lane, moved: Sequence[Moved], now_us: int) -> None:
    """Writes what became of tries."""
    if not moved:
        return
    await connection.execute(
        _MOVE,
        *_key(lane),
        [one.number for one in moved],
        [int(one.state) for one in moved],
        [one.tries for one in moved],
        [one.error for one in moved],
        now_us,
        [one.next_try_us for one in moved],
    )


async def kill(connection: asyncpg.Connection, lane: Lane, reason: str, now_us: int, *, before_us: int) -> int:
    """Gives up what is pending and was written before; how many."""
    return _count(await connection.execute(_KILL, *_key(lane), reason, now_us, before_us))


async def head_us(connection: asyncpg.Connection, lane: Lane) -> int | None:
    """When the first pending delivery may be tried; None: there is none."""
    found: int | None = await connection.fetchval(_HEAD, *_key(lane))
    return found


async def try_soon(connection: asyncpg.Connection, lane: Lane, now_us: int) -> None:
    """Ends the rest of whatever is pending."""
    await connection.execute(_SOON, *_key(lane), now_us)


async def revive(connection: asyncpg.Connection, lane: Lane, numbers: Sequence[int], now_us: int) -> int:
    """Makes closed deliveries pending again; how many."""
    return _count(await connection.execute(_REVIVE, *_key(lane), numbers, now_us))


async def dead(connection: asyncpg.Connection, lane: Lane, limit: int) -> list[int]:
    """The numbers of dead deliveries, the oldest first."""
    return [row["number"] for row in await connection.fetch(_DEAD, *_key(lane), limit)]


async def known(connection: asyncpg.Connection, lane: Lane, numbers: Sequence[int]) -> int:
    """How many of these numbers there are."""
    count: int = await connection.fetchval(_KNOWN, *_key(lane), numbers)
    return count


async def list_page(
    connection: asyncpg.Connection, key: LaneKey, state: int, *, before: int, limit: int
) -> list[DeliveryRow]:
    """Deliveries of a lane, the newest first, from before a number on; `state` 0: all."""
    if state:
        rows = await connection.fetch(_LIST_STATE, *key, before, limit, state)
    else:
        rows = await connection.fetch(_LIST, *key, before, limit)
    return [_delivery_of(row) for row in rows]


def _key(lane: Lane) -> LaneKey:
    return lane.org, lane.no, int(lane.channel)


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
