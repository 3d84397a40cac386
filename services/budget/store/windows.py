"""What budgets' windows have used, read without deciding on them."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from services.budget.domain.budgets import Budget
from services.budget.domain.model import Carry

_COUNTERS: Final = """
SELECT c.budget_no, c.window_key, c.spent, c.reserved, c.carried, c.rises
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k (org, budget_no, window_key)
JOIN counters c ON c.org = k.org AND c.budget_no = k.budget_no AND c.window_key = k.window_key
"""
_CROSSED: Final = """
SELECT c.budget_no, array_agg(DISTINCT c.threshold ORDER BY c.threshold) AS thresholds
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k (org, budget_no, window_key)
JOIN crossings c ON c.org = k.org AND c.budget_no = k.budget_no AND c.window_key = k.window_key
GROUP BY 1
"""
_BEGIN: Final = """
INSERT INTO counters (org, budget_no, window_key, carried, carry_from, carry_base, carry_cap)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING
"""


class Row(NamedTuple):
    """A window's row."""

    spent: int
    reserved: int
    carried: int
    rises: int


Key = tuple[str, int, int]
"""org, budget number, window key."""


async def read(connection: asyncpg.Connection, keys: Sequence[Key]) -> dict[tuple[int, int], Row]:
    """The rows that there are, by budget and window."""
    rows = await connection.fetch(_COUNTERS, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys])
    return {(no, key): Row(*rest) for no, key, *rest in rows}


async def crossed(connection: asyncpg.Connection, keys: Sequence[Key]) -> dict[int, list[int]]:
    """The thresholds that use has reached, by budget."""
    rows = await connection.fetch(_CROSSED, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys])
    return {row["budget_no"]: list(row["thresholds"]) for row in rows}


async def begin(connection: asyncpg.Connection, budget: Budget, key: int, carried: int, carry: Carry | None) -> None:
    """Makes a window's row if it is missing. The caller holds the organisation's row against decisions."""
    rest = carry if carry is not None else (None, None, None)
    await connection.execute(_BEGIN, budget.org, budget.no, key, carried, *rest)
