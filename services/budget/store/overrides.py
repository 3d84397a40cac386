"""Temporary raises of limits: written once, never changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.budget.domain.budgets import Budget, Raise

Raises = Mapping[tuple[str, str], Sequence[Raise]]
"""By the budget's subject and id."""

_MEMORY_US: Final = 200 * 86_400 * 1_000_000
"""How long after its end a raise still matters: late usage of 90 days, in a window of a quarter."""
_COLUMNS: Final = "id, subject, budget_id, amount, from_us, until_us, reason, granted_by, approval, payload_hash"
_RAISES: Final = """
SELECT subject, budget_id, amount, from_us, until_us FROM overrides
WHERE org = $1 AND until_us > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2
ORDER BY from_us, id
"""
_RAISES_OF: Final = """
SELECT o.subject, o.budget_id, o.amount, o.from_us, o.until_us
FROM unnest($3::text[], $4::text[]) AS k (subject, budget_id)
JOIN overrides o ON o.org = $1 AND o.subject = k.subject AND o.budget_id = k.budget_id
WHERE o.until_us > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2
ORDER BY o.from_us, o.id
"""
_GET: Final = f"SELECT {_COLUMNS} FROM overrides WHERE org = $1 AND id = $2"  # noqa: S608 - a constant
_LIST: Final = f"""
SELECT {_COLUMNS} FROM overrides
WHERE org = $1 AND subject = $2 AND budget_id = $3 AND from_us >= $4 AND (from_us, id) < ($5, $6)
ORDER BY from_us DESC, id DESC LIMIT $7
"""  # noqa: S608 - a constant
_ADD: Final = """
INSERT INTO overrides (org, id, subject, budget_id, amount, from_us, until_us, reason, granted_by, approval, credential,
    payload_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""
_RAISED: Final = """
UPDATE budgets SET generation = generation + 1
WHERE org = $1 AND subject = $2 AND budget_id = $3 AND deleted_us IS NULL
"""


@dataclass(frozen=True, slots=True)
class Override:
    """A raise, as its row has it."""

    id: str
    subject: str
    budget_id: str
    amount: int
    from_us: int
    until_us: int
    reason: str
    granted_by: str
    approval: str
    payload_hash: bytes

    @property
    def raises(self) -> Raise:
        """Its part that decides."""
        return Raise(self.amount, self.from_us, self.until_us)


async def raises_of(connection: asyncpg.Connection, org: str, names: Iterable[tuple[str, str]] | None = None) -> Raises:
    """Raises that may still matter, the earliest first: of these budgets by subject and id, or of all."""
    if names is None:
        rows = await connection.fetch(_RAISES, org, _MEMORY_US)
    else:
        unique = sorted(set(names))
        rows = await connection.fetch(_RAISES_OF, org, _MEMORY_US, [n[0] for n in unique], [n[1] for n in unique])
    found: dict[tuple[str, str], list[Raise]] = {}
    for of, id_, amount, from_us, until_us in rows:
        found.setdefault((of, id_), []).append(Raise(amount, from_us, until_us))
    return found


async def get(connection: asyncpg.Connection, org: str, id_: str) -> Override | None:
    """A raise by the id of its request."""
    row = await connection.fetchrow(_GET, org, id_)
    return Override(*row) if row else None


async def list_page(
    connection: asyncpg.Connection, budget: Budget, before: tuple[int, str], limit: int
) -> list[Override]:
    """Raises of a budget since it was created, the newest first, from behind `before`."""
    rows = await connection.fetch(_LIST, budget.org, budget.subject, budget.id, budget.created_us, *before, limit)
    return [Override(*row) for row in rows]


async def add(connection: asyncpg.Connection, org: str, override: Override, credential: str) -> None:
    """Writes a raise, and begins a new generation of the budget's limit. The caller holds the organisation's row."""
    await connection.execute(
        _ADD,
        org,
        override.id,
        override.subject,
        override.budget_id,
        override.amount,
        override.from_us,
        override.until_us,
        override.reason,
        override.granted_by,
        override.approval,
        credential,
        override.payload_hash,
    )
    await connection.execute(_RAISED, org, override.subject, override.budget_id)
