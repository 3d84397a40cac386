"""The SQL of retention: months of events that are old enough are dropped; their sums stay."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

import asyncpg

from services.kit.errors import Code, PurseError

TIMEOUT_S: Final = 600
"""The longest that dropping a month may take: its events are counted first."""

_DROP: Final = "SELECT outcome, month FROM drop_usage_month($1)"
_EVENTS_FROM: Final = "SELECT events_from FROM usage_retention WHERE org = '-'"


class Dropped(NamedTuple):
    """What became of the oldest month that is due.

    Attributes:
        outcome: NONE_DUE; DROPPED; BUSY: ask again; UNDELIVERED, UNRATED, UNSEALED or SUMS_DIFFER: why it stays.
        month: When the month begins; None with NONE_DUE and with a BUSY that another replica is the reason of.
    """

    outcome: str
    month: datetime | None


async def drop_month(pool: asyncpg.Pool, kept: timedelta) -> Dropped:
    """Drops the oldest month of events, if it ended longer ago than `kept`. Safe with several replicas."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
        return Dropped(*await connection.fetchrow(_DROP, kept, timeout=TIMEOUT_S + 5))


async def require_events(connection: asyncpg.Connection, since: datetime) -> None:
    """Refuses what only events answer where they were dropped, instead of answering less than there was.

    Raises:
        PurseError: EVENTS_DROPPED, with the time from which on there are events.
    """
    events_from: datetime = await connection.fetchval(_EVENTS_FROM)
    if since < events_from:
        first = events_from.isoformat().replace("+00:00", "Z")
        raise PurseError(
            Code.FAILED_PRECONDITION,
            "EVENTS_DROPPED",
            f"events before {first} were dropped by age; ask from then on, or ask what sums tell: whole quarters of an "
            "hour by subject, provider, model and operation",
            metadata={"events_from": first},
        )
