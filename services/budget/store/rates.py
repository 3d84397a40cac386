"""The stored copy of metering's rate table, and of the price cards that are laid over it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

_LOAD: Final = "SELECT version, content FROM rate_table"
_SAVE: Final = """
INSERT INTO rate_table (version, content) VALUES ($1, $2)
ON CONFLICT (one) DO UPDATE SET version = excluded.version, content = excluded.content
"""
_OWN: Final = "SELECT org, revision, version, effective_from, usable_from, content FROM own_rates ORDER BY revision"
# Several replicas read the same cards.
_SAVE_OWN: Final = """
INSERT INTO own_rates (org, revision, version, effective_from, usable_from, content)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
"""


class OwnRates(NamedTuple):
    """A price card of an organisation, or of the installation (`*`)."""

    org: str
    revision: int
    version: str
    effective_from: datetime
    usable_from: datetime
    content: bytes


async def load(pool: asyncpg.Pool) -> tuple[str, bytes] | None:
    """The table's version and content; None: none was ever stored."""
    row = await pool.fetchrow(_LOAD)
    return (row["version"], row["content"]) if row else None


async def save(pool: asyncpg.Pool, version: str, content: bytes) -> None:
    """Replaces the table."""
    await pool.execute(_SAVE, version, content)


async def load_own(pool: asyncpg.Pool) -> list[OwnRates]:
    """All price cards, in the order of publishing."""
    return [OwnRates(*row) for row in await pool.fetch(_OWN)]


async def save_own(pool: asyncpg.Pool, cards: Sequence[OwnRates]) -> None:
    """Adds price cards that are not there yet."""
    await pool.executemany(_SAVE_OWN, cards)
