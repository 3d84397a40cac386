"""The SQL around recording: rate cards, partitions, keys that may be forgotten, the relay's name."""

from datetime import datetime
from typing import Final

import asyncpg

from services.kit.errors import Code, PurseError
from services.kit.rating import RateTable
from services.metering.domain.cards import RateCard
from services.metering.domain.usage import KEYS_KEPT

ALL_ORGS: Final = "-"
"""What stands for every organisation in the column `org`."""
FORGET_MAX: Final = 10_000
"""The most keys forgotten at once."""
_FORGET: Final = """
DELETE FROM usage_keys k USING (
    SELECT org, key FROM usage_keys WHERE recorded_at < $1 LIMIT $2
) AS old WHERE k.org = old.org AND k.key = old.key
"""
_LOCK_CARDS: Final = "SELECT pg_advisory_xact_lock(hashtext('rate_cards'))"
_ADD_CARD: Final = """
INSERT INTO rate_cards (org, version, content, effective_from)
SELECT $1, $2, $3, CASE WHEN EXISTS (SELECT FROM rate_cards WHERE org = $1)
    THEN clock_timestamp() + make_interval(secs => $4) ELSE 'epoch'::timestamptz END
ON CONFLICT DO NOTHING
"""
_CARD_TIMES: Final = "SELECT version, effective_from FROM rate_cards WHERE org = $1"
_CARD_CONTENTS: Final = "SELECT version, content FROM rate_cards WHERE org = $1 AND version = ANY($2::text[])"


async def ensure_partitions(pool: asyncpg.Pool, first_at: datetime, last_at: datetime) -> int:
    """Makes the missing partitions of these months; returns how many were made."""
    made: int = await pool.fetchval("SELECT ensure_usage_partitions($1, $2)", first_at, last_at)
    return made


async def forget_keys(pool: asyncpg.Pool, now: datetime) -> bool:
    """Forgets up to 10,000 keys that no acceptable event can have; returns whether there may be more."""
    status: str = await pool.execute(_FORGET, now - KEYS_KEPT, FORGET_MAX)
    return int(status.rpartition(" ")[2]) == FORGET_MAX


async def relay_name(pool: asyncpg.Pool) -> str:
    """The name under which this database's usage is relayed."""
    name: str | None = await pool.fetchval("SELECT name FROM relay_identity WHERE org = $1", ALL_ORGS)
    if name is None:
        raise PurseError(Code.FAILED_PRECONDITION, "NO_IDENTITY", "the database has no relay identity; migrate it")
    return name


async def add_card(pool: asyncpg.Pool, table: RateTable, delay_s: float) -> bool:
    """Publishes a table unless it was before; the first is in force for all time, later ones after `delay_s`."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(_LOCK_CARDS)
        status: str = await connection.execute(_ADD_CARD, ALL_ORGS, table.version, table.to_bytes(), delay_s)
    return status == "INSERT 0 1"


async def load_cards(pool: asyncpg.Pool, tables: dict[str, RateTable]) -> list[RateCard]:
    """All rate cards. `tables` are those that are known, by version; what is missing is read and added to it."""
    async with pool.acquire() as connection:
        times = await connection.fetch(_CARD_TIMES, ALL_ORGS)
        missing = [row["version"] for row in times if row["version"] not in tables]
        if missing:
            for row in await connection.fetch(_CARD_CONTENTS, ALL_ORGS, missing):
                tables[row["version"]] = RateTable.from_bytes(row["content"])
    return [RateCard(row["version"], row["effective_from"], tables[row["version"]]) for row in times]
