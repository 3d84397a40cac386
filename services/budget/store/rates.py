"""The stored copy of metering's rate table."""

from typing import Final

import asyncpg

_LOAD: Final = "SELECT version, content FROM rate_table"
_SAVE: Final = """
INSERT INTO rate_table (version, content) VALUES ($1, $2)
ON CONFLICT (one) DO UPDATE SET version = excluded.version, content = excluded.content
"""


async def load(pool: asyncpg.Pool) -> tuple[str, bytes] | None:
    """The table's version and content; None: none was ever stored."""
    row = await pool.fetchrow(_LOAD)
    return (row["version"], row["content"]) if row else None


async def save(pool: asyncpg.Pool, version: str, content: bytes) -> None:
    """Replaces the table."""
    await pool.execute(_SAVE, version, content)
