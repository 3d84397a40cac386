"""What is allocated out of budgets, and the stored answers to requests to allocate."""

from collections.abc import Sequence
from typing import Final

import asyncpg

_KEPT_US: Final = 7 * 86_400 * 1_000_000
_FORGOTTEN_MAX: Final = 100
_ALLOCATED: Final = """
SELECT allocated_from, sum(limit_amount) AS amount, count(*) AS budgets FROM budgets
WHERE org = $1 AND allocated_from = ANY($2::text[]) AND allocated_from <> ''
    AND deleted_us IS NULL AND effective_until_us IS NULL
GROUP BY 1
"""
_ANSWER: Final = "SELECT payload_hash, answer FROM allocate_requests WHERE org = $1 AND id = $2 AND created_us > $3"
_FORGET: Final = f"""
DELETE FROM allocate_requests WHERE org = $1 AND id IN (
    SELECT id FROM allocate_requests WHERE org = $1 AND created_us <= $2
    ORDER BY id <> $3, created_us LIMIT {_FORGOTTEN_MAX})
"""  # noqa: S608 - a constant
_KEEP: Final = """
INSERT INTO allocate_requests (org, id, payload_hash, answer, created_us) VALUES ($1, $2, $3, $4, $5)
"""


async def allocated(connection: asyncpg.Connection, org: str, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """What is allocated out of budgets, and to how many; those without allocations are left out."""
    rows = await connection.fetch(_ALLOCATED, org, names)
    return {row["allocated_from"]: (int(row["amount"]), row["budgets"]) for row in rows}


async def answer(connection: asyncpg.Connection, org: str, id_: str, now_us: int) -> tuple[bytes, bytes] | None:
    """The hash of the request that was answered under this id, and its answer; None: none in the last 7 days."""
    row = await connection.fetchrow(_ANSWER, org, id_, now_us - _KEPT_US)
    return (row["payload_hash"], row["answer"]) if row else None


async def keep(
    connection: asyncpg.Connection, org: str, id_: str, *, payload_hash: bytes, content: bytes, now_us: int
) -> None:
    """Stores an answer, and forgets some that are old enough. The caller holds the organisation's row."""
    await connection.execute(_FORGET, org, now_us - _KEPT_US, id_)
    await connection.execute(_KEEP, org, id_, payload_hash, content, now_us)
