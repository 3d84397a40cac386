"""Reservations and what decides on their expiry, outside of batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget.domain.model import ExtendItem, Reservation
from services.budget.store.batch import reservation_of

_GET: Final = "SELECT * FROM reservations WHERE org = $1 AND id = $2"
SCANNED_MAX: Final = 20_000
"""The most reservations that one page of a list looks at."""
_EXTENSIONS: Final = """
SELECT e.org, e.request_id, e.reservation, e.payload_hash FROM unnest($1::text[], $2::text[]) AS k (org, request_id)
JOIN reservation_extensions e ON e.org = k.org AND e.request_id = k.request_id
"""
_ADD_EXTENSIONS: Final = """
INSERT INTO reservation_extensions (org, request_id, reservation, payload_hash, extended_us)
SELECT *, $5::bigint FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
    AS n (org, request_id, reservation, payload_hash) ORDER BY org, request_id
ON CONFLICT DO NOTHING RETURNING 1
"""
# By the key, which every reservation has anyway: an index for lists would be paid for by every spend.
_LIST: Final = f"""
SELECT * FROM (
    SELECT * FROM reservations WHERE org = $1 AND id > $2 ORDER BY id LIMIT {SCANNED_MAX}
) AS r
WHERE (r.subject = $3 OR ($4 AND r.subject > $3 || '/' AND r.subject < $3 || '0'))
    AND (cardinality($5::bigint[]) = 0 OR r.state = ANY($5::bigint[])) AND NOT ($6 AND r.settled_events > 0)
ORDER BY r.id LIMIT $7
"""  # noqa: S608 - a constant
_LAST_LOOKED_AT: Final = f"""
SELECT id FROM reservations WHERE org = $1 AND id > $2 ORDER BY id OFFSET {SCANNED_MAX - 1} LIMIT 1
"""  # noqa: S608 - a constant
# What waits for an approval ends with it.
_OVERDUE: Final = """
SELECT r.org, r.id, r.expires_us < coalesce(least($1, h.through_us - $3), $1) AS proved
FROM reservations r LEFT JOIN (
    SELECT org, min(delivered_through_us) AS through_us FROM relay_held_back GROUP BY org
) AS h ON h.org = r.org
WHERE r.state = 1 AND r.approval <> 1 AND r.expires_us < greatest($1, $2)
    AND r.expires_us < greatest(coalesce(least($1, h.through_us - $3), $1), $2)
ORDER BY r.expires_us LIMIT $4
"""
_WATERMARK: Final = """
INSERT INTO relay_watermark AS w (relay, delivered_through_us, updated_us)
VALUES ($1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ON CONFLICT (relay) DO UPDATE
SET delivered_through_us = greatest(w.delivered_through_us, excluded.delivered_through_us),
    updated_us = excluded.updated_us
RETURNING w.delivered_through_us
"""
_FREE: Final = "DELETE FROM relay_held_back WHERE relay = $1 AND org <> ALL($2::text[])"
_HOLD_BACK: Final = """
INSERT INTO relay_held_back (relay, org, delivered_through_us)
SELECT $1, * FROM unnest($2::text[], $3::bigint[]) AS n (org, through_us) ORDER BY org
ON CONFLICT (org, relay) DO UPDATE SET delivered_through_us = excluded.delivered_through_us
"""
_DELIVERED: Final = """
SELECT min(delivered_through_us) AS through_us, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us
FROM relay_watermark
"""


async def get(connection: asyncpg.Connection, org: str, id_: str) -> Reservation | None:
    """A reservation as it stands."""
    row = await connection.fetchrow(_GET, org, id_)
    return reservation_of(row) if row else None


async def find_extensions(
    connection: asyncpg.Connection, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str, bytes]]:
    """Extensions that were made before, by organisation and request id: the reservation's id and the payload's hash."""
    rows = await connection.fetch(_EXTENSIONS, [k[0] for k in keys], [k[1] for k in keys])
    return {(row["org"], row["request_id"]): (row["reservation"], row["payload_hash"]) for row in rows}


async def add_extensions(connection: asyncpg.Connection, made: Sequence[ExtendItem], at_us: int) -> bool:
    """Notes extensions under their request ids; False: one was made by another transaction meanwhile."""
    rows = await connection.fetch(
        _ADD_EXTENSIONS,
        [x.org for x in made],
        [x.request_id for x in made],
        [x.id for x in made],
        [x.payload_hash for x in made],
        at_us,
    )
    return len(rows) == len(made)


@dataclass(frozen=True, slots=True)
class Query:
    """Which reservations to list.

    Attributes:
        org: The organisation.
        subject: Whose.
        descendants: Those below it, too.
        states: Only in these states; empty: any.
        unsettled: Only those that no event has settled.
    """

    org: str
    subject: str
    descendants: bool
    states: tuple[int, ...]
    unsettled: bool


async def list_page(
    connection: asyncpg.Connection, query: Query, after: str, limit: int
) -> tuple[list[Reservation], str]:
    """The next reservations by id, and the id to go on after; empty: there are no more.

    At most `SCANNED_MAX` rows are looked at for one page, so a page may be short.
    """
    rows = await connection.fetch(
        _LIST, query.org, after, query.subject, query.descendants, list(query.states), query.unsettled, limit
    )
    found = [reservation_of(row) for row in rows]
    if len(found) == limit:
        return found, found[-1].id
    last: str | None = await connection.fetchval(_LAST_LOOKED_AT, query.org, after)
    return found, last or ""


async def overdue(
    connection: asyncpg.Connection, delivered_us: int, forced_us: int, grace_us: int, limit: int
) -> list[tuple[str, str, bool]]:
    """Open reservations to expire, the oldest first: org, id, and whether all usage that could settle it is applied.

    Args:
        connection: A connection.
        delivered_us: What ran out before it is proved, but in organisations that are held back.
        forced_us: What ran out before it has waited long enough, proved or not.
        grace_us: How long an organisation that is held back waits beyond its own instant.
        limit: The most.
    """
    return [tuple(row) for row in await connection.fetch(_OVERDUE, delivered_us, forced_us, grace_us, limit)]


async def set_delivered(
    connection: asyncpg.Connection, relay: str, through_us: int, held_back: Mapping[str, int]
) -> None:
    """Notes that a relay has delivered all usage that began to be recorded before this instant; it never goes back.

    Args:
        connection: In a transaction.
        relay: Whose word it is.
        through_us: The instant.
        held_back: Organisations with usage that was not delivered, and their own instants. They replace those of an
            earlier word; a word that is older than the last one changes nothing.
    """
    if await connection.fetchval(_WATERMARK, relay, through_us) != through_us:
        return
    await connection.execute(_FREE, relay, list(held_back))
    if held_back:
        await connection.execute(_HOLD_BACK, relay, list(held_back), list(held_back.values()))


async def delivered(connection: asyncpg.Connection) -> tuple[int | None, int]:
    """Up to when every relay that was ever heard of has delivered; None: none was. And the time, in microseconds."""
    row = await connection.fetchrow(_DELIVERED)
    return row["through_us"], row["now_us"]
