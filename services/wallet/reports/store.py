"""What reports read. Nothing is stored for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

import asyncpg

EXPIRES_WITHIN: Final = timedelta(days=7)
"""How long before its expiry a grant is a concern."""
IDLE_AFTER: Final = timedelta(hours=24)
"""How long a lease may hold money without moving any."""
RECLAIMED_WITHIN: Final = timedelta(hours=24)
"""How long a reclaimed lease is a concern."""
STUCK_AFTER: Final = timedelta(hours=24)
"""How long a recharge may be pending."""
_ORGS: Final = "SELECT org FROM directories WHERE org > $1 ORDER BY org LIMIT $2"
_ZONES: Final = """
SELECT org, time_zone, min(created_at) FROM wallets WHERE org = ANY($1::text[])
GROUP BY org, time_zone ORDER BY org, time_zone
"""
# $1: an organisation, or NULL for all. $2, $3: wallet and reference that the page comes behind. $4: now. $5: the edge,
# which is the span before or after it. Both are named here, since not every kind does.
_PAGE: Final = """
SELECT c.wallet, c.reference, c.amount_nanos, w.currency, c.at, c.detail FROM ({found}) AS c
JOIN wallets w ON w.org = c.org AND w.name = c.wallet
WHERE ($1::text IS NULL OR c.org = $1) AND (c.org, c.wallet, c.reference) > (split_part($2, '/', 2), $2, $3)
    AND $4::timestamptz IS NOT NULL AND $5::timestamptz IS NOT NULL
ORDER BY c.org, c.wallet, c.reference LIMIT $6
"""
_EXPIRING: Final = """
SELECT org, wallet, name AS reference, free_nanos + leased_nanos AS amount_nanos, expires_at AS at, '' AS detail
FROM grants WHERE free_nanos > 0 AND expires_at > $4 AND expires_at <= $5
"""
_LEASED: Final = """
SELECT org, wallet, holder AS reference, extended_nanos - captured_nanos - returned_nanos AS amount_nanos,
    flow_at AS at, {detail} AS detail
FROM leases WHERE {which}
"""
_RECLAIMED: Final = """
SELECT org, wallet, holder || ' epoch ' || epoch AS reference, reclaimed_nanos AS amount_nanos, ended_at AS at,
    reason AS detail
FROM lease_epochs WHERE ended_at > $5
"""
_RECHARGES: Final = """
SELECT org, wallet, name AS reference, amount_nanos, created_at AS at, {detail} AS detail
FROM recharges WHERE {which}
"""


class Kind(Enum):
    """What a concern is about: its statement, and how far from now its edge is."""

    GRANT_EXPIRING = (_EXPIRING, EXPIRES_WITHIN)
    LEASE_QUARANTINED = (
        _LEASED.format(detail="quarantine", which="quarantine IS NOT NULL"),
        timedelta(0),
    )
    LEASE_IDLE = (
        _LEASED.format(
            detail="''",
            which="quarantine IS NULL AND extended_nanos - captured_nanos > returned_nanos AND flow_at < $5",
        ),
        -IDLE_AFTER,
    )
    LEASE_RECLAIMED = (_RECLAIMED, -RECLAIMED_WITHIN)
    RECHARGE_STUCK = (
        _RECHARGES.format(detail="reason", which="state = 'PENDING' AND problem = '' AND created_at < $5"),
        -STUCK_AFTER,
    )
    RECHARGE_PROBLEM = (_RECHARGES.format(detail="problem", which="problem <> ''"), timedelta(0))


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that a person should know of; the amount in nano-units."""

    wallet: str
    reference: str
    amount: int
    currency: str
    at: datetime
    detail: str


async def orgs(connection: asyncpg.Connection, after: str, limit: int) -> list[str]:
    """Organisations by id, from behind `after`."""
    return [row[0] for row in await connection.fetch(_ORGS, after, limit)]


async def zones(connection: asyncpg.Connection, of: Sequence[str]) -> list[tuple[str, str, datetime]]:
    """Org, zone and since when, of these organisations' wallets."""
    return [(org, zone, since) for org, zone, since in await connection.fetch(_ZONES, of)]


async def concerns(
    connection: asyncpg.Connection, org: str | None, kind: Kind, *, after: tuple[str, str], now: datetime, limit: int
) -> list[Concern]:
    """Concerns of a kind by organisation, wallet and reference, from behind `after`."""
    found, span = kind.value
    rows = await connection.fetch(_PAGE.format(found=found), org, *after, now, now + span, limit)
    return [Concern(*row) for row in rows]
